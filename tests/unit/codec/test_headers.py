"""Header blocks: strict writing, lenient reading, and the way there and back."""

from __future__ import annotations

import pytest
from codec_bindings import each_binding
from hypothesis import given, settings, strategies as st
from reference import codec as reference

from memphis_sync.errors import HeaderError

NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: bytes(33 + byte % 94 for byte in raw).replace(b":", b"_"))
VALUES = st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\r\n\0").strip(b" \t"))
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=40)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@each_binding
@settings(max_examples=150)
@given(pairs=PAIRS)
def test_there_and_back(binding, pairs: list[tuple[bytes, bytes]]) -> None:
    block = binding.encode_headers(pairs)
    assert block == reference.encode_headers(pairs)
    assert binding.parse_headers(block) == (0, "", [(text(name), text(value)) for name, value in pairs])
    assert reference.parse_headers(block) == binding.parse_headers(block)


@each_binding
def test_one_line(binding) -> None:
    assert binding.encode_header(b"Nats-Msg-Id", b"a 1") == b"Nats-Msg-Id: a 1\r\n"
    assert binding.encode_header(b"$memphis_producedBy", "ключ".encode()) == "$memphis_producedBy: ключ\r\n".encode()
    assert binding.encode_headers(iter([])) == b"NATS/1.0\r\n\r\n"


@each_binding
def test_many_headers(binding) -> None:
    for count in (15, 16, 17, 500):
        pairs = [(b"n%d" % i, b"v%d" % i) for i in range(count)]
        expected = [(f"n{i}", f"v{i}") for i in range(count)]
        assert binding.parse_headers(binding.encode_headers(pairs)) == (0, "", expected)


NAMES_ARE = "a name is made of printable ASCII without blanks and ':'"
BAD = [
    (b"", b"v", "a header has an empty name"),
    (
        b"a b",
        b"v",
        "the name of header b'a b' holds b' ' at byte 1; {names}",
    ),
    (
        b"a:",
        b"v",
        "the name of header b'a:' holds b':' at byte 1; {names}",
    ),
    (
        b"\xc3",
        b"v",
        "the name of header b'\\xc3' holds b'\\xc3' at byte 0; {names}",
    ),
    (b"k", b"secret\rx", "the value of header b'k' holds b'\\r' at byte 6; CR, LF and NUL cannot be sent"),
    (b"k", b"\nx", "the value of header b'k' holds b'\\n' at byte 0; CR, LF and NUL cannot be sent"),
    (b"k", b"secret\0", "the value of header b'k' holds b'\\x00' at byte 6; CR, LF and NUL cannot be sent"),
]


@each_binding
@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_header_is_named_and_its_value_is_not_shown(binding, name: bytes, value: bytes, message: str) -> None:
    for call in (
        lambda: binding.encode_header(name, value),
        lambda: binding.encode_headers([(b"ok", b""), (name, value)]),
    ):
        with pytest.raises(HeaderError) as caught:
            call()
        assert str(caught.value) == message.format(names=NAMES_ARE)
    with pytest.raises(reference.RefusedError):
        reference.encode_header(name, value)


READ = [
    (b"NATS/1.0\r\n\r\n", (0, "", [])),
    (b"NATS/1.0 \r\n\r\n", (0, "", [])),
    (b"NATS/1.0 503\r\n\r\n", (503, "", [])),
    (
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n",
        (100, "Idle Heartbeat", [("Nats-Last-Consumer", "7")]),
    ),
    (b"NATS/1.0\t409  Message Size Exceeds MaxBytes \r\n\r\n", (409, "Message Size Exceeds MaxBytes", [])),
    (b"NATS/1.0\r\na:1\r\na: \t2 \r\nb::\r\nc:\r\n\r\n", (0, "", [("a", "1"), ("a", "2"), ("b", ":"), ("c", "")])),
    (b"NATS/1.0\r\nmy name : x\xff\0\r\n\xc3\xa9: y\r\n\r\n", (0, "", [("my name", "x\udcff\0"), ("é", "y")])),
]


@each_binding
@pytest.mark.parametrize(("block", "expected"), READ)
def test_blocks_of_other_clients_are_read(binding, block: bytes, expected) -> None:
    assert binding.parse_headers(block) == expected
    assert reference.parse_headers(block) == expected


UNREADABLE = [
    b"",
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"NATS/1.0\n\n\n\n",
    b"nats/1.0\r\n\r\n",
    b"NATS/1.0503\r\n\r\n",
    b"NATS/1.0 5033\r\n\r\n",
    b"NATS/1.0 abc\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: x\r\n\r\n",
    b"NATS/1.0\r\na: b\r\n folded: c\r\n\r\n",
    b"NATS/1.0\r\na: b\rc\r\n\r\n",
    b"NATS/1.0\r\na: b\n\r\n",
    b"NATS/1.0\r\n\r\npayload",
    b"NATS/1.0\r\n\r\n\r\n",
]


@each_binding
@pytest.mark.parametrize("block", UNREADABLE)
def test_what_is_no_block_is_refused(binding, block: bytes) -> None:
    with pytest.raises(HeaderError, match=r"NATS/1\.0"):
        binding.parse_headers(block)
    with pytest.raises(reference.RefusedError):
        reference.parse_headers(block)
