"""A request that is answered with an error text."""

from __future__ import annotations


class RequestError(Exception):
    """An answer, not a failure of the service: the text goes to the client as it is."""
