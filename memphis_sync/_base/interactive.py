"""Whether a person types the program in, who may run the same lines again."""

from __future__ import annotations

import sys


def is_interactive() -> bool:
    """Whether there is a prompt, of Python's or IPython's, or there are the cells of a notebook."""
    return hasattr(sys, "ps1")
