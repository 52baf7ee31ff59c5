"""
Link, Route, Ticket, ReceiveBuffer and RawMessage of Cython and of cffi: the same calls, results, errors and texts.

The peer is a socket pair and a script: it reads what the sender writes and answers as a JetStream server would. What
the link does on a real server is tested through the public classes.
"""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Callable

import pytest

from memphis_sync._core import _cffi, _cython
from memphis_sync.errors import (
    BufferFullError,
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    ForkedError,
    PayloadTooLargeError,
)

SECOND = 1_000_000_000
LONG = 60 * SECOND


def soon(seconds: float) -> float:
    """Until when to wait for so long."""
    return time.monotonic() + seconds


PENDING, DELIVERED, REFUSED, NO_RESPONDERS, EXPIRED, ABANDONED, UNKNOWN = range(7)
TIMEOUT, CLOSED = -13, -11
STATION = b"orders$1.final"

HPUB = re.compile(rb"HPUB (\S+) (\S+) (\d+) (\d+)\r\n")
PLAIN_PUB = re.compile(rb"PUB (\S+) (?:(\S+) )?(\d+)\r\n")


@pytest.fixture(params=[_cython, _cffi], ids=lambda module: module.IMPL)
def binding(request: pytest.FixtureRequest):
    return request.param


def link_of(
    binding, *, max_bytes: int = 1 << 20, max_messages: int = 1000, window: int = 100, max_payload: int = 1 << 20
):
    return binding.Link(b"token", max_bytes, max_messages, window, max_payload)


def route_of(binding, link, *, fixed: bytes = b"k: v\r\n", auto_id: bool = True, target: object = "target"):
    return binding.Route(link, STATION, b"Nats-Msg-Id", fixed, link.owner_new(), auto_id, target)


class Peer:
    """The other end of a link's socket, and the two threads of the link."""

    def __init__(self, link) -> None:
        self.link = link
        self.near, self.far = socket.socketpair()
        self.far.settimeout(10)
        self.received = b""
        self.ended: list[tuple[int, int, str]] = []
        assert link.attach(self.near.fileno(), b"SUB _INBOX.token.* 1\r\n", b"")
        self.threads = [
            threading.Thread(target=lambda: self.ended.append(link.read_loop())),
            threading.Thread(target=self._send),
        ]
        for thread in self.threads:
            thread.start()
        self.expect(b"SUB _INBOX.token.* 1\r\n")

    def _send(self) -> None:
        while self.link.send_loop():
            pass

    def _more(self) -> None:
        data = self.far.recv(65536)
        assert data, "the link closed its socket"
        self.received += data

    def expect(self, wanted: bytes) -> None:
        while len(self.received) < len(wanted):
            self._more()
        assert self.received.startswith(wanted)
        self.received = self.received[len(wanted) :]

    def message(self) -> tuple[bytes, bytes, bytes]:
        """The reply subject, header block and payload of the next HPUB."""
        while not (line := HPUB.match(self.received)) or len(self.received) < line.end() + int(line[4]) + 2:
            self._more()
        assert line[1] == STATION
        start, header, total = line.end(), int(line[3]), int(line[4])
        body = self.received[start : start + total]
        assert self.received[start + total : start + total + 2] == b"\r\n"
        self.received = self.received[start + total + 2 :]
        return line[2], body[:header], body[header:]

    def send(self, data: bytes) -> None:
        self.far.sendall(data)

    def answer(self, reply: bytes, json: bytes) -> None:
        self.send(b"MSG %b 1 %d\r\n%b\r\n" % (reply, len(json), json))

    def close(self) -> None:
        self.link.stop()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.near.close()
        self.far.close()


@pytest.fixture
def peer(binding) -> Iterator[Peer]:
    with closing(Peer(link_of(binding))) as peer:
        yield peer


def test_a_message_goes_out_with_its_headers_and_its_ack_settles_the_ticket(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link)
    assert (route.link, route.subject, route.id_name, route.fixed, route.target) == (
        peer.link,
        STATION,
        b"Nats-Msg-Id",
        b"k: v\r\n",
        "target",
    )
    ticket = route.send("ключ", b"mine: 1\r\n", b"", LONG, binding.Ticket)
    assert type(ticket) is binding.Ticket
    assert ticket.route is route
    assert (ticket.slot, ticket.outcome, ticket.message_id) == (0, PENDING, "token-0")
    reply, block, payload = peer.message()
    assert reply == b"_INBOX.token.0"
    assert sorted(binding.parse_headers(block)[2]) == [("Nats-Msg-Id", "token-0"), ("k", "v"), ("mine", "1")]
    assert payload == "ключ".encode()
    assert peer.link.outstanding() == 1
    peer.answer(reply, b'{"stream":"orders$1", "seq":12,"duplicate": true}')
    assert ticket.wait(soon(10)) == DELIVERED
    assert (ticket.sequence, ticket.duplicate, ticket.failure) == (12, True, (True, 0, 0, ""))
    assert peer.link.wait_drained(-1, soon(1)) == 0


