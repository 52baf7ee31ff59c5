"""
The private event loop on its own daemon thread: nats-py runs there, user code never does.

PrivateLoop says that it is closed as soon as the process has forked. The child's garbage collector would otherwise let
a StreamWriter unregister the parent's socket from the epoll set that both share, and the parent would never hear again.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Callable, Generic, Optional, TypeVar

from memphis_sync._base import native, primitives, waits
from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Sink, join, own_thread
from memphis_sync._session import fork, waiting
from memphis_sync.errors import ClosedError, DeadlineError

log = Log("memphis_sync.control")
T = TypeVar("T")
_LAST_ROUNDS = 5
_SETTLE_S = 1.0  # how long a cancelled coroutine may take to end
_STOP_S = 2.0
_STARTING_S = 0.001


class PrivateLoop(asyncio.SelectorEventLoop):
    """An event loop that belongs to one process."""

    _selector: Optional[selectors.BaseSelector]  # of asyncio's own base classes, like the next two
    _ssock: Optional[socket.socket]
    _csock: Optional[socket.socket]

    def __init__(self) -> None:
        self._generation = fork.fork_generation()
        super().__init__(native.Selector())

    def _make_self_pipe(self) -> None:
        """As asyncio does it, but with sockets of the interpreter's own: gevent's belong to the hub of their maker."""
        self._ssock, self._csock = native.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1  # type: ignore[attr-defined]
        self._add_reader(self._ssock.fileno(), self._read_from_self)  # type: ignore[attr-defined]  # of asyncio's

    def is_closed(self) -> bool:
        """True after close(), and in every process but the one that made the loop."""
        return fork.fork_generation() != self._generation or super().is_closed()

    def close_inherited(self) -> None:
        """In a forked child: closes its copies of the descriptors. The parent's epoll set stays as it is."""
        for part in (self._selector, self._ssock, self._csock):
            if part is not None:  # else it was just being closed in the parent
                part.close()


