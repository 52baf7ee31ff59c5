"""
Threads, the private event loop, waiting, fork and exit: all that a client needs of its process.

Everything that belongs to one process hangs off one Runtime, so that a fork can swap it as a whole.

Lock order (take from left to right, never back): client caches (once per key) -> Consumer._thread_lock ->
Runtime._data_lock -> Runtime._close_lock -> the data link's own. None is taken by a destructor, by a callback of the
loop, or by a non-blocking produce.
"""

from __future__ import annotations

from memphis_sync._runtime.runtime import Runtime

__all__ = ["Runtime"]
