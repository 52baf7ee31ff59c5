"""Parts of a Producer: what happens to messages while it is being registered."""
