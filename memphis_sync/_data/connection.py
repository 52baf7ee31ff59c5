"""
The data link of one client: its connection, its threads, its outbox.

State: ``closed`` until open(), then ``up`` and ``down`` in turn, and ``ended`` after close() or when reconnecting was
given up. In ``closed`` messages are only held. Messages are taken in ``up`` and ``down``; the outbox keeps them, and
the C core sends again whatever had no ack when the connection ended.
"""

from __future__ import annotations

import functools
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync._base.logs import Log
from memphis_sync._base.native import RLock
from memphis_sync._base.threads import Change, Event, join, own_thread, start_thread
from memphis_sync._core import ReceiveBuffer, Ticket, encode_sub, watch_forks
from memphis_sync._core._codes import LinkEnd
from memphis_sync._data.callbacks import Callbacks
from memphis_sync._data.ending import let_go
from memphis_sync._data.link_log import log_unseen, lost_reason
from memphis_sync._data.outages import LinkState, Outages
from memphis_sync._data.outbox_file import FileOutbox, new_link
from memphis_sync._data.request_reply import Replies
from memphis_sync._data.tls_loops import read_loop, send_loop
from memphis_sync._nats.connecting import connect_again, connect_first, run
from memphis_sync._nats.handshake import Connected, Login, end
from memphis_sync._nats.tls import Stream
from memphis_sync._protocol.info import connect_request
from memphis_sync._protocol.server_errors import REFUSALS, Refusals
from memphis_sync.errors import AuthenticationError, ClosedError, ConnectError, ConnectionLostError, DeadlineError
from memphis_sync.types import FlushResult, ServerAddress, Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memphis_sync._options.table import ConnectOptions

LookForStream = Callable[[str, Callable[[int], None]], None]

logger = Log("memphis_sync.link")

ACK_SID = 1  # the C core's own: everything that comes under it is an ack of a produced message
PAUSE_S = 0.2  # after what nobody foresaw: not in a circle at full speed
JOIN_S = 5.0  # how long close() waits for a thread
_ANSWERED = ("acked", "given_back", "dead_lettered")
_COUNTED = (
    *("accepted", "queued", "queued_bytes", "in_flight", "delivered", "failed", "abandoned", "buffer_full", "received"),
    *_ANSWERED,
)


