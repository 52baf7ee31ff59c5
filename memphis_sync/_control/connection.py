"""
One nats-py connection, which keeps what users are promised about it.

What nats-py does differently from what users are promised is put right in ``memphis_sync._nats`` and here: it connects
within one deadline, and writes one line when the link is lost and one when it is back. Subscribing again after that is
nats-py's own work; the connection id stays the same, so that the broker revives what was registered under it.

All methods are coroutines of the private loop; the plain properties may be read from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from typing import Any, Callable, Optional

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memphis_sync._base.logs import Log
from memphis_sync._control.error_mapping import lost_reason, not_allowed, request_error
from memphis_sync._data.outages import LinkState, Outages
from memphis_sync._nats import HardenedClient, ServerSaidError
from memphis_sync._options.table import ConnectOptions
from memphis_sync._protocol.info import login_options
from memphis_sync._protocol.server_errors import REFUSALS
from memphis_sync.errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    MemphisError,
    RemoteProtocolError,
    ServerError,
    StationNotFoundError,
)

log = Log("memphis_sync.control")

# nats-py tells when the server closed the connection, and nothing when it broke or PING had no answer.
_BROKEN = "the connection broke, or the broker did not answer PING"
_CLOSE_S = 1.0
_FOREVER_S = 86400
_NO_RESPONDERS = 503
_RECONNECTION_ENDS_S = 0.2  # what nats-py's close() waits for
_STARTING_S = 5.0  # how long "nobody listens" may mean that a broker is starting, when none has ever answered
_STARTING_PAUSE_S = 0.1
_STREAM_NOT_FOUND, _CONSUMER_NOT_FOUND = 10059, 10014  # JetStream's err_code
_JETSTREAM_NOT_READY = 10008


def _post(loop: asyncio.AbstractEventLoop, work: Callable[..., None], *args: Any) -> None:
    """Runs *work* on the loop soon, from any thread; a loop that has closed has nothing left to run it for."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work, *args)


