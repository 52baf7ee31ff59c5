"""A module a command; see each of them."""