class DataLink:
    """
    The connection for hot frames, with reconnection.

    Args:
        options: As given to connect().
        number: The client's, for the names of threads.
        link_id: The connection id of this link, another one than the control link's (protocol reference 1.4).
        label: The client's name, for log lines.
        callbacks: Where the user's callables run.
        outages: What is shared with the control link.
        look_for_stream: Called with the name of a stream that does not answer, and with what is to be called with a
            StreamAnswer.

    Attributes:
        key_header: The header that tells a message's partition key to the other end; "" where nobody asks for it.
    """

    key_header = ""

    def __init__(
        self,
        options: ConnectOptions,
        *,
        number: int,
        link_id: str,
        label: str,
        callbacks: Callbacks,
        outages: Outages,
        look_for_stream: LookForStream,
    ) -> None:
        self._options = options
        request = connect_request(options.credentials, link_id)
        self._login = Login(lambda *_: request, options.tls)
        self._label = label
        self._number = number
        self._state = RLock()
        self._phase_changed = Change()
        self._phase = "closed"
        self._sock: Optional[socket.socket] = None
        self._stream: Optional[Stream] = None  # under TLS
        self._address = options.addresses[0]
        self._outage = LinkState("data", outages, logger, str(self._address))
        self._reconnects = 0
        self._sids = itertools.count(ACK_SID + 1)
        self._threads: list[threading.Thread] = []
        self.callbacks = callbacks
        self._outages = outages
        self._look_for_stream = look_for_stream
        self._refusals = Refusals(str(address) for address in options.addresses)
        self._wake = Event()  # ends the pause between two tries
        self._end_reason = ""  # of the client as a whole
        self._is_refused = False  # whether the last round of tries has made the verdict final
        self.file = FileOutbox(options) if options.outbox else None
        self.core = new_link(options, self.file)
        self.is_open = False
        self.replies = Replies(self)
        self.max_payload = 0
        self.is_memphis = False
        self.max_in_flight = options.max_in_flight

    # ---- life --------------------------------------------------------------------------------------------------

    def open(self, deadline: float) -> None:
        """
        Connects to the first address that answers and starts the threads.

        Args:
            deadline: By ``time.monotonic()``, for all addresses together.

        Raises:
            ConnectError: No address could be reached; the text gives each with its reason.
            AuthenticationError: The credentials were refused.
        """
        watch_forks()
        self._address, connected = self._first(deadline)
        try:
            self.is_memphis = connected.info.is_memphis
            if self.file is not None:
                self.file.recover(self.id_name)
            if not self._attach(connected):
                raise ClosedError("the client is closed")
        except BaseException:
            connected.close()
            raise
        try:
            self._start("sender", self._send)
            self._start("reader", self._read)
            if self.file is not None and self.file.syncs_by_time:
                self._start("fsync", self.file.sync_until_end)
        except BaseException:  # Ctrl-C between the two
            self._end("ended")
            self._close_socket()
            raise
        self._outages.join("data", lambda _: self._wake.set(), self.end)
        self.is_open = True

    def _first(self, deadline: float) -> tuple[ServerAddress, Connected]:
        """The first connection. Raises as open()."""
        steps = connect_first(self._options.addresses, self._login, deadline, self._on_failed)
        return run(steps, self._is_over)

    def _end(self, phase: str, last: Optional[float] = None, reports_until: Optional[float] = None) -> int:
        with self._state:
            self._phase = phase
            self._phase_changed.notify()
        self._wake.set()
        left = let_go(self)
        until = time.monotonic() + JOIN_S if last is None else last
        self.callbacks.retire(max(0.0, (reports_until or until) - time.monotonic()))
        running = join(self._threads, until)
        for thread in running:
            logger.warning("%s did not stop in time", thread.name)
        log_unseen(self.core, self._label)
        if not running:
            self.core.release()  # else when the last ticket of it is gone, which may be long
        return left

    def end(self, reason: str) -> None:
        """The client has ended for good: the threads end in order, by themselves. From any thread, also the loop's."""
        self._end_reason = reason
        self._shut_down()
        self._wake.set()

    def ping(self, timeout_s: float) -> float:
        """
        One PING and PONG. Returns seconds.

        Raises:
            DeadlineError: There was no PONG in time.
            ConnectionLostError: There is no connection, or it ended meanwhile.
        """
        start = time.perf_counter()
        try:
            number = self.core.ping()
            if self.core.wait_pong(number, time.monotonic() + timeout_s):
                return time.perf_counter() - start
        except ConnectionLostError as exc:
            raise ConnectionLostError(f"the data connection to {self._address} is down") from exc
        raise DeadlineError(
            f"ping() had no answer on the data connection to {self._address} within {timeout_s:g} s",
            timeout_s=timeout_s,
        )

    @property
    def id_name(self) -> bytes:
        """The header that this broker knows message ids by."""
        return b"msg-id" if self.is_memphis else b"Nats-Msg-Id"

    @property
    def has_ended(self) -> bool:
        """Whether it takes no messages any more."""
        return self._phase == "ended"

    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._phase == "up" and bool(self.core.is_up())

    def wait_up(self, deadline: float) -> bool:
        """Waits for a connection; False at the deadline. ClosedError once the link has ended."""
        if not self._phase_changed.wait_for(lambda: self._phase != "down", deadline):
            return False
        if self._phase != "up":
            raise ClosedError(f"the client has ended: {self._end_reason or 'it was closed'}")
        return True

    # ---- counts ------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """All counters at one instant; no IO."""
        raw: dict[str, int] = self.core.stats()
        counted = {name: raw[name] for name in _COUNTED}
        counted["unanswered"] = raw["received"] - sum(raw[name] for name in _ANSWERED)
        counted.update({} if self.file is None else self.file.counts())
        return Stats(**counted, reconnects=self._reconnects, callback_errors=self.callbacks.errors)

    def flush(self, timeout_s: Optional[float], owner: int = -1) -> FlushResult:
        """
        Waits until what is accepted now is settled, for at most *timeout_s* (None: no limit but the deadlines).

        Args:
            owner: Whose messages; -1: everybody's.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return FlushResult(self.wait_marked(self.mark(), deadline, owner), self.core.take_failed(owner))

    def mark(self) -> list[Any]:
        """What is accepted now, for wait_marked()."""
        return [self.core.held_mark(), self.core.marks()]

    def wait_marked(self, mark: list[Any], deadline: Optional[float], owner: int = -1) -> int:
        """Waits until what was accepted at *mark* is settled; gives how many of these messages are not."""
        if owner < 0 and mark[0]:  # what is held becomes frames first; no producer has it as its own before
            if self.core.wait_held(mark[0], deadline):
                return int(self.core.outstanding(-1))
            mark[:] = 0, self.core.marks()
        return int(self.core.wait_marks(owner, mark[1], deadline))

    def wait_held(self, deadline: float) -> None:
        """Waits until every message that is held has become a frame, or has ended."""
        self.core.wait_held(self.core.held_mark(), deadline)

    def unseen(self) -> int:
        """How many messages failed without anybody having asked about them."""
        return int(self.core.stats()["unseen"])

    # ---- reports and receive buffers ------------------------------------------------------------------------------

    def watch(self, ticket: Ticket, callback: Callable[[Any], object]) -> bool:
        """Calls *callback* with the ticket on the callbacks thread once it is settled. False: it is settled already."""
        self.callbacks.start()
        return bool(self.core.watch(ticket, callback))

    def new_receive_buffer(self, *, jetstream: bool = False) -> ReceiveBuffer:
        """
        A receive buffer under a subscription number that this link has not used yet.

        Args:
            jetstream: For what the server itself delivers only.
        """
        return ReceiveBuffer(self.core, next(self._sids), jetstream)

    # ---- threads -----------------------------------------------------------------------------------------------

    def _start(self, part: str, target: Callable[[], None]) -> None:
        def run() -> None:
            with own_thread(self.callbacks.post):
                target()

        self._threads.append(start_thread(f"memphis-{part}-{self._number}", run))

    def _send(self) -> None:
        while True:
            try:
                go_on = send_loop(self.core, lambda: self._stream) if self._options.tls else self.core.send_loop()
                if not go_on:
                    return
                log_unseen(self.core, self._label)
                self._ask_about_streams()
            except BaseException as exc:  # noqa: BLE001  a sender that ended would leave every message waiting
                self._survive("sender", exc)
                self._shut_down()  # and so it is made again
                self._wake.wait(PAUSE_S)

    def _ask_about_streams(self) -> None:
        """Has looked for what answers "no responders": it was destroyed, or its cluster elects a leader."""
        while stream := self.core.take_question():
            self._look_for_stream(stream, functools.partial(self.core.answer_question, stream))

    def _read(self) -> None:
        while True:
            try:
                if self._phase != "down" and self._read_until_lost():
                    return
                if self._reconnect():
                    return
            except BaseException as exc:  # noqa: BLE001  a reader that ended would leave every message waiting
                self._survive("reader", exc)
                if self._phase == "up":
                    self._lose(f"{type(exc).__name__} in the reader thread", self.core.detach())
                self._wake.wait(PAUSE_S)

    def _read_until_lost(self) -> bool:
        """Reads until the connection ends; True when it was ended by us."""
        stream = self._stream
        end, errno, text = self.core.read_loop() if stream is None else read_loop(self.core, stream)
        in_flight = self.core.detach()
        if end == LinkEnd.STOPPED or self._phase == "ended":
            self._close_socket()
            return True
        reason = self._end_reason or lost_reason(end, errno, text)
        self._lose(reason, in_flight, is_fault=end == LinkEnd.PROTOCOL)
        return False

    def _lose(self, reason: str, in_flight: int, *, is_fault: bool = False) -> None:
        """The connection is lost, and what was on its way waits in the outbox again."""
        self._close_socket()
        with self._state:
            if self._phase != "up":
                return
            self._phase = "down"
        more = f"{self.core.outstanding(-1)} messages wait, {in_flight} of them sent before, "
        self._outage.lost(reason, more=more, is_fault=is_fault)

    def _survive(self, part: str, exc: BaseException) -> None:
        """The outermost handler of a thread: what nobody foresaw is reported, and the connection is made again."""
        logger.error(
            "%r: the %s thread met an unexpected error and continues with a new connection",
            self._label,
            part,
            exc_info=exc,
            extra={"memphis_client": self._label, "memphis_error": type(exc).__name__},
        )
        self._outage.error(f"{type(exc).__name__} in the {part} thread: {exc}")

    def _shut_down(self) -> None:
        """Ends the connection, if there is one; the reader notices."""
        with self._state:
            if self._sock is not None:
                end(self._sock)

    def _give_up(self, reason: str) -> bool:
        """The link has ended for good, and with it the client. Gives True."""
        with self._state:
            if self._phase == "ended":
                return True
        self._outage.gave_up(reason)
        self._end_reason = self._end_reason or reason
        self._end("ended")
        return True

    def _reconnect(self) -> bool:
        """Connects again; True when that is over for good."""
        options, outage = self._options, self._outage
        if not options.reconnect:
            return self._give_up(outage.reason)
        after = options.addresses.index(self._address) + 1
        # The lost one last: it is the one most likely to be away.
        order = options.addresses[after:] + options.addresses[:after]
        while options.max_reconnect < 0 or outage.attempts < options.max_reconnect:
            self._wake.wait(outage.pause_s())
            self._wake.clear()
            if self._is_over():
                return self._give_up(self._end_reason or "closed")
            outage.attempts += 1
            try:
                connected = self._connect_again(order, time.monotonic() + options.timeout_ms / 1000)
            except ConnectError as exc:
                logger.debug("%r: attempt %d: %s", self._label, outage.attempts, exc)
                if self._is_refused:
                    return self._give_up(f"{exc}; {REFUSALS} times by each address")
                continue
            try:
                is_attached = self._attach(connected)
            except BaseException:
                connected.close()
                raise
            if not is_attached:
                connected.close()
                return self._give_up("closed")
            self._reconnects += 1
            outage.back(f"; {self.core.outstanding(-1)} messages sent again")
            return False
        return self._give_up(outage.reason)

    # ---- connection --------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._phase == "ended" or bool(self._end_reason)

    def _connect_again(self, order: Sequence[ServerAddress], deadline: float) -> Connected:
        """One try after a loss."""
        self._is_refused = False
        steps = connect_again(order, self._login, deadline, self._on_failed, at_once=self._outage.attempts > 1)
        self._address, connected = run(steps, self._is_over)
        self._refusals.clear()
        return connected

    def _on_failed(self, address: ServerAddress, error: ConnectError) -> None:
        logger.debug("%r: %s", self._label, error)
        if isinstance(error, AuthenticationError) and self._outage.is_lost:
            self._is_refused = self._refusals.add(str(address))

    def _attach(self, connected: Connected) -> bool:
        first = connected.first + encode_sub(b"_INBOX.%s.*" % self.core.token, ACK_SID)
        self.max_payload = connected.info.max_payload
        self.core.set_max_payload(self.max_payload)
        with self._state:
            if self._phase == "ended":
                return False
            self._sock = connected.sock
            self._stream = None if connected.tls is None else Stream(connected.sock, connected.tls)
            if not self.core.attach(connected.sock.fileno(), first, connected.rest):
                return False
            self._phase = "up"
            self._outage.up(str(self._address))
            self._phase_changed.notify()
        return True

    def _close_socket(self) -> None:
        with self._state:
            sock, self._sock, self._stream = self._sock, None, None
        if sock is not None:
            end(sock)
            sock.close()

    def close_inherited(self) -> None:
        """In a forked child: closes its copy of the socket, of which nobody hears; takes no lock."""
        sock = self._sock
        if sock is not None:
            sock.close()
