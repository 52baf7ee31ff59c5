"""Parts of a Consumer: its threads, how much they take, reading to the end, what is sent again or given back."""
