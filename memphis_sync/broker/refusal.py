"""A request that is answered with an error text."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818  it is an answer, not a failure of the service
    """The text goes to the client as it is."""
