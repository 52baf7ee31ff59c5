"""
nats-py's client, made safe against what other clients can send to it, and against connections that fail.

Rules
* No message of anybody's ends the connection or stops the reading. What cannot be decoded comes without its headers,
  or is dropped when it has no usable subjects.
* No ``-ERR`` closes the client, as nats-py's does. A server closes the connection itself after those that end it, and
  that is an outage; only verdicts on credentials, repeated by every address, close it (see _protocol.server_errors).
* A handshake has one deadline for all of it, and whatever a peer sends in it is a failed try, never the end of trying.
* A connection that is given up ends at once, without waiting for the peer's goodbye.

Source: ``nats/aio/client.py``, ``nats/aio/transport.py`` and ``nats/protocol/parser.py`` of nats-py 2.16, whose parts
overridden here are not its public interface; tests/client/test_hostile_messages.py, tests/client/test_given_up.py,
tests/client/test_handshakes.py and tests/broker/test_fuzz.py fail when a release changes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Callable, Optional

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error, NoServersError

from memphis_sync._base.logs import Log
from memphis_sync._nats.errors import NotMemphisError, ServerSaidError
from memphis_sync._nats.frames import Frames
from memphis_sync._protocol.info import MAX_FRAMES, ServerInfo, parse_info
from memphis_sync._protocol.server_errors import Refusals, error_text
from memphis_sync.errors import RemoteProtocolError

if TYPE_CHECKING:
    from nats.aio.client import Srv
    from nats.aio.msg import Msg

log = Log("memphis_sync")

AGAIN_S = 0.5  # a peer that is silent for so long is asked on a second connection too, while the first one waits
_LINE_BYTES = 64 * 1024  # of a handshake
_BROKEN_PAUSE_S = 1.0
_CLOSED_EARLY = "the server closed the connection during the handshake"


class _Transport(TcpTransport):
    """A connection that nats-py gets only once it was greeted, and whose handshake may hold more than it expects."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py's transports have no types
        self._greeting: Optional[bytes] = None  # read, and not yet asked for
        self.info = ServerInfo()

    def abort(self) -> None:
        """Ends the connection at once: without what is not sent yet, and without a goodbye."""
        writer = self._io_writer
        if writer is not None:
            writer.transport.abort()
            writer.close()  # before Python 3.11 a transport under TLS forgets that it was aborted

    async def greeted(self, server: Srv) -> _Transport:
        """Connects and reads the INFO; the caller keeps the time, with no task more for each try."""
        try:
            reader, writer = await asyncio.open_connection(server.uri.hostname, server.uri.port, limit=_LINE_BYTES)
            self._bare_io_reader = self._io_reader = reader
            self._bare_io_writer = self._io_writer = writer
            line = await self._line()
            if line[:4].upper() != b"INFO":
                raise NotMemphisError(f"it began with {line[:32]!r} instead of INFO")
            text = line[4:].strip()
            try:
                self.info = parse_info(text)
            except RemoteProtocolError as exc:
                raise NotMemphisError(str(exc)) from exc
            self._greeting = b"INFO " + text + b"\r\n"
        except BaseException:
            self.abort()
            raise
        return self

    async def readline(self) -> bytes:
        """The greeting, then the PONG; what may come between is dealt with here. Only nats-py's handshake asks."""
        greeting, self._greeting = self._greeting, None
        if greeting is not None:
            return greeting
        for _ in range(MAX_FRAMES):
            line = await self._line()
            kind = line.split(None, 1)[0].upper() if line.strip() else b""
            if kind == b"PONG":
                return b"PONG\r\n"
            if kind == b"PING":
                self.write(b"PONG\r\n")  # type: ignore[no-untyped-call]
                await self.drain()  # type: ignore[no-untyped-call]
            elif kind not in (b"+OK", b"INFO"):
                raise NotMemphisError(f"it sent {line[:32]!r} during the handshake")
        raise NotMemphisError(f"it sent {MAX_FRAMES} frames and no answer to the login")

    async def _line(self) -> bytes:
        try:
            line: bytes = await super().readline()  # type: ignore[no-untyped-call]
        except ValueError:
            raise NotMemphisError("it sent a line without an end") from None
        if not line:
            raise ConnectionResetError(_CLOSED_EARLY)
        if line[:4].upper() == b"-ERR":
            raise ServerSaidError(error_text(line))
        return line


