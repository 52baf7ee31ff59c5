"""
The outbox against a model, in any order of events: append, ack, refuse, expire, cut, reconnect, close, abandon.

The outbox is the real one, driven as the client drives it: a Link with its sender and reader threads over a socket
pair. The other end is this test. It sees the frames, so it knows what is in flight, and each step ends when both sides
must agree: on the counters, on each ticket, on each lane's order.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memphis_sync._core import _cffi, _cython
from memphis_sync.errors import BufferFullError, ClosedError, PayloadTooLargeError

SECOND = 1_000_000_000
PENDING, DELIVERED, REFUSED, NO_RESPONDERS, EXPIRED, ABANDONED, UNKNOWN = range(7)
FAILED = (REFUSED, NO_RESPONDERS, EXPIRED, UNKNOWN)
EXPRESS = 1 << 62
SUB = b"SUB _INBOX.token.* 1\r\n"
HPUB = re.compile(rb"HPUB (\S+) _INBOX\.token\.(e?)(\d+) (\d+) (\d+)\r\n")

MAX_MESSAGES = 12
MAX_BYTES = 2048
WINDOW = 5  # below 8, where a full window is left with the first ack
OWNERS = 2

# For the whole module: the core counts threads, and gives each a number of its own only up to a limit.
WORKERS = [ThreadPoolExecutor(1, thread_name_prefix="test-append") for _ in range(3)]


class Model:
    """One accepted message."""

    def __init__(self, ticket: Any, payload: bytes, owner: int, thread: int, frame_len: int) -> None:
        self.ticket = ticket
        self.slot: int = ticket.slot
        self.is_express = self.slot >= EXPRESS
        self.payload = payload
        self.owner = owner
        self.thread = thread
        self.frame_len = frame_len
        self.outcome = PENDING
        self.is_written = False
        self.was_ever_written = False
        self.is_unsure = False  # a connection was lost before it was answered
        self.sequence = 0
        self.is_duplicate = False
        self.refusal: Optional[tuple[int, int, str]] = None


class OutboxMachine(RuleBasedStateMachine):
    """Of one binding: subclasses name it."""

    binding: Any

    def __init__(self) -> None:
        super().__init__()
        self.link = self.binding.Link(b"token", MAX_BYTES, MAX_MESSAGES, WINDOW, 1 << 20)
        self.routes = [
            self.binding.Route(
                self.link, b"orders$%d.final" % i, b"Nats-Msg-Id", b"k: v\r\n", self.link.owner_new(), i == 0, None
            )
            for i in range(OWNERS)
        ]
        self.messages: list[Model] = []
        self.head = {False: 0, True: 0}  # of each lane, in its slots
        self.totals = {"buffer_full": 0, "resent": 0}
        self.expected_reports: deque[Any] = deque()
        self.reported: set[int] = set()
        self.peer: Optional[socket.socket] = None
        self.near: Optional[socket.socket] = None
        self.is_closed = False
        self.sequence = 0
        self.rest = b""
        self.reader: Optional[threading.Thread] = None
        self.sender = threading.Thread(target=self._send, name="test-sender", daemon=True)
        self.sender.start()

    def _send(self) -> None:
        while self.link.send_loop():
            self.link.take_unseen()

    # ---- the model -------------------------------------------------------------------------------------------------

    def lane(self, is_express: bool) -> list[Model]:
        return [message for message in self.messages if message.is_express == is_express]

    def kept(self, is_express: bool) -> list[Model]:
        """What takes room: all from the oldest unsettled on."""
        lane = self.lane(is_express)
        while self.head[is_express] < len(lane) and lane[self.head[is_express]].outcome != PENDING:
            self.head[is_express] += 1
        return lane[self.head[is_express] :]

    def pending(self) -> list[Model]:
        return [message for message in self.messages if message.outcome == PENDING]

    def in_flight(self, is_express: bool) -> int:
        return sum(message.is_written for message in self.pending() if message.is_express == is_express)

    def must_fit(self, is_express: bool, lengths: list[int]) -> Optional[bool]:
        """Whether frames of these lengths have to be taken; None where the ring's end decides."""
        kept = self.kept(is_express)
        if not kept:
            return sum(lengths) <= MAX_BYTES if len(lengths) == 1 else None
        if len(kept) + len(lengths) > MAX_MESSAGES:
            return False
        span = sum(message.frame_len for message in kept) + sum(lengths)
        if span > MAX_BYTES:
            return False
        gap = max([message.frame_len for message in kept] + lengths)
        return True if span + gap <= MAX_BYTES else None

    def frame_len(self, route_index: int, payload: bytes, slot: int) -> int:
        digits = b"%d" % (slot % EXPRESS)
        mark = b"e" if slot >= EXPRESS else b""
        block = b"NATS/1.0\r\n"
        if route_index == 0:
            block += b"Nats-Msg-Id: token-%s%s\r\n" % (mark, digits)
        block += b"k: v\r\n\r\n"
        subject = b"orders$%d.final" % route_index
        reply = b"_INBOX.token.%s%s" % (mark, digits)
        sizes = b"%d %d" % (len(block), len(block) + len(payload))
        return len(b"HPUB %s %s %s\r\n" % (subject, reply, sizes)) + len(block) + len(payload) + 2

    def settle(self, message: Model, outcome: int) -> None:
        assert message.outcome == PENDING
        message.outcome = outcome
        message.is_written = False
        if id(message.ticket) in self.reported:
            self.expected_reports.append(message.ticket)

    # ---- the peer --------------------------------------------------------------------------------------------------

    def read_frames(self) -> None:
        """Reads what the sender has to write now, and nothing else, in each lane's order."""
        if self.peer is None:
            return
        for is_express in (True, False):
            self._expect(is_express)
        for is_express, due in self._due.items():
            assert not due, f"lane {is_express} sent nothing of {[m.slot for m in due]}"

    def _expect(self, is_express: bool) -> None:
        self._due = {lane: self._sendable(lane) for lane in (True, False)}
        while any(self._due.values()):
            mark, number = self._next_frame()
            due = self._due[mark]
            assert due, f"a frame too many: {number} of lane {mark}"
            message = due.pop(0)
            assert message.slot % EXPRESS == number, "frames go out in the lane's order"
            message.is_written = True
            self.totals["resent"] += message.was_ever_written
            message.was_ever_written = True

    def _sendable(self, is_express: bool) -> list[Model]:
        queued = [m for m in self.pending() if m.is_express == is_express and not m.is_written]
        return queued[: max(WINDOW - self.in_flight(is_express), 0)]

    def _next_frame(self) -> tuple[bool, int]:
        while True:
            if self.rest.startswith(b"PING\r\n"):
                self.rest = self.rest[6:]
                continue
            found = HPUB.match(self.rest)
            if found:
                end = found.end() + int(found[5]) + 2
                if len(self.rest) >= end:
                    frame, self.rest = self.rest[:end], self.rest[end:]
                    is_express, number = found[2] == b"e", int(found[3])
                    (message,) = [m for m in self.lane(is_express) if m.slot % EXPRESS == number]
                    assert len(frame) == message.frame_len
                    assert frame.endswith(b"\r\n\r\n" + message.payload + b"\r\n")
                    return is_express, number
            assert self.peer is not None
            data = self.peer.recv(65536)
            assert data, "the link closed its side"
            self.rest += data

    def answer(self, message: Model, body: bytes, headers: bytes = b"") -> bytes:
        subject = b"_INBOX.token.%s%d" % (b"e" if message.is_express else b"", message.slot % EXPRESS)
        if headers:
            return b"HMSG %s 1 %d %d\r\n%s%s\r\n" % (subject, len(headers), len(headers) + len(body), headers, body)
        return b"MSG %s 1 %d\r\n%s\r\n" % (subject, len(body), body)

    def send(self, data: bytes) -> None:
        """Sends, and waits until the reader has dealt with it: its pong comes behind."""
        assert self.peer is not None
        self.peer.sendall(data + b"PONG\r\n")
        assert self.link.wait_pong(self.link.ping(), time.monotonic() + 10)

    # ---- rules -----------------------------------------------------------------------------------------------------

    @initialize()
    def connect_first(self) -> None:
        self.connect()

    @precondition(lambda self: self.peer is None)
    @rule()
    def connect(self) -> None:
        self.near, self.peer = socket.socketpair()
        self.peer.settimeout(10)
        self.rest = b""
        assert self.link.attach(self.near.fileno(), SUB, b"")
        self.reader = threading.Thread(target=self.link.read_loop, name="test-reader", daemon=True)
        self.reader.start()
        while len(self.rest) < len(SUB):
            self.rest += self.peer.recv(65536)
        assert self.rest.startswith(SUB), "the subscription goes before all messages"
        self.rest = self.rest[len(SUB) :]
        self.read_frames()

    @precondition(lambda self: self.peer is not None)
    @rule(torn=st.booleans(), data=st.data())
    def cut(self, torn: bool, data: st.DataObject) -> None:
        """The connection ends, perhaps in the middle of an ack, which then counts for nothing."""
        assert self.peer is not None
        assert self.near is not None
        assert self.reader is not None
        written = [message for message in self.pending() if message.is_written]
        if torn and written:
            whole = self.answer(data.draw(st.sampled_from(written)), b'{"stream":"orders$0","seq":1}')
            self.peer.sendall(whole[: data.draw(st.integers(1, len(whole) - 1))])
        self.peer.close()
        self.reader.join(10)
        assert not self.reader.is_alive()
        assert self.link.detach() == len(written)
        self.near.close()
        self.peer = self.near = self.reader = None
        for message in written:
            message.is_written = False
            message.is_unsure = True

    @rule(
        thread=st.integers(0, len(WORKERS) - 1),
        owner=st.integers(0, OWNERS - 1),
        size=st.sampled_from([0, 1, 30, 200, 700]),
        way=st.sampled_from(["bulk", "bulk", "urgent", "report"]),
    )
    def append(self, thread: int, owner: int, size: int, way: str) -> None:
        self._append(thread, owner, bytes([97 + len(self.messages) % 26]) * size, way, 3600 * SECOND)

    def _append(self, thread: int, owner: int, payload: bytes, way: str, timeout_ns: int) -> Optional[Model]:
        route, kind = self.routes[owner], self.binding.Ticket
        lane = self._lane_for(thread, way == "urgent", [self._len_next(owner, payload, is_express=True)])
        length = self._len_next(owner, payload, is_express=lane)

        def call() -> Any:
            if way == "urgent":
                (ticket,) = self.link.send_all([route], payload, b"", b"", timeout_ns, kind, True)
                self.link.push()
                return ticket
            return route.send(payload, b"", b"", timeout_ns, kind, print if way == "report" else None)

        ticket = self._try(thread, call, lambda: self.must_fit(lane, [length]))
        if ticket is None:
            return None
        message = Model(ticket, payload, owner, thread, self.frame_len(owner, payload, ticket.slot))
        assert message.is_express == lane or self.must_fit(True, [length]) is None
        assert message.slot % EXPRESS == len(self.lane(message.is_express)), "slots have no gaps"
        self.messages.append(message)
        if way == "report":
            self.reported.add(id(ticket))
        self.read_frames()
        return message

    def _len_next(self, owner: int, payload: bytes, *, is_express: bool) -> int:
        return self.frame_len(owner, payload, len(self.lane(is_express)) + (EXPRESS if is_express else 0))

    def _lane_for(self, thread: int, is_urgent: bool, lengths: list[int]) -> bool:
        """An urgent message takes the express lane if that keeps its thread's order, and if it fits."""
        backlog = any(m.thread == thread and not m.is_express for m in self.pending())
        return is_urgent and not backlog and self.must_fit(True, lengths) is not False

    def _try(self, thread: int, call: Any, must_fit: Any) -> Any:
        """Calls on a worker; checks that it is refused when it has to be, and only then."""
        if self.is_closed:
            with pytest.raises(ClosedError):
                WORKERS[thread].submit(call).result(10)
            return None
        expected = must_fit()
        for attempt in range(200):
            try:
                ticket = WORKERS[thread].submit(call).result(10)
            except PayloadTooLargeError:
                return None
            except BufferFullError:
                self.totals["buffer_full"] += 1
                if not expected:
                    return None
                # The sender may still hold the bytes of what it has just written; soon it does not.
                threading.Event().wait(0.001 * attempt)
                continue
            assert expected is not False, "more was taken than the bounds allow"
            return ticket
        raise AssertionError("no room for a message that fits")

    @rule(thread=st.integers(0, len(WORKERS) - 1), size=st.sampled_from([0, 40, 300]))
    def append_to_both(self, thread: int, size: int) -> None:
        """Several stations: all of them or none."""
        payload = bytes([65 + len(self.messages) % 26]) * size
        lengths = [self._len_next(owner, payload, is_express=False) + 1 for owner in range(OWNERS)]
        kind = self.binding.Ticket

        def fits() -> Optional[bool]:
            return None if self.must_fit(False, lengths) else self.must_fit(False, [length - 1 for length in lengths])

        tickets = self._try(
            thread, lambda: self.link.send_all(self.routes, payload, b"", b"", 3600 * SECOND, kind), fits
        )
        if tickets is None:
            return
        for owner, ticket in enumerate(tickets):
            assert ticket.slot == len(self.lane(is_express=False))
            self.messages.append(Model(ticket, payload, owner, thread, self.frame_len(owner, payload, ticket.slot)))
        self.read_frames()

    @precondition(lambda self: self.peer is not None and any(m.is_written for m in self.pending()))
    @rule(data=st.data(), kind=st.sampled_from(["ack", "ack", "duplicate", "refuse", "nobody"]), split=st.booleans())
    def answer_one(self, data: st.DataObject, kind: str, split: bool) -> None:
        written = [message for message in self.pending() if message.is_written]
        message = data.draw(st.sampled_from(written))
        self.sequence += 1
        headers = b""
        if kind == "refuse":
            body = (
                b'{"type":"x","error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},'
                b'"stream":"orders$%d"}' % message.owner
            )
            message.refusal = (503, 10077, "maximum messages exceeded")
        elif kind == "nobody":
            body, headers = b"", b"NATS/1.0 503\r\n\r\n"
        else:
            extra = b',"duplicate":true' if kind == "duplicate" else b""
            body = b'{"stream":"orders$%d","seq":%d%s}' % (message.owner, self.sequence, extra)
            message.sequence, message.is_duplicate = self.sequence, kind == "duplicate"
        frame = self.answer(message, body, headers)
        outcome = {"refuse": REFUSED, "nobody": NO_RESPONDERS}.get(kind, DELIVERED)
        if outcome != DELIVERED and message.is_unsure:
            outcome = UNKNOWN
        if split:
            cut = data.draw(st.integers(1, len(frame) - 1))
            assert self.peer is not None
            self.peer.sendall(frame[:cut])
            frame = frame[cut:]
        self.send(frame)
        if kind == "nobody":
            assert message.ticket.wait(time.monotonic() + 10) == outcome
        self.settle(message, outcome)
        self.read_frames()

    @precondition(lambda self: self.peer is not None and any(m.is_written for m in self.pending()))
    @rule()
    def answer_all(self) -> None:
        frames = b""
        for message in [message for message in self.pending() if message.is_written]:
            self.sequence += 1
            message.sequence = self.sequence
            frames += self.answer(message, b'{"stream":"orders$%d","seq":%d}' % (message.owner, self.sequence))
            self.settle(message, DELIVERED)
        self.send(frames)
        self.read_frames()

    @precondition(lambda self: self.peer is not None and self.messages)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        """A late or strange answer to what is settled, or was never given out, changes nothing."""
        settled = [message for message in self.messages if message.outcome != PENDING]
        frames = b"MSG _INBOX.token.999999 1 2\r\n{}\r\nMSG _INBOX.token.x 1 2\r\n{}\r\n"
        if settled:
            frames += self.answer(data.draw(st.sampled_from(settled)), b'{"stream":"orders$0","seq":77}')
        self.send(frames)

    @rule(thread=st.integers(0, len(WORKERS) - 1), way=st.sampled_from(["bulk", "urgent", "report"]))
    def append_and_expire(self, thread: int, way: str) -> None:
        message = self._append(thread, 1, b"short", way, 60_000_000)  # long enough to be written on a busy machine
        if message is None:
            return
        assert message.ticket.wait(time.monotonic() + 10) == EXPIRED
        self.settle(message, EXPIRED)
        self.read_frames()

    @rule()
    def take_reports(self) -> None:
        """Each settled message that asked for it is reported once, in the order of settling."""
        got = []
        while reports := self.link.wait_reports(0):
            got += [ticket for ticket, _ in reports]
        assert [ticket.slot for ticket in got] == [ticket.slot for ticket in self.expected_reports]
        self.expected_reports.clear()

    @precondition(lambda self: len(self.messages) > 15)
    @rule()
    def close(self) -> None:
        """Nothing more is taken; what was taken goes on."""
        self.link.close()
        self.is_closed = True

    @precondition(lambda self: self.is_closed)
    @rule()
    def abandon(self) -> None:
        left = self.pending()
        assert self.link.abandon() == len(left)
        for message in left:
            self.settle(message, ABANDONED)

    # ---- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def counters_agree(self) -> None:
        stats = self.link.stats()
        outcomes = [message.outcome for message in self.messages]
        flying = self.in_flight(is_express=True) + self.in_flight(is_express=False)
        expected = {
            "accepted": len(self.messages),
            "delivered": outcomes.count(DELIVERED),
            "duplicates": sum(message.is_duplicate for message in self.messages),
            "failed": sum(outcome in FAILED for outcome in outcomes),
            "abandoned": outcomes.count(ABANDONED),
            "queued": outcomes.count(PENDING) - flying,
            "queued_bytes": sum(message.frame_len for message in self.pending() if not message.is_written),
            "in_flight": flying,
            **self.totals,
        }
        assert {name: stats[name] for name in expected} == expected
        for owner in range(OWNERS):
            assert self.link.outstanding(owner) == sum(message.owner == owner for message in self.pending())
        assert self.link.wait_drained(-1, 0) == len(self.pending())

    @invariant()
    def each_message_has_one_outcome(self) -> None:
        for message in self.messages:
            ticket = message.ticket
            assert ticket.outcome == message.outcome
            if message.outcome == DELIVERED:
                assert (ticket.sequence, ticket.duplicate) == (message.sequence, message.is_duplicate)
            elif message.outcome == REFUSED:
                assert ticket.failure[1:] == message.refusal
            if message.outcome != PENDING:
                assert ticket.failure[0] == message.was_ever_written

    def teardown(self) -> None:
        self.link.close()
        self.link.abandon()
        self.link.stop()
        for thread in (self.sender, self.reader):
            if thread is not None:
                thread.join(10)
                assert not thread.is_alive()
        for sock in (self.near, self.peer):
            if sock is not None:
                sock.close()


@pytest.mark.slow
@pytest.mark.parametrize("examples", [25, pytest.param(200, marks=pytest.mark.large)])
@pytest.mark.parametrize("binding", [_cython, _cffi], ids=lambda module: module.IMPL)
def test_the_outbox_does_what_its_model_does(binding: Any, examples: int) -> None:
    machine = type("Machine", (OutboxMachine,), {"binding": binding})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