def test_every_payload_type_and_ids_of_the_callers_own(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link, fixed=b"", auto_id=False)
    source = bytearray(b"bytearray")
    for payload, wire in [
        (b"", b""),
        (b"\0\r\n\xff", b"\0\r\n\xff"),
        (source, b"bytearray"),
        (memoryview(b"xviewx")[1:5], b"view"),
        ("é", "é".encode()),
    ]:
        ticket = route.send(payload, b"", b"id-1", LONG, binding.Ticket)
        assert ticket.message_id == "id-1"
        assert peer.message()[1:] == (b"NATS/1.0\r\nNats-Msg-Id: id-1\r\n\r\n", wire)
    source += b" is not kept"
    assert route.send(b"", b"a: b\r\n", b"", LONG, binding.Ticket).message_id is None
    assert peer.message()[1] == b"NATS/1.0\r\na: b\r\n\r\n"
    for bad in (1, {}):
        with pytest.raises(TypeError, match=rf"^a bytes-like object is required, not '{type(bad).__name__}'$"):
            route.send(bad, b"", b"", LONG, binding.Ticket)
    with pytest.raises(UnicodeEncodeError):
        route.send("\udcff", b"", b"", LONG, binding.Ticket)
    assert peer.link.stats()["accepted"] == 6


def test_refusals_no_responders_and_deadlines(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link)
    refused, gone = (route.send(b"x", b"", b"", LONG, binding.Ticket) for _ in range(2))
    late = route.send(b"x", b"", b"", SECOND // 4, binding.Ticket)
    replies = [peer.message()[0] for _ in range(3)]
    peer.answer(
        replies[0],
        b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 17"},"stream":"orders$1","seq":0}',
    )
    peer.send(b"HMSG %b 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % replies[1])
    assert [ticket.wait(soon(10)) for ticket in (refused, gone, late)] == [REFUSED, NO_RESPONDERS, EXPIRED]
    assert refused.failure == (True, 400, 10071, "wrong last sequence: 17")
    stats = peer.link.stats()
    assert (stats["accepted"], stats["failed"], stats["in_flight"], stats["queued"]) == (3, 3, 0, 0)
    assert set(stats) >= {
        "delivered",
        "abandoned",
        "buffer_full",
        "queued_bytes",
        "unseen",
        "max_bytes",
        "max_messages",
    }


def test_a_deadline_is_kept_when_it_is_set_while_the_sender_writes(binding, peer: Peer) -> None:
    """The sender sleeps until the nearest deadline; one that came while it was writing must not be overlooked."""
    route = route_of(binding, peer.link)
    large = b"x" * 100_000
    for _ in range(150):
        kept = route.send(large, b"", b"", LONG, binding.Ticket)
        late = route.send(b"y", b"", b"", SECOND // 1000, binding.Ticket)
        reply = b"_INBOX.token.%d" % kept.slot
        while peer.message()[0] != reply:  # the late ones come too, unless they expire unwritten
            pass
        assert late.wait(soon(5)) == EXPIRED
        peer.answer(reply, b'{"stream":"orders$1","seq":1}')
        assert kept.wait(soon(5)) == DELIVERED


def test_send_and_wait_returns_at_the_ack_or_at_the_deadline(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link)
    ticket = route.send_and_wait(b"x", b"", b"", SECOND // 100, binding.Ticket)
    assert ticket.outcome == EXPIRED
    peer.message()
    answering = threading.Thread(target=lambda: peer.answer(peer.message()[0], b'{"stream":"orders$1","seq":7}'))
    answering.start()
    ticket = route.send_and_wait(b"y", b"", b"", LONG, binding.Ticket)
    answering.join(10)
    assert (ticket.outcome, ticket.sequence, ticket.duplicate) == (DELIVERED, 7, False)


def test_one_message_to_several_routes(binding, peer: Peer) -> None:
    link = peer.link
    routes = [route_of(binding, link, target=number) for number in range(3)]
    tickets = link.send_all(routes, b"same", b"", b"id", LONG, binding.Ticket)
    assert [ticket.route.target for ticket in tickets] == [0, 1, 2]
    assert [ticket.slot for ticket in tickets] == [0, 1, 2]
    assert [peer.message()[2] for _ in range(3)] == [b"same"] * 3
    for count in (0, 65):
        with pytest.raises(ConfigurationError, match=rf"^a producer can have 1 to 64 stations, not {count}$"):
            link.send_all(routes[:1] * count, b"x", b"", b"", LONG, binding.Ticket)


def test_a_payload_of_its_own_for_each_route(binding, peer: Peer) -> None:
    link = peer.link
    routes = [route_of(binding, link, target=number) for number in range(3)]
    tickets = link.send_all(routes, [b"one", b"", b"three" * 100], b"", b"id", LONG, binding.Ticket)
    assert [ticket.slot for ticket in tickets] == [0, 1, 2]
    assert [peer.message()[2] for _ in range(3)] == [b"one", b"", b"three" * 100]
    for payloads in ([], [b"x"], [b"x"] * 4):
        with pytest.raises(ConfigurationError, match=rf"^{len(payloads)} payloads for 3 stations$"):
            link.send_all(routes, payloads, b"", b"id", LONG, binding.Ticket)
    for wrong in ([b"x", 5, b"y"], [b"x", "text", b"y"]):
        with pytest.raises(TypeError):
            link.send_all(routes, wrong, b"", b"id", LONG, binding.Ticket)


def test_payloads_that_do_not_all_fit_leave_nothing_behind(binding) -> None:
    link = link_of(binding, max_bytes=1 << 12, max_messages=10, max_payload=3000)
    routes = [route_of(binding, link, target=number) for number in range(2)]
    with pytest.raises(PayloadTooLargeError, match=r"^message of 3000 bytes with "):
        link.send_all(routes, [b"x", b"y" * 3000], b"", b"", LONG, binding.Ticket)
    with pytest.raises(PayloadTooLargeError, match="larger than the whole outbox"):
        link.send_all(routes, [b"x" * 2500, b"y" * 2500], b"", b"", LONG, binding.Ticket)
    link.send_all(routes, [b"x" * 1000, b"y"], b"", b"", LONG, binding.Ticket)
    with pytest.raises(BufferFullError):
        link.send_all(routes, [b"x", b"y" * 2900], b"", b"", LONG, binding.Ticket)
    assert link.stats()["accepted"] == 2


def test_what_does_not_fit_is_refused_with_the_same_words(binding) -> None:
    link = link_of(binding, max_messages=2, max_payload=1000)
    route = route_of(binding, link)
    tickets = [route.send(b"x", b"", b"", LONG, binding.Ticket) for _ in range(2)]
    with pytest.raises(BufferFullError) as full:
        route.send(b"x", b"", b"", LONG, binding.Ticket)
    assert str(full.value) == (
        "the outbox is full: 2 messages wait for the broker, and it takes outbox_max_messages=2 in "
        f"outbox_max_bytes={1 << 20}; raise these options of connect(), or make produce() wait for space: "
        "block_on_full_s of the producer, or produce_many()"
    )
    assert not link.wait_room(10, soon(0.001))
    with pytest.raises(PayloadTooLargeError) as large:
        route.send(b"x" * 1000, b"", b"", LONG, binding.Ticket)
    assert str(large.value) == (
        "message of 1000 bytes with 60 bytes of headers: the broker accepts at most max_payload=1000 bytes for both"
    )
    link.set_max_payload(1 << 22)
    with pytest.raises(PayloadTooLargeError, match=r"^message of 2097152 bytes: its frame is larger than the whole"):
        route.send(b"x" * (1 << 21), b"", b"", LONG, binding.Ticket)
    assert link.stats()["buffer_full"] == 1
    link.close()
    with pytest.raises(ClosedError, match=r"^the client is closed; the message was not accepted$"):
        route.send(b"x", b"", b"", LONG, binding.Ticket)
    with pytest.raises(ClosedError, match=r"^the client is closed$"):
        link.wait_room(10, soon(1))
    assert link.abandon() == 2
    assert [ticket.outcome for ticket in tickets] == [ABANDONED] * 2
    assert [ticket.failure[0] for ticket in tickets] == [False] * 2


def test_frame_size_is_an_upper_bound(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link)
    size = route.frame_size(100, 10, 0)
    route.send(b"x" * 100, b"abcd: ef\r\n", b"", LONG, binding.Ticket)
    reply, block, payload = peer.message()
    frame = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (STATION, reply, len(block), len(block + payload), block, payload)
    assert len(frame) <= size <= len(frame) + 120


def test_backlogs_are_counted_by_owner(binding) -> None:
    link = link_of(binding)
    first, second = route_of(binding, link), route_of(binding, link)
    for route in (first, first, second):
        route.send(b"x", b"", b"", LONG, binding.Ticket)
    assert [link.outstanding(owner) for owner in (-1, 0, 1)] == [3, 2, 1]
    assert link.wait_drained(1, soon(0.001)) == 1


def test_marks_are_of_what_was_accepted_before_them(binding) -> None:
    link = link_of(binding)
    first, second = route_of(binding, link), route_of(binding, link)
    for route in (first, first, second):
        route.send(b"x", b"", b"", LONG, binding.Ticket)
    marks = link.marks()
    second.send(b"later", b"", b"", LONG, binding.Ticket)
    assert [link.wait_marks(owner, marks, soon(0.001)) for owner in (-1, 0, 1)] == [3, 2, 1]
    assert link.take_failed() == 0
    link.close()
    link.abandon()
    assert [link.wait_marks(owner, marks, None) for owner in (-1, 0, 1)] == [0, 0, 0]
    assert [link.take_failed(owner) for owner in (-1, 0, 1)] == [4, 2, 2]
    assert [link.take_failed(owner) for owner in (-1, 0, 1)] == [0, 0, 0]


def test_a_released_link_answers_every_call_as_a_closed_and_empty_one(binding) -> None:
    link = link_of(binding)
    route = route_of(binding, link)
    ticket = route.send(b"x", b"", b"", LONG, binding.Ticket)
    inbox = binding.ReceiveBuffer(link, 7)
    assert not link.release()
    link.close()
    assert not link.release()
    link.abandon()
    link.stop()
    assert link.release()
    assert link.release()
    assert (ticket.outcome, ticket.wait(0), ticket.observe()) == (ABANDONED,) * 3
    for send in (route.send, route.send_and_wait):
        with pytest.raises(ClosedError):
            send(b"x", b"", b"", LONG, binding.Ticket)
    with pytest.raises(ConnectionLostError):
        link.write(b"PING\r\n")
    with pytest.raises(ConnectionLostError):
        link.ping()
    with pytest.raises(ClosedError):
        link.wait_room(10, soon(1))
    assert (link.outstanding(), link.wait_drained(-1, soon(1)), link.abandon(), link.is_up()) == (0, 0, 0, False)
    assert link.stats()["abandoned"] == 1
    assert route.frame_size(1, 0, 0) > 0
    assert not link.watch(ticket, print)
    assert link.wait_reports(0) == []
    assert not link.send_loop()
    assert inbox.is_closed
    link.push()
    link.wake()
    link.detach()


def subclass(binding):
    """One without state of its own, as producers use."""
    return type("Delivery", (binding.Ticket,), {"__slots__": (), "extra": lambda self: self.slot + 100})


def test_tickets_may_be_of_a_subclass(binding) -> None:
    link = link_of(binding)
    kind = subclass(binding)
    ticket = route_of(binding, link).send(b"x", b"", b"", LONG, kind)
    assert type(ticket) is kind
    assert ticket.extra() == 100
    assert type(link.send_all([route_of(binding, link)], b"x", b"", b"", LONG, kind)[0]) is kind


# ---- routes in turn


class Live:
    codec: object = None


def turn_of(binding, link, kind=None):
    routes = [route_of(binding, link, target=place) for place in range(2)]
    turn = binding.RoundRobin(routes, Live(), {}, 15.0, LONG, kind or binding.Ticket)
    turn.is_plain = True
    return turn


def test_a_turn_takes_plain_messages_and_nothing_else(binding) -> None:
    link = link_of(binding)
    with pytest.raises(ConfigurationError, match="at least one route"):
        binding.RoundRobin([], Live(), {}, 15.0, LONG, binding.Ticket)
    functions: dict[int, int] = {}
    routes = [route_of(binding, link, target=place) for place in range(2)]
    timeout, live = 15.0, Live()
    turn = binding.RoundRobin(routes, live, functions, timeout, LONG, binding.Ticket)
    plain = (timeout, None, None, None, None, -1, None)

    def take(message, *options):
        return turn.take(message, *options)

    assert take(b"x", *plain) is None, "not before it is plain"
    turn.is_plain = True
    assert [take(message, *plain).route.target for message in (b"a", "b", b"c")] == [0, 1, 0]
    for place, value in enumerate((15.5, {}, "id", 5, "key", 1, print)):
        assert take(b"x", *plain[:place], value, *plain[place + 1 :]) is None
    assert [take(message, *plain) for message in (bytearray(b"x"), 5, None)] == [None] * 3
    functions[1] = 7
    assert take(b"x", *plain) is None
    functions.clear()
    live.codec = "a schema"
    assert take(b"x", *plain) is None
    assert link.stats()["accepted"] == 3


def test_a_turn_takes_from_an_iterator(binding) -> None:
    link = link_of(binding, max_messages=6)
    turn = turn_of(binding, link)
    items = iter([b"a", "b", b"c", bytearray(b"d"), b"e", b"f"])
    tickets: list = []
    assert turn.take_from(items, tickets, 2) is None
    assert [(ticket.slot, ticket.route.target) for ticket in tickets] == [(0, 0), (1, 1)]
    assert turn.take_from(items, tickets, 2) is None, "there are two already"
    assert turn.take_from(items, tickets, 10) == (b"d",)
    assert turn.take_from(items, tickets, 10) == ()
    assert [ticket.slot for ticket in tickets] == [0, 1, 2, 3, 4]
    assert turn.take_from(iter(["\ud800", b"x"]), tickets, 10) == ("\ud800",), "no text"
    assert turn.take_from(iter([b"x", b"y"]), tickets, 10) == (b"y",), "no room"
    with pytest.raises(ZeroDivisionError):
        turn.take_from((1 // 0 for _ in range(1)), tickets, 10)
    turn.is_plain = False
    assert turn.take_from(iter([b"x"]), [], 10) == (b"x",)
    assert link.outstanding() == 6


def test_turns_send_to_all_or_to_none(binding) -> None:
    link = link_of(binding, max_messages=5)
    timeout, lives, functions = 15.0, [Live(), Live()], [{}, {}]
    with pytest.raises(ConfigurationError, match="at least one round robin"):
        binding.FanOut([], tuple)
    each = [
        binding.RoundRobin(
            [route_of(binding, link, target=(place, i)) for i in range(2)], *told, timeout, LONG, binding.Ticket
        )
        for place, told in enumerate(zip(lives, functions))
    ]
    turns = binding.FanOut(each, tuple)
    plain = (timeout, None, None, None, None, -1, None)
    assert turns.take(b"x", *plain) is None, "not before it is plain"
    turns.is_plain = True
    sent = [turns.take(message, *plain) for message in (b"a", "b")]
    assert [type(tickets) for tickets in sent] == [tuple, tuple]
    assert [ticket.route.target for tickets in sent for ticket in tickets] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for place, value in enumerate((15.5, {}, "id", 5, "key", 1, print)):
        assert turns.take(b"x", *plain[:place], value, *plain[place + 1 :]) is None
    assert turns.take(bytearray(b"x"), *plain) is None
    assert turns.take(b"x", *plain, True) is None, "it never waits"
    functions[1][1] = 7
    assert turns.take(b"x", *plain) is None
    functions[1].clear()
    lives[1].codec = "a schema"
    assert turns.take(b"x", *plain) is None
    lives[1].codec = None
    with pytest.raises(BufferFullError):
        turns.take(b"x", *plain)
    assert link.outstanding() == 4


def test_delivered_tickets_are_counted_off(binding, peer: Peer) -> None:
    route = route_of(binding, peer.link)
    tickets = [route.send(b"x", b"", b"", LONG, binding.Ticket) for _ in range(5)]
    replies = [peer.message()[0] for _ in tickets]
    assert binding.count_delivered(tickets, 0) == (0, 0)
    answers = [
        b'{"stream":"orders$1","seq":1}',
        b'{"stream":"orders$1","seq":2,"duplicate":true}',
        b'{"stream":"orders$1","error":{"code":503,"err_code":1,"description":"no"}}',
    ]
    for reply, answer in zip(replies, answers):
        peer.answer(reply, answer)
    peer.answer(replies[4], b'{"stream":"orders$1","seq":3}')
    assert tickets[4].wait(None) == DELIVERED
    assert binding.count_delivered(tickets, 0) == (2, 1)
    assert binding.count_delivered(tickets, 1) == (2, 1)
    assert binding.count_delivered(tickets, 2) == (2, 0), "a refused one is not counted"
    assert binding.count_delivered(tickets, 4) == (5, 0)
    assert binding.count_delivered([], 0) == (0, 0)


def test_a_backlog_of_tickets_is_nothing_to_the_garbage_collector() -> None:
    link = link_of(_cython)
    kind = subclass(_cython)
    turn = turn_of(_cython, link, kind)
    tickets: list = []
    turn.take_from(iter([b"x"] * 10), tickets, 10)
    tickets.append(route_of(_cython, link).send(b"x", b"", b"", LONG, kind))
    assert not any(gc.is_tracked(ticket) for ticket in tickets)
    gc.collect()
    assert [ticket.slot for ticket in tickets] == list(range(11))


# ---- reports


def test_callbacks_are_handed_out_once_each_settled_ticket(binding, peer: Peer) -> None:
    link = peer.link
    route = route_of(binding, link)
    with_callback = route.send(b"1", b"", b"", LONG, binding.Ticket, "first")
    watched = route.send(b"2", b"", b"", LONG, binding.Ticket)
    assert link.watch(watched, "second")
    assert link.watch(watched, "third")
    assert link.wait_reports(SECOND // 1000) == []
    for _ in range(2):
        peer.answer(peer.message()[0], b'{"stream":"orders$1","seq":1}')
    found: list[tuple] = []
    deadline = time.monotonic() + 10
    while len(found) < 3 and time.monotonic() < deadline:
        found += link.wait_reports(SECOND)
    assert found == [(with_callback, "first"), (watched, "second"), (watched, "third")]
    assert not link.watch(watched, "too late")
    assert link.wait_reports(SECOND // 1000) == []
    waiting = threading.Thread(target=lambda: found.append(link.wait_reports(LONG)))
    waiting.start()
    while waiting.is_alive():
        link.wake_reports()
        waiting.join(0.01)
    assert found[-1] == []


def test_no_report_is_lost_or_doubled_when_watchers_race_with_acks(binding, peer: Peer, until) -> None:
    """Three threads watch the same tickets while a fourth settles them and a fifth takes the reports."""
    link = peer.link
    route = route_of(binding, link)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    count = 300
    tickets = [route.send(b"x", b"", b"", LONG, binding.Ticket) for _ in range(count)]
    outcomes: list[list[tuple[int, bool]]] = [[], [], []]
    reported: list[tuple] = []
    finished = threading.Event()

    def acknowledge() -> None:
        for number in range(count):
            peer.answer(peer.message()[0], b'{"stream":"orders$1","seq":%d}' % (number + 1))

    def watch(mine: int) -> None:
        for number, ticket in enumerate(tickets):
            outcomes[mine].append((number, link.watch(ticket, (mine, number))))

    def report() -> None:
        while not finished.is_set():
            reported.extend(link.wait_reports(SECOND // 100))

    threads = [threading.Thread(target=acknowledge), threading.Thread(target=report)]
    threads += [threading.Thread(target=watch, args=(mine,)) for mine in range(3)]
    try:
        for thread in threads:
            thread.start()
        assert link.wait_drained(-1, soon(20)) == 0
        for thread in threads[2:]:
            thread.join(20)
        promised = [(mine, number) for mine in range(3) for number, kept in outcomes[mine] if kept]
        until(lambda: len(reported) >= len(promised))
    finally:
        sys.setswitchinterval(interval)
        finished.set()
        for thread in threads:
            thread.join(20)
    assert all(len(outcome) == count for outcome in outcomes)
    assert sorted(callback for _, callback in reported) == sorted(promised)
    assert all(ticket is tickets[callback[1]] for ticket, callback in reported)


def test_failures_that_nobody_asked_about_are_counted(binding) -> None:
    link = link_of(binding)
    route = route_of(binding, link)
    looked = route.send(b"x", b"", b"", LONG, binding.Ticket)
    kept = route.send(b"x", b"", b"", LONG, binding.Ticket)
    route.send(b"x", b"", b"", LONG, binding.Ticket)  # dropped at once
    gc.collect()
    looked.observe()
    link.close()
    assert link.abandon() == 3
    assert link.stats()["unseen"] == 1
    del looked, kept  # the first was looked at before its end; the second never
    gc.collect()
    count, text = link.take_unseen()
    assert count == 2
    assert text
    assert link.take_unseen()[0] == 0


# ---- control frames and messages


def test_control_frames_round_trips_and_the_end_of_a_connection(binding, peer: Peer) -> None:
    link = peer.link
    assert link.is_up()
    link.control(b"SUB a 2\r\n")
    peer.expect(b"SUB a 2\r\n")
    number = link.ping()
    assert not link.wait_pong(number, soon(0.01))
    peer.expect(b"PING\r\n")
    assert link.ping() == number + 1
    peer.expect(b"PING\r\n")
    peer.send(b"PONG\r\n")
    assert link.wait_pong(number, soon(10))
    assert not link.wait_pong(number + 1, soon(0.01))
    peer.send(b"PONG\r\n")
    assert link.wait_pong(number + 1, soon(10))
    peer.send(b"PING\r\n")
    peer.expect(b"PONG\r\n")
    route = route_of(binding, link)
    ticket = route.send(b"x", b"", b"", LONG, binding.Ticket)
    peer.message()
    peer.send(b"+OK\r\nHTTP/1.1 400 Bad\r\n")  # a good frame in front must not hide the bad one
    peer.threads[0].join(10)
    assert not peer.threads[0].is_alive()
    assert "HTTP/1.1 400 Bad" in peer.ended[0][2]
    assert link.text() == peer.ended[0][2]
    assert link.detach() == 1
    assert ticket.outcome == PENDING
    assert not link.is_up()
    for call in (lambda: link.control(b"PING\r\n"), link.ping):
        with pytest.raises(ConnectionLostError, match=r"^the data link has no connection at the moment$"):
            call()
    link.stop()
    assert not link.attach(peer.near.fileno(), b"", b"")


def test_inboxes_and_messages(binding, peer: Peer) -> None:
    link = peer.link
    inbox = binding.ReceiveBuffer(link, 5)
    assert (inbox.link, inbox.sid) == (link, 5)
    assert inbox.wait(1, 1, soon(0.001)) == TIMEOUT
    assert inbox.take(binding.RawMessage, None) == ([], [])
    peer.send(b"MSG a.b 5 $JS.ACK.s.g.1.1.1.1.0 5\r\nhello\r\nHMSG \xd0\xba 5 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n")
    peer.send(b"HMSG _INBOX.p 5 32 32\r\nNATS/1.0 408 Request Timeout\r\n\r\n\r\n")
    assert inbox.wait(1 << 40, 1, soon(10)) == 0
    assert inbox.wait(2, 1 << 40, soon(10)) == 0
    kind = type("Message", (binding.RawMessage,), {"__slots__": ()})
    messages, statuses = inbox.take(kind, "consumer")
    assert statuses == [(408, "_INBOX.p", b"NATS/1.0 408 Request Timeout\r\n\r\n")]
    assert [type(message) for message in messages] == [kind, kind]
    del inbox
    gc.collect()
    seen = [(m.subject, m.reply, m.header_block, m.payload, m.payload_len, m.owner) for m in messages]
    assert seen == [
        ("a.b", "$JS.ACK.s.g.1.1.1.1.0", b"", b"hello", 5, "consumer"),
        ("к", "", b"NATS/1.0\r\nk: v\r\n\r\n", b"hi", 2, "consumer"),
    ]
    messages[0].respond()
    peer.expect(b"PUB $JS.ACK.s.g.1.1.1.1.0 0\r\n\r\n")
    messages[0].respond(b"-NAK")
    peer.expect(b"PUB $JS.ACK.s.g.1.1.1.1.0 4\r\n-NAK\r\n")
    peer.far.close()
    peer.threads[0].join(10)
    link.detach()
    assert messages[1].payload == b"hi"
    with pytest.raises(ConnectionLostError):
        messages[0].respond()
    assert binding.ReceiveBuffer(link, 6).wait(1, 1, soon(1)) == CLOSED


def test_an_inbox_takes_what_is_expected(binding, peer: Peer) -> None:
    inbox = binding.ReceiveBuffer(peer.link, 5)
    assert binding.RECEIVE_BUFFER_BYTES == 64 << 20
    inbox.expect(3, 21)
    # Four bytes of subject and reply, ten of payload: the second does not fit, and the last is not asked for.
    for size in (10, 4, 1, 0):
        peer.send(b"MSG a.b 5 r %d\r\n%b\r\n" % (size, b"x" * size))
    peer.send(b"HMSG p 5 16 16\r\nNATS/1.0 408\r\n\r\n\r\n")
    assert inbox.wait(1 << 40, 1, soon(10)) == 0
    assert inbox.dropped == 0, "as of the last take()"
    messages, statuses = inbox.take(binding.RawMessage, None)
    assert ([len(message.payload) for message in messages], len(statuses)) == ([10, 1], 1)
    assert inbox.dropped == 2
    inbox.expect(3, 21)
    for size in (17, 0):
        peer.send(b"MSG a.b 5 r %d\r\n%b\r\n" % (size, b"x" * size))
    assert inbox.wait(3, 1 << 40, soon(10)) == 0
    peer.send(b"HMSG p 5 16 16\r\nNATS/1.0 408\r\n\r\n\r\n")
    assert inbox.wait(1 << 40, 2, soon(10)) == 0
    assert [len(message.payload) for message in inbox.take(binding.RawMessage, None)[0]] == [17]
    assert inbox.dropped == 3
    for bad in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            inbox.expect(bad, 1)
    others = binding.ReceiveBuffer(peer.link, 6, jetstream=True)
    peer.send(b"MSG a.b 6 1\r\nx\r\nMSG a.b 6 r 1\r\nx\r\nMSG a.b 6 $JS.ACK.s 1\r\ny\r\n")
    assert others.wait(1, 1 << 40, soon(10)) == 0
    assert [message.payload for message in others.take(binding.RawMessage, None)[0]] == [b"y"]
    assert others.dropped == 2


def test_acks_go_out_together_and_behind_control_frames(binding, peer: Peer) -> None:
    link = peer.link
    inbox = binding.ReceiveBuffer(link, 5)
    peer.send(b"MSG a 5 $JS.ACK.one 0\r\n\r\nMSG a 5 $JS.ACK.two 0\r\n\r\n")
    assert inbox.wait(2, 1 << 40, soon(10)) == 0
    (one, two), _ = inbox.take(binding.RawMessage, None)
    acks = b"PUB $JS.ACK.one 0\r\n\r\nPUB $JS.ACK.two 4\r\n-NAK\r\n"

    def answer() -> None:
        one.respond()
        two.respond(b"-NAK")

    answer()
    peer.expect(acks)  # by themselves, soon
    answer()
    link.push()
    peer.expect(acks)
    answer()
    link.ping()
    peer.expect(acks + b"PING\r\n")  # so its PONG says that the server has read them
    # A frame that is written at once takes the acks along, unless the sender was quicker with them.
    for _ in range(1000):
        answer()
        link.write(b"SUB b 6\r\n")
        while len(peer.received) < len(acks) + 9:
            peer._more()
        written, peer.received = peer.received, b""
        if written == b"SUB b 6\r\n" + acks:
            break
        assert sorted(written.split(b"\r\n")) == sorted((acks + b"SUB b 6\r\n").split(b"\r\n"))
    else:
        raise AssertionError("acks never went out behind a control frame")
    peer.far.close()
    peer.threads[0].join(10)
    link.detach()
    for call in (answer, lambda: link.write(b"PING\r\n")):
        with pytest.raises(ConnectionLostError):
            call()


def test_many_acks_do_not_wait(binding, peer: Peer) -> None:
    inbox = binding.ReceiveBuffer(peer.link, 5)
    peer.send(b"MSG a 5 $JS.ACK.s 0\r\n\r\n")
    assert inbox.wait(1, 1 << 40, soon(10)) == 0
    ((message,), _) = inbox.take(binding.RawMessage, None)
    for _ in range(5000):
        message.respond()
    peer.expect(b"PUB $JS.ACK.s 0\r\n\r\n" * 5000)


def test_an_inbox_is_woken_and_closed(binding, peer: Peer) -> None:
    inbox = binding.ReceiveBuffer(peer.link, 5)
    waked = threading.Timer(0.05, inbox.wake)
    waked.start()
    assert inbox.wait(1, 1, soon(10)) == 0
    waked.join()
    assert inbox.take(binding.RawMessage, None) == ([], [])
    assert inbox.wait(1, 1, 0) == TIMEOUT, "one wait is ended by one wake"
    inbox.wake()
    assert inbox.wait(1, 1, None) == 0, "a wake is kept for the next wait"
    assert not inbox.is_closed
    peer.far.close()
    peer.threads[0].join(10)
    peer.link.detach()
    assert inbox.is_closed


def test_a_message_knows_its_age(binding, peer: Peer) -> None:
    inbox = binding.ReceiveBuffer(peer.link, 5)
    before = time.monotonic_ns()
    peer.send(b"MSG a 5 $JS.ACK.s 0\r\n\r\n")
    assert inbox.wait(1, 1 << 40, soon(10)) == 0
    ((message,), _) = inbox.take(binding.RawMessage, None)
    time.sleep(0.02)
    first = message.age_ns
    assert SECOND // 50 <= first <= time.monotonic_ns() - before
    message.renew()
    peer.expect(b"PUB $JS.ACK.s 4\r\n+WPI\r\n")
    assert message.age_ns < time.monotonic_ns() - before - first


def test_a_message_comes_from_fetch_only(binding) -> None:
    message = binding.RawMessage()
    assert message.owner is None
    for name in ("subject", "reply", "header_block", "payload", "payload_len", "age_ns"):
        with pytest.raises(TypeError, match=r"^messages are created by fetch\(\) only$"):
            getattr(message, name)


# ---- lifetime


def test_everything_may_become_garbage_in_one_cycle(binding) -> None:
    """The destructors of a cycle run in any order; none may touch what another has freed."""
    for _ in range(50):
        link = link_of(binding, max_bytes=1 << 16, max_messages=16)
        cycle: dict[str, object] = {}
        route = route_of(binding, link, target=cycle)
        cycle["ticket"] = route.send(b"x", b"", b"", LONG, binding.Ticket, lambda _: None)
        cycle["tickets"] = [route.send(b"x", b"", b"", LONG, subclass(binding)) for _ in range(3)]
        cycle["inbox"] = binding.ReceiveBuffer(link, 9)
        cycle["link"] = link
        link.close()
        link.abandon()
        del link, route, cycle
    gc.collect()


def test_half_made_objects_go_quietly(binding) -> None:
    with pytest.raises(TypeError):
        binding.Link("token", 1 << 16, 16, 4, 1000)
    with pytest.raises(TypeError):
        binding.Route(link_of(binding), "subject", b"", b"", 0, True, None)
    with pytest.raises(OverflowError):
        binding.Link(b"token", -1, 16, 4, 1000)
    binding.Ticket()
    gc.collect()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_child_calls_are_refused_and_destructors_do_nothing(binding) -> None:
    binding.watch_forks()
    link = link_of(binding)
    route = route_of(binding, link)
    ticket = route.send(b"x", b"", b"", LONG, binding.Ticket)
    inbox = binding.ReceiveBuffer(link, 3)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        calls: list[Callable] = [
            link.stats,
            link.outstanding,
            link.push,
            lambda: ticket.wait(0),
            lambda: inbox.wait(0, 0, 0),
            lambda: route.send(b"x", b"", b"", LONG, binding.Ticket),
        ]
        refused = 0
        for call in calls:
            try:
                call()
            except ForkedError:
                refused += 1
        link.stop()
        link.close()
        link.wake_reports()
        outcome = ticket.outcome  # may be asked, and is what it was before the fork
        del calls, call, ticket, inbox, route, link
        gc.collect()
        os.write(write, b"%d of 6, then %d" % (refused, outcome))
        os._exit(0)
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0
    with os.fdopen(read, "rb") as answer:
        assert answer.read() == b"6 of 6, then 0"
    assert link.outstanding() == 1


# ---- sans-IO: the loops are the caller's ----------------------------------------------------------------------------

STOPPED, UNSEEN, BYTES, NOTHING = range(4)
SERVER_END, EPROTO_END = 4, 3


@pytest.fixture
def in_hands(binding):
    """A link whose bytes go through the test's hands, and its socket."""
    near, far = socket.socketpair()
    link = binding.Link(b"token", 1 << 20, 100, 100, 1 << 20, 0, True)
    assert link.attach(near.fileno(), b"SUB x 1\r\n", b"PI")
    yield link
    link.detach()
    assert far.recv(1) == b""  # nothing but the shutdown reached the socket
    near.close()
    far.close()


def test_next_hands_out_bytes_until_they_are_written(in_hands):
    kind, data = in_hands.next(SECOND)
    assert (kind, bytes(data), data.readonly) == (BYTES, b"SUB x 1\r\n", True)
    in_hands.written(4)
    kind, data = in_hands.next(SECOND)
    assert (kind, bytes(data)) == (BYTES, b"x 1\r\n")
    in_hands.written(5)
    assert in_hands.next(0) == (NOTHING, b"")
    in_hands.wake()
    assert in_hands.next(SECOND) == (BYTES, b"")
    in_hands.written(0)
    in_hands.push()
    assert in_hands.next(0) == (NOTHING, b"")
    assert in_hands.run_timers() > 60 * SECOND  # nothing is due


def test_feed_answers_and_ends_as_the_loop_does(in_hands):
    in_hands.written(len(in_hands.next(SECOND)[1]))
    assert in_hands.feed(b"") is None
    assert in_hands.feed(bytearray(b"NG\r\n")) is None
    kind, data = in_hands.next(SECOND)
    assert (kind, bytes(data)) == (BYTES, b"PONG\r\n")
    in_hands.written(6)
    with pytest.raises(TypeError):
        in_hands.feed("text")
    assert in_hands.feed(memoryview(b"-ERR 'Stale Connection'\r\n")) is None
    assert in_hands.ended(0) == (SERVER_END, 0, "Stale Connection")
    assert not in_hands.is_up()


def test_feed_shows_what_breaks_the_protocol(in_hands):
    in_hands.written(len(in_hands.next(SECOND)[1]))
    assert in_hands.feed(b"") is None
    end, _, text = in_hands.feed(b"NG\r\nGARBAGE\x01\r\n")
    assert (end, text) == (EPROTO_END, r"GARBAGE\x01\x0d\x0a")


def test_the_callers_loops_produce_as_the_cores_do(binding, in_hands):
    in_hands.written(len(in_hands.next(SECOND)[1]))
    route = route_of(binding, in_hands)
    ticket = route.send(b"payload", b"", b"", LONG, binding.Ticket)
    kind, data = in_hands.next(SECOND)
    (subject, reply, _, _) = HPUB.match(bytes(data)).groups()
    assert (kind, subject) == (BYTES, STATION)
    in_hands.written(len(data))
    in_hands.feed(b"")
    in_hands.feed(b'NG\r\nMSG %s 1 29\r\n{"stream":"orders$1","seq":7}\r\n' % reply)
    assert (ticket.wait(soon(1)), ticket.sequence) == (DELIVERED, 7)
    again = route.send(b"again", b"", b"", LONG, binding.Ticket)
    assert in_hands.next(SECOND)[0] == BYTES
    in_hands.written(0, 32)  # EPIPE
    assert not in_hands.is_up()
    assert again.outcome == PENDING
    in_hands.stop()
    assert in_hands.next(LONG) == (STOPPED, b"")
    in_hands.abandon()
    again.observe()
