"""
Waits of a process that gevent has patched, so that a waiting greenlet lets the others run.

The client's threads are the interpreter's, and a greenlet of the program's cannot be woken by them: what a hub runs is
its own thread's business. So a greenlet that waits looks whether it may go on, and leaves its turn until the bell of
the C core has rung, as it does for each answer of the broker's. One thread of the process hears the bell, and tells the
hubs that have somebody waiting. A ring that nobody hears is made up for after NET_S.

Source: ``loop.async_()``, ``get_hub()``, ``gevent.event.Event`` and ``gevent.selectors`` of gevent 23 to 26.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._base import native, waits
from memphis_sync._base.threads import start_thread
from memphis_sync._core import bell_count, ring_bell, wait_as_greenlets, wait_bell
from memphis_sync._session import fork
from memphis_sync.errors import ConfigurationError, ForkedError, OwnThreadError

if TYPE_CHECKING:
    import selectors

NET_S = 0.05
HEAR_NS = 3600 * 10**9
_REPLACED = ("threading", "_thread", "thread", "socket", "select", "selectors", "ssl", "time")
_BY_EVENTLET = ("thread", "socket", "select", "time", "os")


class _Waiters:
    """The greenlets of one hub that wait."""

    def __init__(self, gevent: Any, hub: Any) -> None:
        self._new_event = gevent.event.Event
        self.hub = hub
        self.count = 0
        self.seen = -1  # how often the bell had rung when one of them was about to look
        self.rung = self._new_event()
        # Without a reference of the loop's: a program whose last greenlet has ended is over.
        self._watcher = hub.loop.async_(ref=False)
        self._watcher.start(self._on_ring)

    def wait(self, seconds: float) -> None:
        """
        Until a ring, or a little longer than that long. Not with the timeout of an Event: that is an exception, which
        reaches a later wait when an interruption comes at the same moment.
        """
        timer = self.hub.loop.timer(seconds)
        timer.start(self._on_ring)
        try:
            self.rung.wait()
        finally:
            timer.stop()
            timer.close()

    def tell(self) -> None:
        """Wakes them. From any thread."""
        with contextlib.suppress(Exception):  # the hub is gone, with all who waited
            self._watcher.send()

    def close(self) -> None:
        """Nobody waits there any more."""
        self._watcher.stop()
        self._watcher.close()
        self.hub = None

    def _on_ring(self) -> None:
        self.seen = bell_count()
        rung, self.rung = self.rung, self._new_event()
        rung.set()


class Waits:
    """
    ``waits.Greenlets`` for gevent.

    Args:
        gevent: The package, with its modules event, hub and selectors imported.
    """

    def __init__(self, gevent: Any) -> None:
        self._gevent = gevent
        self._hub_if_any = gevent._hub_local.get_hub_if_exists
        self.current = gevent.getcurrent
        self.ring = ring_bell
        self.sleep = gevent.sleep
        self._begin()

    def _begin(self) -> None:
        """Also in a child of the process, which has the hub of the thread that forked and none of the threads."""
        self._generation = fork.fork_generation()
        self._mine = native.Local()
        self._waiting: dict[_Waiters, None] = {}  # each step on it is atomic
        self._go_on = native.Lock()  # released when there is somebody to hear the bell for
        self._go_on.acquire()
        self._is_started = False

    def is_greenlet(self) -> bool:
        """A thread without a hub runs nothing that could be held up."""
        return self._hub_if_any() is not None

    def end_thread(self) -> None:
        """See waits.Greenlets."""
        hub = self._hub_if_any()
        if hub is not None:  # made by the program's code there, and its loop has descriptors
            waiters: Optional[_Waiters] = self._mine.__dict__.pop("waiters", None)
            if waiters is not None:
                waiters.close()
            hub.destroy(destroy_loop=True)

    def forbid_in_hub(self, what: str) -> None:
        """See waits.Greenlets."""
        if self.current() is self._hub_if_any():
            raise OwnThreadError(
                f"{what} was called in a callback of gevent's hub, which runs all greenlets and must not wait for one; "
                "call it in a greenlet (gevent.spawn)"
            )

    def selector(self) -> selectors.BaseSelector:
        """See waits.Greenlets."""
        made: selectors.BaseSelector = self._gevent.selectors.GeventSelector()
        return made

    def pause_ns(self, until_ns: int) -> None:
        """pause() for the C core."""
        self.pause(until_ns / 1e9)

    def pause(self, until: float) -> None:
        """
        See waits.Greenlets.

        Raises:
            OwnThreadError: Called in a callback of the hub's.
            ForkedError: In the child of a fork that happened meanwhile: what was waited for is the parent's.
        """
        hub = self._hub_if_any()
        if hub is None:
            return
        self.forbid_in_hub("a call that waits")
        if fork.fork_generation() != self._generation:
            self._begin()
        generation = self._generation
        waiters = self._of(hub)
        waiters.count += 1
        self._waiting[waiters] = None
        try:
            self._hear()
            if waiters.seen != bell_count():  # it has rung since this greenlet looked, or may have
                waiters.seen = bell_count()
                self.sleep(0)
            else:
                waiters.wait(min(max(until - time.monotonic(), 0), NET_S))
        finally:
            waiters.count -= 1
            if not waiters.count:
                self._waiting.pop(waiters, None)
        if fork.fork_generation() != generation:
            raise ForkedError("this process was forked while the call was waiting; it goes on in the parent")

    def _of(self, hub: Any) -> _Waiters:
        waiters: Optional[_Waiters] = getattr(self._mine, "waiters", None)
        if waiters is None or waiters.hub is not hub:
            waiters = self._mine.waiters = _Waiters(self._gevent, hub)
        return waiters

    def _hear(self) -> None:
        if not self._is_started:
            self._is_started = True
            start_thread("memphis-bell", self._listen)
        try:
            self._go_on.release()
        except RuntimeError:  # it is hearing
            return

    def _listen(self) -> None:
        seen, go_on = bell_count(), self._go_on
        while True:
            go_on.acquire()
            while self._waiting:
                seen = wait_bell(seen, HEAR_NS)
                for waiters in list(self._waiting):
                    waiters.tell()


_decided_in: Optional[int] = None  # the generation; PyPy takes it only above its first use


def prepare() -> None:
    """
    Decides how this process waits, before the first client of it does anything. A child decides anew: what it uses of
    its parent's clients is made there, and a server may patch its workers only (``gunicorn --preload -k gevent``).

    Raises:
        ConfigurationError: eventlet has patched it, or gevent has after a client was opened.

    Source: ``is_module_patched()`` of gevent 21 to 26, ``is_monkey_patched()`` of eventlet 0.30 to 0.41.
    """
    global _decided_in  # noqa: PLW0603  once a process
    eventlet = sys.modules.get("eventlet.patcher")
    patched = [name for name in _BY_EVENTLET if eventlet is not None and eventlet.is_monkey_patched(name)]
    if patched:
        raise ConfigurationError(
            f"eventlet has patched this process's {'threading' if patched[0] == 'thread' else patched[0]}, and the "
            "client's calls would block every green thread, or wait for ever. Connect in a process that eventlet does "
            "not patch: use another worker class (gunicorn -k gevent or gthread, celery -P gevent or threads), or "
            "produce in a separate process"
        )
    monkey = sys.modules.get("gevent.monkey")
    if waits.greenlets is None and monkey is not None and any(map(monkey.is_module_patched, _REPLACED)):
        if _decided_in == fork.fork_generation():
            raise ConfigurationError(
                "gevent has patched this process after its first memphis_sync.connect(), and the calls of the clients "
                "that are open would block every greenlet. Call gevent.monkey.patch_all() before that, best as the "
                "first statement of the program"
            )
        _wait_with_gevent()
    _decided_in = fork.fork_generation()


def _wait_with_gevent() -> None:
    for module in ("_hub_local", "event", "selectors"):
        importlib.import_module(f"gevent.{module}")
    made = Waits(sys.modules["gevent"])
    waits.greenlets = made
    wait_as_greenlets(made.is_greenlet, made.pause_ns)
