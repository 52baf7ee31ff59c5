"""Parts of a Consumer: its threads, the size of portions, reading to the end, resent and given-back messages."""