class HardenedClient(Client):
    """
    A nats-py client that no message and no server can stop, and that leaves nothing of a connection which it gives up.

    Args:
        addresses: ``host:port`` of each server; when all of them have refused the credentials REFUSALS times in one
            outage, the client closes.
        pause: Waits until the next server may be tried.

    Attributes:
        refusal: What the server said that closed the client for good; "" when nothing has.
    """

    def __init__(self, addresses: list[str], pause: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._ps = Frames(self)
        self._refusals = Refusals(addresses)
        self._pause = pause
        self._has_been_up = False
        self._asked: Optional[Srv] = None  # whose greeting or login is under way
        self._greeted_at = 0.0
        self._is_logged_in = False
        self._tries: list[asyncio.Task[_Transport]] = []
        self.refusal = ""

    @property
    def is_memphis(self) -> bool:
        """Whether the server is a Memphis broker, by its INFO."""
        transport = self._transport
        return isinstance(transport, _Transport) and transport.info.is_memphis

    def abort(self) -> None:
        """Ends the connection at once, if there is one: without what is not sent yet, and without a goodbye."""
        if isinstance(self._transport, _Transport):
            self._transport.abort()

    def hurry(self, address: str) -> None:
        """
        Goes on at *address*, ``host:port``, which has answered somebody else just now, and leaves a server that has not
        answered here. Only in an outage.
        """
        if self._is_logged_in:
            return
        self._server_pool.sort(key=lambda server: _address(server) != address)
        if self._asked is not None and _address(self._asked) == address:
            is_greeting = bool(self._tries)  # which is asked for anew by itself
            if is_greeting or time.monotonic() - self._greeted_at < AGAIN_S:
                return
        for one in self._tries:
            one.cancel()
        self.abort()

    # ---- connecting -------------------------------------------------------------------------------------------------

    async def _select_next_server(self) -> None:
        """The next server in turn that greets. nats-py's own sleeps for a fixed time that nothing can cut short."""
        limit = self.options["max_reconnect_attempts"]
        while self._server_pool:
            await self._pause()
            server = self._server_pool.pop(0)
            if limit > 0 and server.reconnects > limit:
                continue
            self._server_pool.append(server)
            self._asked = server
            try:
                await self._connect_to_server(server)
            except ServerSaidError as exc:
                self._count_refusal(server, exc)
                await self._failed(server, exc)
            except Exception as exc:  # noqa: BLE001  whatever it was, the next server is tried
                await self._failed(server, exc)
            else:
                self._current_server = server
                return
        self._current_server = None
        raise NoServersError

    async def _failed(self, server: Srv, exc: Exception) -> None:
        self._asked = None
        server.last_attempt = time.monotonic()
        server.reconnects += 1
        self._err = exc
        await self._error_cb(exc)

    async def _connect_to_server(self, s: Srv) -> None:
        self._leave()
        limit_s = float(self.options["connect_timeout"])
        self._transport = await _first_greeting(s, limit_s, AGAIN_S if self._has_been_up else limit_s, self._tries)
        self._greeted_at = time.monotonic()

    def _leave(self) -> None:
        """Nothing of an earlier connection may read from the next one."""
        self._is_logged_in = False
        self.abort()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and not task.done():
                task.cancel()

    async def _process_connect_init(self) -> None:
        server = self._current_server
        try:
            await asyncio.wait_for(super()._process_connect_init(), float(self.options["connect_timeout"]))
        except BaseException as exc:
            self._asked = None
            self.abort()
            if isinstance(exc, ServerSaidError) and server is not None:
                self._count_refusal(server, exc)
            if isinstance(exc, (OSError, Error, asyncio.TimeoutError)) or not isinstance(exc, Exception):
                raise
            raise NotMemphisError(f"its handshake cannot be understood: {exc!r}") from exc
        self._refusals.clear()
        self._has_been_up = self._is_logged_in = True

    def _count_refusal(self, server: Srv, exc: ServerSaidError) -> None:
        """Ends reconnecting (that is what NoServersError does to nats-py) once the verdict is final."""
        if self._has_been_up and exc.is_verdict and self._refusals.add(_address(server)):
            self.refusal = exc.text
            raise NoServersError from exc

    async def _attempt_reconnect(self) -> None:
        while True:
            self._leave()
            try:
                await super()._attempt_reconnect()
            except Exception:
                log.exception("reconnecting met an error that it does not know; it goes on")
                self._status = Client.RECONNECTING
                await asyncio.sleep(_BROKEN_PAUSE_S)
            else:
                return

    # ---- what comes -------------------------------------------------------------------------------------------------

    async def _process_err(self, err_msg: str) -> None:
        error = ServerSaidError(err_msg)
        self._err = error
        await self._error_cb(error)

    async def _process_pong(self) -> None:
        """A PONG that nobody waits for any more is nobody's: nats-py would stop reading at it."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _process_headers(self, headers: bytes) -> Optional[dict[str, str]]:
        try:
            found: Optional[dict[str, str]] = await super()._process_headers(headers)
        except (IndexError, ValueError):  # no headers at all, or a status that is not UTF-8
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Optional[dict[str, str]]
    ) -> Optional[Msg]:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            self.complain("a message whose subjects are not text was dropped")
            return None
        return message

    def complain(self, text: str) -> None:
        """A line in the log; the broker's, which strangers can cause, are fewer."""
        log.debug("%s", text)


def _address(server: Any) -> str:
    """As it was given, upper case and brackets included."""
    return str(server.uri.netloc.rpartition("@")[2])


async def _first_greeting(
    server: Srv, limit_s: float, again_s: float, tries: list[asyncio.Task[_Transport]]
) -> _Transport:
    """
    Connects and waits for the INFO.

    A peer may swallow what was sent before it came back to life, and then never answer on that connection: so one that
    is silent is asked anew again and again. The first connection is kept beside the newest one, for a peer that is just
    slow. Whatever ends one of the two decides, and so does a cancel() of one of *tries*, where both are to be found.
    """
    deadline = time.monotonic() + limit_s
    try:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise asyncio.TimeoutError
            for stale in tries[1:]:
                _drop(stale)
            del tries[1:]
            tries.append(asyncio.ensure_future(_Transport().greeted(server)))
            await asyncio.wait(tries, timeout=min(again_s, left_s), return_when=asyncio.FIRST_COMPLETED)
            for one in tries:
                if one.done():
                    tries.remove(one)
                    if one.cancelled():
                        raise asyncio.TimeoutError
                    return one.result()
    finally:
        for other in tries:
            _drop(other)
        tries.clear()


def _drop(task: asyncio.Task[_Transport]) -> None:
    """Ends a try, also one that succeeds just now."""

    def abandon(task: asyncio.Task[_Transport]) -> None:
        if not task.cancelled() and task.exception() is None:
            task.result().abort()

    task.add_done_callback(abandon)
    task.cancel()
