"""Message ids of official SDKs for a stock nats-server: what changes, and that every other byte stays."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given, strategies as st

from memphis_sync.broker.sdk_port.msg_id_rewriter import MAX_HEADERS, MAX_LINE, MsgIdRewriter

LIMIT = 1_000_000


def hpub(headers: bytes, payload: bytes, subject: bytes = b"st$1.final _INBOX.a.1", name: bytes = b"HPUB") -> bytes:
    return b"%b %b %d %d\r\n%b%b\r\n" % (name, subject, len(headers), len(headers) + len(payload), headers, payload)


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def passed(data: bytes, *, size: int = 0, ids: Optional[MsgIdRewriter] = None) -> bytes:
    """What comes out, fed in pieces of *size* bytes; all at once when 0."""
    ids = ids or MsgIdRewriter(LIMIT)
    size = size or max(len(data), 1)
    return b"".join(bytes(piece) for at in range(0, len(data), size) for piece in ids.feed(data[at : at + size]))


def test_the_id_is_added_before_the_header_that_has_it_and_the_sizes_are_right() -> None:
    before = block(b"$memphis_producedBy: p", b"msg-id: id1", b"k: v")
    after = block(b"$memphis_producedBy: p", b"Nats-Msg-Id: id1", b"msg-id: id1", b"k: v")
    ids = MsgIdRewriter(LIMIT)
    assert passed(hpub(before, b"payload"), ids=ids) == hpub(after, b"payload")
    assert (ids.added, ids.left_out, ids.is_opaque) == (1, 0, False)


@pytest.mark.parametrize(
    "headers",
    [
        block(),
        block(b"k: v"),
        block(b"x-orig-msg-id: 1"),
        block(b"k: msg-id: 1"),
        block(b"Msg-Id: 1"),
        block(b"msg-id : 1"),
        block(b"msg-id:"),
        block(b"msg-id:   "),
        block(b"msg-id: 1", b"Nats-Msg-Id: 2"),
        block(b"Nats-Msg-Id: 2", b"msg-id: 1"),
        b"NATS/1.0\r\nmsg-id: cut",
        b"msg-id: 1\r\n\r\n",
        b"",
    ],
)
def test_what_has_no_id_of_its_own_to_add_stays(headers: bytes) -> None:
    assert passed(hpub(headers, b"x")) == hpub(headers, b"x")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"msg-id:a", b"a"),
        (b"msg-id:   a b ", b"a b "),
        (b"msg-id: \xc3\xa4:\tx", b"\xc3\xa4:\tx"),
        (b"msg-id: " + b"i" * 5000, b"i" * 5000),
    ],
)
def test_the_value_is_what_a_server_would_read(line: bytes, value: bytes) -> None:
    assert passed(hpub(block(line), b"x")) == hpub(block(b"Nats-Msg-Id: " + value, line), b"x")


def test_an_earlier_header_that_has_the_text_hides_nothing() -> None:
    before, after = (b"x-orig-msg-id: 1", b"msg-id: 2"), (b"x-orig-msg-id: 1", b"Nats-Msg-Id: 2", b"msg-id: 2")
    assert passed(hpub(block(*before), b"x")) == hpub(block(*after), b"x")


def test_a_payload_that_looks_like_a_message_stays() -> None:
    inner = hpub(block(b"msg-id: inner"), b"x")
    for data in (b"PUB a %d\r\n%b\r\n" % (len(inner), inner), hpub(block(b"k: v"), inner)):
        for size in (0, 1, 7):
            assert passed(data, size=size) == data


@pytest.mark.parametrize("name", [b"HPUB", b"hpub", b"hPuB"])
def test_blanks_and_letters_as_a_server_takes_them(name: bytes) -> None:
    headers, more = block(b"msg-id: 1"), block(b"Nats-Msg-Id: 1", b"msg-id: 1")
    data = b"%b \t a\t b  %d  %d \n%bpayload\r\nPING\nPING\r\n" % (name, len(headers), len(headers) + 7, headers)
    expected = b"HPUB a\t b %d %d\r\n%bpayload\r\nPING\nPING\r\n" % (len(more), len(more) + 7, more)
    for size in (0, 1, 3):
        assert passed(data, size=size) == expected


def test_a_message_that_would_grow_too_large_keeps_its_headers() -> None:
    headers = block(b"msg-id: 1")
    payload = b"x" * (LIMIT - len(headers) - len(b"Nats-Msg-Id: 1\r\n"))
    ids = MsgIdRewriter(LIMIT)
    assert passed(hpub(headers, payload), ids=ids) == hpub(block(b"Nats-Msg-Id: 1", b"msg-id: 1"), payload)
    too_large = hpub(headers, b"x" * (LIMIT - len(headers)))
    assert passed(too_large, ids=ids) == too_large
    assert (ids.added, ids.left_out) == (1, 1)


def test_little_is_held_back() -> None:
    ids = MsgIdRewriter(LIMIT)
    big = block(b"k: " + b"v" * MAX_HEADERS, b"msg-id: 1")
    data = hpub(big, b"x")
    out = sum(len(piece) for piece in ids.feed(data[: len(data) // 2]))
    assert out == len(data) // 2, "headers of that size aren't looked into"
    assert not ids.is_opaque
    endless = MsgIdRewriter(LIMIT)
    held = 0
    for _ in range(20):
        held += 10_000 - sum(len(piece) for piece in endless.feed(b"CONNECT {" + b"x" * 9_991))
        assert held <= MAX_LINE
    assert endless.is_opaque


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HPUB\r\n",
        b"HPUB a 5\r\n",
        b"HPUB a b c 1 2\r\n",
        b"HPUB a -1 2\r\n",
        b"HPUB a 10 2\r\n",
        b"HPUB a 1 99999999999\r\n",
        b"PUB a x\r\n",
        b"PUB a\r\n",
        b"HPUB a\rb 1 22\r\n",
        b"HMSG a 1 12 12\r\n",
        b"PUBLISH\r\n",
    ],
)
def test_what_is_not_understood_passes_with_all_that_follows(nonsense: bytes) -> None:
    data = b"PING\r\n" + nonsense + hpub(block(b"msg-id: 1"), b"x")
    for size in (0, 1, 5):
        ids = MsgIdRewriter(LIMIT)
        assert passed(data, size=size, ids=ids) == data
        assert ids.is_opaque


NAMES = st.sampled_from([b"msg-id", b"k", b"x-msg-id", b"Nats-Msg-Id", b"$memphis_producedBy"])
VALUES = st.binary(max_size=20).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
PAYLOADS = st.one_of(st.binary(max_size=40), st.just(b"\r\nHPUB a 1 1\r\nmsg-id: 1\r\n"), st.just(b"p" * 3000))
MESSAGES = st.tuples(st.lists(st.tuples(NAMES, VALUES), max_size=4), PAYLOADS)
OTHERS = st.one_of(
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"SUB a q 1\r\n", b'CONNECT {"verbose":false}\r\n', b"UNSUB 1\n"]),
    PAYLOADS.map(lambda payload: b"PUB a.b %d\r\n%b\r\n" % (len(payload), payload)),
)


def expected(headers: list[tuple[bytes, bytes]], payload: bytes) -> tuple[bytes, bytes]:
    """A message as it is sent, and as it must arrive: from its parts, without reading any bytes."""
    lines = [name + b": " + value for name, value in headers]
    names = [name for name, _ in headers]
    added = list(lines)
    if b"msg-id" in names and b"Nats-Msg-Id" not in names:
        place = names.index(b"msg-id")
        value = headers[place][1].lstrip(b" ")
        if value:
            added.insert(place, b"Nats-Msg-Id: " + value)
    return hpub(block(*lines), payload), hpub(block(*added), payload)


@given(
    st.lists(st.one_of(MESSAGES.map(lambda parts: expected(*parts)), OTHERS.map(lambda data: (data, data)))),
    st.lists(st.integers(1, 200), min_size=1, max_size=8),
)
def test_any_stream_split_anywhere(frames: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    sent, arrives = (b"".join(frame[side] for frame in frames) for side in (0, 1))
    ids = MsgIdRewriter(LIMIT)
    out, at, turn = [], 0, 0
    while at < len(sent):
        out += [bytes(piece) for piece in ids.feed(sent[at : at + sizes[turn % len(sizes)]])]
        at += sizes[turn % len(sizes)]
        turn += 1
    assert b"".join(out) == arrives
    assert not ids.is_opaque


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_pass_whole_or_are_held(data: bytes, size: int) -> None:
    """Bytes that are no NATS at all: what came out is a start of what went in."""
    ids = MsgIdRewriter(LIMIT)
    out = passed(data, size=size, ids=ids)
    assert data.startswith(out) or ids.added
