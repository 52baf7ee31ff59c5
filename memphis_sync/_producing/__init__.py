"""Parts of a Producer: how it sends and checks messages, and what becomes of them while it is being registered."""
