"""
A logging handler that produces the records of a program to a station.

Whoever logs a line waits for nothing, whatever happens to the broker: a record is produced without blocking, and
dropped and counted when that is not possible.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Optional, Union

from memphis_sync._base import primitives
from memphis_sync._base.logs import SHOWN_EVERY_S, ForeignHandler, Log, has_main_thread_ended
from memphis_sync._base.threads import Latch, handing_over
from memphis_sync._options.arguments import check_name
from memphis_sync.client import Memphis, connect
from memphis_sync.errors import ConfigurationError, ConnectError, MemphisError

if TYPE_CHECKING:
    from collections.abc import Callable

log = Log("memphis_sync.produce")

MAX_WAITING = 10_000  # records that wait for the handler's own client to be opened
FLUSH_S = 5.0
_PAUSE_S = 1.0  # between two attempts to open it
_AT_EXIT_S = 5.0  # how long an ending program waits for that
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


class LogHandler(ForeignHandler):
    """
    A ``logging.Handler`` that produces each record to a station, without blocking.

    ::

        handler = memphis_sync.LogHandler("logs", "web", memphis)
        logging.getLogger("shop").addHandler(handler)

    A record becomes a JSON object with ``time`` (UTC), ``level``, ``logger``, ``message``, ``file``, ``line``,
    ``function``, ``process``, ``thread``, ``exception`` if it has one, and what the call passed as ``extra``. With
    setFormatter() it becomes the formatter's text.

    It can be called anywhere, in signal handlers and destructors, too, and raises nothing. A record that cannot be
    accepted, for instance because the queue is full, is dropped: an ERROR line of ``memphis_sync.produce`` says so at
    most once a second, with the count. Records about the client itself are not sent: those of ``memphis_sync`` loggers,
    and those of its inner threads. They go to the program's other handlers, or, errors only, to standard error.

    What was accepted is sent by the end of the process, as all messages are.

    Args:
        station_name: The station. One that does not exist is created.
        producer_name: Up to 128 letters, digits, ``_ - .``; converted to lower case.
        client: An open client; it is not closed with the handler. Or the URL of a broker; None: the environment, as
            connect(). Then the handler opens a client of its own on a thread of its own, with the first record, and
            tries again each second; up to 10,000 records wait for that.
        level: Records below it are ignored.

    Attributes:
        dropped: How many records were not accepted.

    Raises:
        ConfigurationError: A name is not allowed, or *client* is none of these.
    """

    def __init__(
        self,
        station_name: str,
        producer_name: str = "log",
        client: Union[Memphis, str, None] = None,
        level: Union[int, str] = logging.NOTSET,
    ) -> None:
        super().__init__(level)
        self.station_name = check_name("station_name", "Station", station_name)
        self.producer_name = check_name("producer_name", "Producer", producer_name)
        if client is not None and not isinstance(client, (Memphis, str)):
            raise ConfigurationError(
                f"client is a {type(client).__name__}; it must be a Memphis, the URL of a broker, or None"
            )
        self.dropped = 0
        self._told, self._told_at, self._reason = 0, float("-inf"), ""
        self._counting = primitives.RLock()  # guards dropped; a signal handler that comes in between may enter as well
        self._url = None if isinstance(client, Memphis) else client
        self._client = client if isinstance(client, Memphis) else None
        self._is_own = self._client is None
        self._waiting: deque[bytes] = deque()
        self._may_open = deque([True])  # whoever takes it starts the thread
        self._is_opened, self._is_closed = Latch(), Latch()

    # ---- logging's side ----------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Produces the record, or drops it."""
        try:
            text = self._as_json(record) if self.formatter is None else self.format(record)
            self._send(text.encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001  of the program's formatter or arguments: as any handler
            self.handleError(record)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Waits up to *timeout_s* seconds until the broker has confirmed the records; at once after close()."""
        deadline = time.monotonic() + timeout_s
        if self._is_own and self._client is None and not self._may_open:
            self._is_opened.wait(timeout_s)
        client = self._client
        if client is not None:
            with contextlib.suppress(MemphisError):  # closed, or it is one of the client's own threads that asks
                client.flush(max(deadline - time.monotonic(), 0.0))
        self._tell()

    def close(self) -> None:
        """Flushes; a client of the handler's own is closed."""
        if not self._is_closed.is_set():
            self.flush()
            self._is_closed.set()
            if self._is_own and self._client is not None:
                with contextlib.suppress(MemphisError):
                    self._client.close()
            self._drop_waiting("it was closed before its client could be opened")
            self._tell()
        super().close()

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        client = self._client
        if client is not None:
            self._produce(client, data)
        elif self._is_closed.is_set():
            self._drop("it is closed")
        elif len(self._waiting) >= MAX_WAITING:
            self._drop(f"{MAX_WAITING} wait for a connection")
        else:
            self._waiting.append(data)
            self._open_soon()

    def _produce(self, client: Memphis, data: bytes) -> None:
        try:
            client.produce(self.station_name, self.producer_name, data, nonblocking=True)
        except MemphisError as exc:
            self._drop(str(exc))

    def _open_soon(self) -> None:
        try:
            self._may_open.pop()
        except IndexError:
            return
        # Not a daemon: the interpreter waits for it, so that the lines of a program that ends at once are sent, too.
        thread = primitives.Thread(target=self._open, name=f"memphis-log-{primitives.next_number()}", daemon=False)
        try:
            thread.start()
        except RuntimeError as exc:  # the interpreter is ending
            self._drop_waiting(str(exc))

    def _open(self) -> None:
        give_up_at = float("inf")
        try:
            while not self._is_closed.is_set():
                try:
                    client = connect() if self._url is None else connect(self._url)
                except ConnectError as exc:
                    self._reason = str(exc)
                    if has_main_thread_ended():
                        give_up_at = min(give_up_at, time.monotonic() + _AT_EXIT_S)
                    if time.monotonic() >= give_up_at:
                        self._drop_waiting(str(exc))
                        return
                    self._tell()
                    self._is_closed.wait(_PAUSE_S)
                    continue
                if self._is_closed.is_set():
                    client.close()
                    return
                self._hand_over_waiting(client)
                self._client = client
                self._hand_over_waiting(client)  # what came between the two lines
                return
        except MemphisError as exc:  # the address or the options are wrong: it would be so next time
            self._drop_waiting(str(exc))
        finally:
            self._tell()
            self._is_opened.set()

    def _hand_over_waiting(self, client: Memphis) -> None:
        while self._waiting:
            self._produce(client, self._waiting.popleft())

    # ---- what is dropped ---------------------------------------------------------------------------------------------

    def _drop_waiting(self, reason: str) -> None:
        while self._waiting:
            self._waiting.popleft()
            self._drop(reason)

    def _drop(self, reason: str) -> None:
        with self._counting:
            self.dropped += 1
        self._reason = reason
        if self._client is not None and time.monotonic() - self._told_at >= SHOWN_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        count, self._told = self.dropped - self._told, self.dropped
        if not count:
            return
        self._told_at = time.monotonic()
        client = self._client
        post: Optional[Callable[..., Any]] = None if client is None else client._session.callbacks.post
        with handing_over(post) if post is not None else contextlib.nullcontext():
            log.error("%r: %d log records were dropped: %s", self, count, self._reason)

    def _as_json(self, record: logging.LogRecord) -> str:
        found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        found.update(
            time=datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            level=record.levelname,
            logger=record.name,
            message=record.getMessage(),
            file=record.pathname,
            line=record.lineno,
            function=record.funcName,
            process=record.process,
            thread=record.threadName,
        )
        if record.exc_info and record.exc_info[0] is not None:
            found["exception"] = _PLAIN.formatException(record.exc_info)
        return json.dumps(found, default=str)

    def __repr__(self) -> str:
        return f"<LogHandler to {self.station_name!r} {logging.getLevelName(self.level)}>"


_PLAIN = logging.Formatter()
