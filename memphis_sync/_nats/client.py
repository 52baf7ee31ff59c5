"""
nats-py's client, made safe against what other clients can send to it, and against connections that fail.

Rules
* No message of anybody's ends the connection or stops the reading. What cannot be decoded comes without its headers,
  or is dropped when it has no usable subjects.
* No ``-ERR`` closes the client, as nats-py's does. A server closes the connection itself after those that end it, and
  that is an outage; only verdicts on credentials, repeated by every address, close it (see _protocol.server_errors).
* The handshake is that of the data link; nats-py gets the connection with the PONG read. Whatever a peer sends in it is
  a failed try, never the end of trying.
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
from nats.errors import NoServersError

from memphis_sync._base.logs import Log
from memphis_sync._nats.connecting import connect_again, connect_first, run_on_loop
from memphis_sync._nats.errors import ServerSaidError
from memphis_sync._nats.frames import Frames
from memphis_sync._nats.handshake import Connected, Login
from memphis_sync._nats.transport import ConnectedTransport
from memphis_sync._protocol.info import ServerInfo
from memphis_sync._protocol.server_errors import Refusals
from memphis_sync.errors import AuthenticationError, ConnectError
from memphis_sync.types import ServerAddress

if TYPE_CHECKING:
    from nats.aio.client import Srv
    from nats.aio.msg import Msg

log = Log("memphis_sync")

_BROKEN_PAUSE_S = 1.0


class HardenedClient(Client):
    """
    A nats-py client that no message and no server can stop, and that leaves nothing of a connection which it gives up.

    Args:
        pause: Waits until the next server may be tried.

    Attributes:
        refusal: Why the client has closed for good: all servers have refused the credentials REFUSALS times in one
            outage; else "".
    """

    def __init__(self, pause: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._ps = Frames(self)
        self._refusals = Refusals([])
        self._pause = pause
        self._has_been_up = False
        self._asked: Optional[Srv] = None  # whose handshake is under way
        self._asking: Optional[asyncio.Task[tuple[ServerAddress, Connected]]] = None
        self._open_until: Optional[float] = None  # while open() runs
        self._connected: Optional[Connected] = None
        self.refusal = ""

    @property
    def is_memphis(self) -> bool:
        """Whether the server is a Memphis broker, by its INFO."""
        return self._connected is not None and self._connected.info.is_memphis

    @property
    def address(self) -> str:
        """``host:port`` of the server that it is connected to, or was."""
        return "" if self._current_server is None else str(_address(self._current_server))

    def abort(self) -> None:
        """Ends the connection at once, if there is one: without what is not sent yet, and without a goodbye."""
        if isinstance(self._transport, ConnectedTransport):
            self._transport.abort()

    def close_inherited(self) -> None:
        """In a forked child: closes its copy of the socket, of which nobody hears."""
        if isinstance(self._transport, ConnectedTransport):
            self._transport.sock.close()

    def hurry(self, address: str) -> None:
        """
        Goes on at *address*, ``host:port``, which has answered somebody else just now, and leaves a server that has not
        answered here. Only in an outage.
        """
        self._server_pool.sort(key=lambda server: str(_address(server)) != address)
        # One that is being asked there is asked anew by itself.
        if self._asking is not None and self._asked is not None and str(_address(self._asked)) != address:
            self._asking.cancel()

    # ---- connecting -------------------------------------------------------------------------------------------------

    async def open(self, deadline: float, **options: Any) -> None:
        """
        As nats-py's connect(), whose arguments *options* are, but within a time, and with an error at its end.

        Args:
            deadline: By ``time.monotonic()``, for all servers together.

        Raises:
            ConnectError, AuthenticationError: As connect_first().
        """
        self._open_until = deadline
        try:
            await self.connect(**options)
        finally:
            self._open_until = None

    async def _select_next_server(self) -> None:
        """The next server in turn, with the login. nats-py's own sleeps for a fixed time that nothing can cut short."""
        if self._open_until is not None:
            addresses = [_address(server) for server in self._server_pool]
            self._refusals = Refusals(map(str, addresses))
            steps = connect_first(addresses, self._login(), self._open_until, _log_failed)
            address, connected = await run_on_loop(steps)
            behind = addresses.index(address) + 1
            self._server_pool = self._server_pool[behind:] + self._server_pool[:behind]
            await self._take(self._server_pool[-1], connected)
            return
        limit = self.options["max_reconnect_attempts"]
        while self._server_pool:
            await self._pause()
            server = self._server_pool.pop(0)
            if limit > 0 and server.reconnects > limit:
                continue
            self._server_pool.append(server)
            try:
                await self._take(server, await self._ask(server))
            except AuthenticationError as exc:
                if self._has_been_up and self._refusals.add(str(_address(server))):
                    self.refusal = str(exc)
                    break
                await self._failed(server, exc)
            except Exception as exc:  # noqa: BLE001  whatever it was, the next server is tried
                await self._failed(server, exc)
            else:
                return
        self._current_server = None
        raise NoServersError

    async def _failed(self, server: Srv, exc: Exception) -> None:
        server.last_attempt = time.monotonic()
        server.reconnects += 1
        self._err = exc
        await self._error_cb(exc)

    async def _ask(self, server: Srv) -> Connected:
        """One try; hurry() may end it."""
        deadline = time.monotonic() + float(self.options["connect_timeout"])
        address = _address(server)
        steps = connect_again([address], self._login(server), deadline, lambda *_: None)
        asking = asyncio.ensure_future(run_on_loop(steps))
        self._asked, self._asking = server, asking
        try:
            await asyncio.wait({asking})
        except asyncio.CancelledError:  # perhaps just as there was a connection, which nobody takes any more
            if not asking.cancel() and not asking.cancelled() and asking.exception() is None:
                asking.result()[1].close()
            raise
        finally:
            self._asked = self._asking = None
        if asking.cancelled():
            raise asyncio.TimeoutError
        return asking.result()[1]

    def _login(self, server: Optional[Srv] = None) -> Login:
        """How this client logs in to a server."""
        tls_name = "" if server is None else server.tls_name or ""
        return Login(self._request, self.options.get("tls"), tls_name=tls_name)

    def _request(self, address: ServerAddress, info: ServerInfo) -> bytes:
        """The CONNECT that nats-py makes."""
        self._server_info = info.fields
        self._current_server = next(server for server in self._server_pool if _address(server) == address)
        if info.fields.get("auth_required"):
            self._auth_configured = True
        return self._connect_command()

    async def _take(self, server: Srv, connected: Connected) -> None:
        """The connection is nats-py's from here on."""
        self._leave()
        self._transport = await ConnectedTransport.of(connected)
        self._connected, self._current_server = connected, server
        info = connected.info
        await self._process_info(info.fields, initial_connection=True)
        server.server_version, self._client_id = info.fields.get("version"), info.fields.get("client_id")
        self._max_payload = info.max_payload

    def _leave(self) -> None:
        """Nothing of an earlier connection may read from the next one."""
        self.abort()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and not task.done():
                task.cancel()

    async def _process_connect_init(self) -> None:
        """What nats-py does behind the PONG; all before it has been done."""
        self._ps.reset()
        self._status = Client.CONNECTED
        self._pongs = []
        self._pings_outstanding = 0
        self._reading_task, self._ping_interval_task, self._flusher_task = (
            asyncio.ensure_future(each) for each in (self._read_loop(), self._ping_interval(), self._flusher())
        )
        self._refusals.clear()
        self._has_been_up = True

    async def _attempt_reconnect(self) -> None:
        while True:
            self._leave()
            try:
                await super()._attempt_reconnect()
            except Exception:
                log.exception("reconnecting met an unexpected error and continues")
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


def _log_failed(_: ServerAddress, exc: ConnectError) -> None:
    log.debug("%s", exc)


def _address(server: Srv) -> ServerAddress:
    """As it was given, upper case included."""
    host, _, port = str(server.uri.netloc.rpartition("@")[2]).rpartition(":")
    return ServerAddress(host.strip("[]"), int(port))
