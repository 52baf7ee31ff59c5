"""
Threads, the private event loop, waiting, fork and exit: all that a client needs of its process.

Everything that belongs to one process hangs off one Session, so that a fork can swap it as a whole.

Lock order (take from left to right, never back): client caches (once per key) -> Consumer._consuming_lock ->
Session._connecting or _opening -> Session._ending -> the data link's own. None is taken by a callback of the loop. A
signal handler or a destructor may come while its own thread holds one: the long ones are a Section, which refuses it,
the short ones let it in. No handler of the program's logging, and no callable of the user's, is called under any of
them.
"""

from __future__ import annotations

from memphis_sync._session.per_process import SessionPerProcess
from memphis_sync._session.session import Session

__all__ = ["Session", "SessionPerProcess"]
