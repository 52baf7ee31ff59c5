"""Handles the requests of clients: one module per subject, and the background work."""