class Call(Generic[T]):
    """
    One coroutine on its way through the loop, and the lock that its caller waits on.

    It is made on the loop: one that its caller made could be left behind, never started, by an exception of a signal
    handler, and asyncio would complain at a random time.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.ticket = primitives.Lock()
        self.ticket.acquire()
        self._work = work
        self._task: Optional[asyncio.Task[T]] = None
        self._is_given_up = False

    def start(self) -> None:
        """On the loop: starts the coroutine, unless it was given up before."""
        if self._is_given_up:
            return
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._finish)

    async def _run(self) -> T:
        return await self._work()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # a caller that was interrupted never asks, and asyncio would complain at a random time
        self._release()

    def cancel(self) -> None:
        """On the loop: ends the coroutine, or keeps it from starting."""
        if self._task is not None:
            self._task.cancel()
        elif not self._is_given_up:
            self._is_given_up = True
            self._release()

    def _release(self) -> None:
        self.ticket.release()
        waits.ring()

    def result(self) -> T:
        """What it returned or raised."""
        if self._task is None or self._task.cancelled():
            raise ClosedError("the client was closed while the call was waiting")
        return self._task.result()


class LoopThread:
    """
    Thread ``memphis-loop-N`` with a PrivateLoop, started by its first use.

    Args:
        number: The N.
        sink: Takes what the thread has to log.
        failed: Told what the thread met and did not expect, by a line and the error; it goes on.
    """

    def __init__(
        self,
        number: int,
        sink: Optional[Sink] = None,
        failed: Optional[Callable[[str, BaseException], object]] = None,
    ) -> None:
        self._generation = fork.fork_generation()
        self._sink = sink
        self._failed = failed
        self._is_stopping = False
        self._is_settling = False  # only the thread itself looks at it
        self._loop = PrivateLoop()
        # On the loop: a task that nobody refers to may be collected. Those of the second set are waited for at the end.
        self._spawned: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Task[None]] = set()
        self._loop.set_exception_handler(self._on_error)
        self.name = f"memphis-loop-{number}"
        self._thread: Optional[primitives.Thread] = None
        self._may_start = deque([True])  # whoever takes it starts the thread; what others post waits for it

    def is_alive(self) -> bool:
        """Whether the thread runs in this process, or is about to."""
        thread = self._thread
        if fork.fork_generation() != self._generation:
            return False
        return not self._may_start if thread is None else thread.is_alive()

    def _start(self) -> None:
        try:
            self._may_start.pop()
        except IndexError:
            return
        try:
            self._thread = primitives.start_thread(self.name, self._run)
        except BaseException:
            self._may_start.append(True)
            raise

    def close_inherited(self) -> None:
        """See PrivateLoop."""
        self._loop.close_inherited()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: Optional[float], what: str = "the call") -> T:
        """
        Runs the coroutine that *work* makes, and waits for its result.

        Args:
            work: Called on the loop.
            timeout_s: Limit in seconds; None waits as long as the coroutine takes.
            what: The call, for error texts.

        Raises:
            DeadlineError: The limit was reached; the coroutine was cancelled.
            OwnThreadError: Called on the loop's own thread.
            ForkedError: Called in a child of the process that made the loop.
            ClosedError: The loop has ended, or ended meanwhile.
            KeyboardInterrupt: Ctrl-C; the coroutine was cancelled.
        """
        return self.end(self.begin(work, what), timeout_s, what)

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]], what: str) -> Call[T]:
        """The first half of call(), which waits for nothing."""
        waiting.forbid_on_own_thread(what)
        fork.check(self._generation, "the client")
        call = Call(work)
        try:
            self._post(call.start)
        except BaseException:
            self._cancel(call)
            raise
        return call

    def end(self, call: Call[T], timeout_s: Optional[float], what: str) -> T:
        """The second half of call(), which waits for the result."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            finished = waiting.wait(call.ticket, deadline, self.is_alive)
        except BaseException:
            self._cancel(call)
            raise
        if not finished and self.is_alive():
            self._cancel(call)
            waiting.wait(call.ticket, time.monotonic() + _SETTLE_S, self.is_alive)
            raise DeadlineError(f"{what} did not end within {timeout_s} s", timeout_s=timeout_s or 0.0)
        return call.result()

    def post(self, work: Any, *args: Any) -> None:
        """Runs a plain function on the loop soon; from any thread, also from a destructor."""
        self._post(work, *args)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], *, is_awaited: bool = False) -> None:
        """
        Runs the coroutine that *work* makes, with nobody waiting for it; from any thread, also from a destructor. What
        it raises is logged.

        Args:
            work: Called on the loop.
            is_awaited: drain() waits for it.

        Raises:
            ClosedError: The loop has ended.
        """
        self._post(self._spawn, work, is_awaited)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]], is_awaited: bool) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._spawned.add(task)
        if is_awaited:
            self._awaited.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        self._awaited.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task on %s failed", self.name, exc_info=task.exception())

    async def drain(self) -> None:
        """Waits for what spawn() was told to await."""
        while self._awaited:
            await asyncio.wait(set(self._awaited))

    def begin_stop(self) -> None:
        """Has the thread end soon; stop() waits for it."""
        self._is_stopping = True
        with contextlib.suppress(ClosedError):
            self._post(self._end)

    def stop(self, timeout_s: float = _STOP_S) -> bool:
        """
        Cancels what still runs, ends the thread and closes the loop. Idempotent.

        Returns:
            False when the thread would not end in time; a log line names it then.
        """
        if fork.fork_generation() != self._generation or (self._thread is None and self._loop.is_closed()):
            return True
        if self._thread is None:
            with contextlib.suppress(IndexError):  # it is being started
                self._may_start.pop()
                self._loop.close()
                return True
        deadline = time.monotonic() + timeout_s
        while self._thread is None and time.monotonic() < deadline:
            time.sleep(_STARTING_S)
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._is_stopping = True
            with contextlib.suppress(RuntimeError):  # it has closed between the two lines
                self._loop.call_soon_threadsafe(self._end)
            join([thread], deadline)
        if thread is None or thread.is_alive():
            log.error("thread %s did not end within %.1f s", self.name, timeout_s)
            return False
        return True

    def _end(self) -> None:
        if not self._is_settling:  # a second stop() would break off what the first one left to end
            self._loop.stop()

    def _cancel(self, call: Call[Any]) -> None:
        with contextlib.suppress(ClosedError):  # a loop that has ended has cancelled everything
            self._post(call.cancel)

    def _post(self, work: Any, *args: Any) -> None:
        if self._thread is None and not self._loop.is_closed():
            self._start()
        try:
            self._loop.call_soon_threadsafe(work, *args)
        except RuntimeError as exc:
            if not self._loop.is_closed():
                raise  # of a signal handler that came in between
            raise ClosedError("the client is closed") from exc

    def _run(self) -> None:
        with own_thread(self._sink):
            self._run_loop()

    def _run_loop(self) -> None:
        loop = self._loop
        try:
            asyncio.set_event_loop(loop)
            while not self._is_stopping:
                try:
                    loop.run_forever()
                except BaseException as exc:  # noqa: BLE001  SystemExit, say, of a destructor that ran here
                    self._report(f"thread {self.name}", exc)
            self._is_settling = True
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_SETTLE_S))
            loop.run_until_complete(_rounds())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _on_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio would log by itself, and on this thread; nothing of what a child inherits and collects."""
        if fork.fork_generation() != self._generation:
            return
        error = context.get("exception")
        log.error("thread %s: %s", self.name, context.get("message"), exc_info=error)

    def _report(self, what: str, error: BaseException) -> None:
        if self._failed is not None:
            self._failed(what, error)
        else:
            log.error("%s met an unexpected error and continues", what, exc_info=error)


async def _rounds() -> None:
    """Lets transports that were aborted just now close their sockets, which they do in the loop's next rounds."""
    for _ in range(_LAST_ROUNDS):
        await asyncio.sleep(0)