class ControlLink:
    """
    A connection to the broker's control subjects.

    Args:
        options: What connect() was told.
        connection_id: Goes into CONNECT's name; the broker ties producers and consumers to it.
        outages: What is shared with the data link.
    """

    def __init__(self, options: ConnectOptions, connection_id: str, outages: Outages) -> None:
        self._options = options
        self._outages = outages
        self._state = LinkState("control", outages, log, str(options.addresses[0]))
        self._wake = asyncio.Event()  # ends the pause between two tries
        self._has_answered = False  # whether a Memphis broker has, ever
        self._connection_id = connection_id
        self._nc: Optional[HardenedClient] = None
        self._lost: Optional[asyncio.Future[None]] = None  # pending while the link is up
        self._up = asyncio.Event()
        self._reason = _BROKEN  # why the connection ends, if it does now
        self._flushes: set[asyncio.Future[None]] = set()  # kept here, or the loop would forget running tasks
        self._is_closing = False
        self._giving_up: Optional[asyncio.Future[None]] = None
        self._complained: Optional[asyncio.Future[tuple[str, Any]]] = None

    @property
    def address(self) -> str:
        """``host:port`` where it is connected, or was."""
        return self._state.address

    @property
    def is_connected(self) -> bool:
        """Whether the link is up at this moment."""
        nc = self._nc  # which is connected a moment before its subscriptions are there again
        return nc is not None and nc.is_connected and self._up.is_set()

    @property
    def is_memphis(self) -> bool:
        """Whether the server is a Memphis broker, and not ours on a NATS server."""
        nc = self._nc
        return nc is not None and nc.is_memphis

    @property
    def max_payload(self) -> int:
        """Largest body that the server takes, in bytes."""
        return 1048576 if self._nc is None else int(self._nc.max_payload)

    # ---- its life ---------------------------------------------------------------------------------------------------

    async def connect(self, deadline: float) -> None:
        """
        Connects to the first address that answers.

        Args:
            deadline: On the monotonic clock, for all addresses together.

        Raises:
            AuthenticationError, ConnectError: As connect_first().
        """
        options = self._options
        nc = HardenedClient(self._pause)
        # 0 means "for ever" to nats-py, so the bound of reconnecting is kept by _on_error.
        await nc.open(
            deadline,
            servers=[f"nats://{address}" for address in options.addresses],
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            lame_duck_mode_cb=self._on_lame_duck,
            allow_reconnect=options.reconnect and options.max_reconnect != 0,
            connect_timeout=options.timeout_ms / 1000,
            reconnect_time_wait=_RECONNECTION_ENDS_S,
            max_reconnect_attempts=-1,
            ping_interval=options.ping_interval_s,
            max_outstanding_pings=1,  # a second one unanswered is the end: twice the interval
            dont_randomize=True,
            inbox_prefix="_INBOX",  # the only prefix that users with roles may subscribe to
            tls=options.tls,
            **login_options(options.credentials, self._connection_id),
        )
        self._nc = nc
        self._mark_up()
        post = functools.partial(_post, asyncio.get_running_loop())
        self._outages.join("control", functools.partial(post, self._hurry), functools.partial(post, self._end))
        log.info("%r connected to %s", options.name, self.address, extra=self._extra())

    async def _pause(self) -> None:
        """Between two tries of an outage; cut short when the other link gets through."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._state.pause_s())
        self._wake.clear()
        self._state.attempts += 1

    def _hurry(self, address: str) -> None:
        """The next try is made now: at *address*, where the data link is through, or where it is due."""
        nc = self._nc
        if nc is not None and self._state.is_lost:
            self._wake.set()
            if address:
                nc.hurry(address)

    def _end(self, reason: str) -> None:
        """The client has ended for good because its other link has."""
        nc = self._nc
        if nc is not None and not nc.is_closed:
            self._state.reason = self._reason = reason
            self._giving_up = asyncio.ensure_future(nc.close())

    def _mark_up(self) -> None:
        nc = self._nc
        assert nc is not None
        self._state.up(nc.address)
        self._lost = asyncio.get_running_loop().create_future()
        self._reason = _BROKEN
        self._up.set()

    async def _on_lame_duck(self) -> None:
        nc = self._nc
        if nc is not None and not self._is_closing:
            self._reason = "the broker is about to shut down"
            await nc.force_reconnect()

    async def _on_disconnected(self) -> None:
        self._up.clear()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        if self._nc is not None and not self._is_closing and not self._state.is_lost:
            self._state.lost(self._reason)

    async def _on_reconnected(self) -> None:
        self._mark_up()
        self._state.back()

    async def _on_error(self, exc: Exception) -> None:
        nc, state = self._nc, self._state
        if nc is None:
            return
        if self._is_closing or not state.is_lost:
            if isinstance(exc, ServerSaidError) and exc.is_complaint:
                # A refused publish or subscribe; the link itself is up.
                log.warning("%r: %s said: %s", self._options.name, self.address, exc.text, extra=self._extra(exc))
                state.error(exc.text)
                if self._complained is not None:
                    waited, self._complained = self._complained, asyncio.get_running_loop().create_future()
                    waited.set_result((exc.text, self._complained))
            else:
                self._reason = lost_reason(exc)  # the disconnected callback comes next and writes the one line
            return
        log.debug("%r: attempt %d failed: %s", self._options.name, state.attempts, exc, extra=self._extra(exc))
        limit = self._options.max_reconnect
        if limit >= 0 and state.attempts >= limit * len(self._options.addresses):
            # A task, because nats-py's close() waits for the very task that is calling this.
            self._giving_up = asyncio.ensure_future(nc.close())

    async def _on_closed(self) -> None:
        self._up.clear()
        nc, state = self._nc, self._state
        if nc is not None and not self._is_closing:
            state.gave_up(f"{nc.refusal}; {REFUSALS} times by each address" if nc.refusal else state.reason)

    def _extra(self, exc: Optional[BaseException] = None) -> dict[str, str]:
        told = {"memphis_client": self._options.name}
        return told if exc is None else {**told, "memphis_error": type(exc).__name__}

    # ---- using it ---------------------------------------------------------------------------------------------------

    async def request(self, subject: str, body: bytes, timeout_s: float, *, may_be_starting: bool = False) -> bytes:
        """
        Sends a request without headers (a Memphis broker would take them for a part of the body) and waits for the
        first reply.

        Args:
            subject: Where to.
            body: JSON.
            timeout_s: For the whole call, in seconds; an outage is waited out within it.
            may_be_starting: Whether nobody listening on *subject* may mean that the broker is on its way up: it is
                asked again then, within the call's time when a broker has answered here before, else for _STARTING_S or
                ``wait_s``.

        Raises:
            ConfigurationError: The body is larger than the server takes; nothing was sent.
            DeadlineError: No reply in time; whether the broker has acted is not known.
            ConnectionLostError: The link went down meanwhile, with the same doubt, or never came up in time.
            ServerError: Nothing listens on the subject (code 503), or the user is not allowed to ask there (code 403).
            ClosedError: The link was closed, or has given up.
        """
        deadline = time.monotonic() + timeout_s
        patience_s = timeout_s if self._has_answered else max(_STARTING_S, self._options.wait_s)
        patient_until = min(deadline, time.monotonic() + patience_s)
        while True:
            try:
                reply = await self._request_once(subject, body, deadline, timeout_s)
            except ServerError as exc:
                if exc.code != _NO_RESPONDERS or not may_be_starting:
                    raise
                if time.monotonic() + _STARTING_PAUSE_S >= patient_until:
                    raise
                log.debug("%r: %s; asking again", self._options.name, exc, extra=self._extra(exc))
                await asyncio.sleep(_STARTING_PAUSE_S)
            else:
                self._has_answered = True
                return reply

    async def _request_once(self, subject: str, body: bytes, deadline: float, timeout_s: float) -> bytes:
        nc = await self._ready(deadline, subject)
        if len(body) > nc.max_payload:  # the server would end the connection
            raise ConfigurationError(
                f"the request has {len(body)} bytes, and the broker accepts {nc.max_payload} in one message"
            )
        lost = self._lost
        assert lost is not None
        complaint = self.next_complaint()
        asking = asyncio.ensure_future(nc.request(subject, body, timeout=max(0.001, deadline - time.monotonic())))
        try:
            while True:
                each: set[asyncio.Future[Any]] = {asking, lost, complaint}
                await asyncio.wait(each, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return bytes(asking.result().data)
                if lost.done():
                    about = f"{subject} was waiting for its reply"
                    raise ConnectionLostError(f"the connection to {self.address} ended while {about}")
                text, complaint = complaint.result()  # what the user may not ask has no answer
                if f'"{subject}"' in text:
                    raise not_allowed(subject, text)
        except MemphisError:
            raise
        except Exception as exc:
            raise self._mapped(exc, subject, timeout_s) from exc
        finally:
            asking.cancel()

    async def js_api(self, call: str, body: Optional[dict[str, Any]], timeout_s: float) -> dict[str, Any]:
        """
        A request to JetStream's own API.

        Args:
            call: What follows ``$JS.API.``, such as ``STREAM.INFO.orders$1``.
            body: Becomes JSON; None for an empty body.
            timeout_s: As request().

        Raises:
            StationNotFoundError: The stream or consumer is not there.
            ServerError: JetStream's error, with its code, err_code and description; also as request().
            DeadlineError, ConnectionLostError, ClosedError: As request().
        """
        payload = b"" if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), 0.001)
            raw = await self.request(f"$JS.API.{call}", payload, left_s, may_be_starting=True)
            try:
                reply = json.loads(raw)
            except (ValueError, RecursionError):
                reply = None
            if not isinstance(reply, dict):
                raise RemoteProtocolError(f"JetStream's reply to {call} is no JSON object: {raw[:64]!r}")
            error = reply.get("error")
            if not error:
                return reply
            code, err_code = int(error.get("code", 0)), int(error.get("err_code", 0))
            if err_code == _JETSTREAM_NOT_READY and time.monotonic() + _STARTING_PAUSE_S < deadline:
                await asyncio.sleep(_STARTING_PAUSE_S)
                continue
            text = str(error.get("description", ""))
            kind = StationNotFoundError if err_code in (_STREAM_NOT_FOUND, _CONSUMER_NOT_FOUND) else ServerError
            raise kind(f"{call}: {text} ({err_code})", code=code, err_code=err_code, description=text)

    def next_complaint(self) -> asyncio.Future[tuple[str, Any]]:
        """
        What the server says when it next refuses an operation, and the future of what it says then: one that comes in
        the same moment is not missed. What was refused has no answer.
        """
        if self._complained is None:
            self._complained = asyncio.get_running_loop().create_future()
        return self._complained

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> None:
        """Publishes without a reply, and waits until the server has read it (PING, PONG)."""
        deadline = time.monotonic() + timeout_s
        nc = await self._ready(deadline, subject)
        try:
            await nc.publish(subject, body)
        except Exception as exc:
            raise self._mapped(exc, subject, timeout_s) from exc
        await self._round_trip(nc, deadline - time.monotonic(), subject)

    async def ping(self, timeout_s: float) -> float:
        """One PING and PONG. Returns seconds."""
        nc = self._nc
        if nc is None or not self.is_connected:
            raise ConnectionLostError(f"the control connection to {self.address} is down")
        start = time.perf_counter()
        await self._round_trip(nc, timeout_s, "ping() on the control connection")
        return time.perf_counter() - start

    async def _round_trip(self, nc: HardenedClient, timeout_s: float, what: str) -> None:
        """
        PING and PONG.

        A flush() of nats-py that ends early, by its limit or by a cancellation, leaves a future behind on which the
        late PONG then fails, and the connection with it. So it runs in a task of its own, which ends with its PONG or
        with the link.
        """
        lost = self._lost
        assert lost is not None
        flushing = asyncio.ensure_future(nc.flush(timeout=_FOREVER_S))
        self._flushes.add(flushing)
        flushing.add_done_callback(self._flushes.discard)

        def give_up(_: asyncio.Future[None]) -> None:
            flushing.cancel()

        lost.add_done_callback(give_up)
        flushing.add_done_callback(lambda _: lost.remove_done_callback(give_up))
        both: set[asyncio.Future[Any]] = {flushing, lost}
        await asyncio.wait(both, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            raise ConnectionLostError(f"the connection to {self.address} ended during {what}")
        if not flushing.done():
            raise self._mapped(asyncio.TimeoutError(), what, timeout_s)
        error = flushing.exception()
        if error is not None:
            raise self._mapped(error, what, timeout_s) from error

    async def subscribe(self, subject: str, handler: Callable[[bytes], None], queue: str = "") -> Subscription:
        """Hands each message's body on *subject* to *handler*, on the loop, one by one; survives reconnects."""
        return await self.subscribe_with_headers(subject, lambda body, _: handler(body), queue)

    async def subscribe_with_headers(
        self, subject: str, handler: Callable[[bytes, dict[str, str]], None], queue: str = ""
    ) -> Subscription:
        """The same with each message's headers. A handler that raises is logged, and the next message handled."""
        nc = await self._ready(time.monotonic() + self._options.timeout_ms / 1000, subject)

        async def deliver(msg: Msg) -> None:
            try:
                handler(bytes(msg.data), dict(msg.headers or {}))
            except Exception as exc:
                log.exception(
                    "%r: a message on %s could not be used", self._options.name, subject, extra=self._extra(exc)
                )

        try:
            subscription: Subscription = await nc.subscribe(subject, queue=queue, cb=deliver)
            return subscription
        except Exception as exc:
            raise self._mapped(exc, subject, 0.0) from exc

    async def close(self) -> None:
        """Closes the connection; idempotent."""
        self._is_closing = True
        nc = self._nc
        if nc is None or nc.is_closed:
            return
        try:
            await asyncio.wait_for(nc.close(), _CLOSE_S)
        except Exception as exc:  # noqa: BLE001  nothing depends on a connection that is given up
            log.debug("%r: closing %s: %r", self._options.name, self.address, exc)
        finally:
            nc.abort()

    def close_inherited(self) -> None:
        """In a forked child: closes its copy of the socket, of which nobody hears."""
        if self._nc is not None:
            self._nc.close_inherited()

    def abort(self) -> None:
        """Ends the connection at once, whatever else is under way; on the loop."""
        self._is_closing = True
        if self._nc is not None:
            self._nc.abort()

    async def _ready(self, deadline: float, what: str) -> HardenedClient:
        """The connection, once it is up."""
        nc = self._nc
        if self._is_closing or nc is None or nc.is_closed:
            why = self._outages.end_reason
            because = f" ({why}; open a new client)" if why else ""
            raise ClosedError(f"the connection to {self.address} is closed{because}; {what} was not sent")
        if not self._up.is_set():
            try:
                await asyncio.wait_for(self._up.wait(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise ConnectionLostError(f"the connection to {self.address} is down; {what} was not sent") from None
        return nc

    def _mapped(self, exc: BaseException, what: str, timeout_s: float) -> MemphisError:
        return request_error(exc, what, self.address, timeout_s)
