"""
Logging: on which thread the program's handlers are called, and what is shown when it has none.

A handler is the program's code: it may be slow, wait for a lock or produce a message. So a thread that others wait for
never calls one, but hands the line to another thread (see threads).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from typing import Any, Callable, NamedTuple, Optional

from memphis_sync._base import threads

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
SHOWN_EVERY_S = 0.9  # a little less than the second between two reports of failures by the C core


def _at(level: int, *, is_caught: bool = False) -> Callable[..., None]:
    def method(
        self: Log,
        text: str,
        *args: object,
        extra: Optional[dict[str, Any]] = None,
        exc_info: Optional[BaseException] = None,
    ) -> None:
        self._log(level, text, args, extra, sys.exc_info()[1] if is_caught else exc_info)

    return method


class Log:
    """
    A logger of the package's. Its methods are called as those of a logging.Logger; ``exc_info`` is an exception.

    Args:
        name: ``memphis_sync.<part>``.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    debug, info, warning, error = _at(DEBUG), _at(INFO), _at(WARNING), _at(ERROR)
    exception = _at(ERROR, is_caught=True)

    def log(self, level: int, text: str, *args: object, extra: Optional[dict[str, Any]] = None) -> None:
        """As Logger.log()."""
        self._log(level, text, args, extra)

    def _log(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        extra: Optional[dict[str, Any]],
        error: Optional[BaseException] = None,
    ) -> None:
        logger, sink = self._logger, threads.sink()
        if sink is None:
            logger.log(level, text, *args, exc_info=error, extra=extra, stacklevel=3)
            return
        # Not isEnabledFor(): it acquires the lock that a program holds while it configures its handlers, and one of
        # those may be connecting this very client.
        if logger.disabled or logger.manager.disable >= level or level < logger.getEffectiveLevel():
            return
        code = sys._getframe(2)
        place = code.f_code.co_filename, code.f_lineno, code.f_code.co_name
        thread = threading.current_thread()
        line = _Line(logger, level, text, args, extra, error, place, time.time(), (thread.ident, thread.name))
        if not sink(_Line.hand_over, line):
            line.hand_over()  # the client is closing: nobody waits for this thread any more


class _Line(NamedTuple):
    """A log line for the thread that calls the program's handlers."""

    logger: logging.Logger
    level: int
    text: str
    args: tuple[object, ...]
    extra: Optional[dict[str, Any]]
    error: Optional[BaseException]
    place: tuple[str, int, str]
    at: float
    thread: tuple[Optional[int], str]

    def hand_over(self) -> None:
        """Calls the handlers."""
        error = self.error
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        file, number, function = self.place
        record = self.logger.makeRecord(
            self.logger.name, self.level, file, number, self.text, self.args, exc_info, function, self.extra
        )
        record.relativeCreated += (self.at - record.created) * 1000
        record.created, record.msecs = self.at, self.at % 1 * 1000
        record.thread, record.threadName = self.thread
        self.logger.handle(record)


def hand_over_foreign(record: logging.LogRecord) -> bool:
    """
    A filter for loggers of other libraries that run on our threads: hands over a record that was made where the
    program's handlers must not be called.
    """
    sink = threads.sink()
    if sink is None:
        return True
    record.is_about_memphis_client = True  # see ForeignHandler
    return not sink(logging.getLogger(record.name).handle, record)


# Threads of the client's that run no code of the program's: what other libraries log there is about the client, too.
_INNER_THREADS = tuple(f"memphis-{kind}-" for kind in ("loop", "sender", "reader", "register", "retire"))


class ForeignHandler(logging.Handler):
    """
    Base of a handler that sends records with a client: it gets none about a client. It has no lock, for a record may
    come from a signal handler, or in the middle of another one.
    """

    def createLock(self) -> None:  # noqa: N802  logging's own name
        """No lock."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        """Calls emit() without a lock; what it returns is logging's own affair."""
        is_inner = hasattr(record, "is_about_memphis_client") or (record.threadName or "").startswith(_INNER_THREADS)
        if is_inner or f"{record.name}.".startswith("memphis_sync."):
            return False
        chosen: Any = self.filter(record)  # from Python 3.12 on perhaps another record
        if chosen:
            self.emit(chosen if isinstance(chosen, logging.LogRecord) else record)
        return chosen


def has_main_thread_ended() -> bool:
    """Whether only threads that the interpreter waits for go on."""
    return not threading.main_thread().is_alive()


class UnconfiguredHandler(logging.Handler):
    """
    Writes errors to standard error while the program has configured no handler for them, each kind at most once a
    second: a message that failed and that nobody asked about, a callback that raised.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        # By logger, text without its arguments, and the error's type.
        self._shown_at: dict[tuple[str, str, str], float] = {}
        # Records that came too soon after one: how many, and the text of the last.
        self._held_back: dict[tuple[str, str, str], tuple[int, str]] = {}

    def createLock(self) -> None:  # noqa: N802  logging's own name
        """No lock: a record is written in one call, and a signal handler could deadlock on a lock."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Calls emit() without a lock."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, unless the program has a handler for it."""
        error = record.exc_info[0] if record.exc_info else None
        stream, now = sys.stderr, time.monotonic()
        kind = record.name, str(record.msg), error.__name__ if error else ""
        if stream is None or logging.lastResort is None or self._is_configured(record.name):
            return
        if now - self._shown_at.get(kind, float("-inf")) < SHOWN_EVERY_S:
            self._held_back[kind] = self._held_back.get(kind, (0, ""))[0] + 1, self.format(record)
            return
        self._shown_at[kind] = now
        count, _ = self._held_back.pop(kind, (0, ""))
        show_error(f"{self.format(record)}\n({count} more of this kind came before)" if count else self.format(record))

    def flush(self) -> None:
        """Writes the last record of each kind that was held back; logging calls it at the end of the process."""
        while self._held_back:
            (name, _, _), (count, text) = self._held_back.popitem()
            if not self._is_configured(name):
                show_error(text if count == 1 else f"{text}\n({count - 1} more of this kind came before)")

    def _is_configured(self, name: str) -> bool:
        logger: Optional[logging.Logger] = logging.getLogger(name)
        while logger is not None:
            if any(not isinstance(handler, (UnconfiguredHandler, ForeignHandler)) for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


def show_error(text: str) -> None:
    """Writes a text to standard error, if that is open."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or None
        sys.stderr.write(f"memphis_sync: {text}\n")
        sys.stderr.flush()
