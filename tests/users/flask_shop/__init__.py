"""A Flask project of a user."""
