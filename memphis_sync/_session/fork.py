"""
Which process an object belongs to.

A fork copies every object but no thread, so what was opened before it cannot work in the child. The C core counts forks
(also those that Python's own hooks do not see), and each public call compares.
"""

from __future__ import annotations

from memphis_sync._core import fork_generation, watch_forks
from memphis_sync.errors import ForkedError

__all__ = ["check", "fork_generation", "watch_forks"]


def check(generation: int, what: str) -> None:
    """
    Raises ForkedError when the process has forked since *generation* was read.

    Args:
        generation: What fork_generation() said when the object was made.
        what: The object, for the text.
    """
    if fork_generation() != generation:
        raise ForkedError(
            f"{what} was opened before this process was forked and stays with the parent; "
            "open a separate client in the child (memphis_sync.connect)"
        )
