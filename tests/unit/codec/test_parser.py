"""The parser's table: each frame whole, byte by byte, and with more behind it; then its limits and what it refuses."""

from __future__ import annotations

import pytest
from codec_bindings import each_binding
from reference import codec as reference

from memphis_sync._core import Event
from memphis_sync.errors import ConfigurationError, LocalProtocolError, RemoteProtocolError

BLOCK = b"NATS/1.0\r\nName: value\r\n\r\n"

TABLE = [
    (b'INFO {"max_payload":1048576}\r\n', Event("INFO", 0, b"", b"", b"", b'{"max_payload":1048576}')),
    (b"info\t {}  \r\n", Event("INFO", 0, b"", b"", b"", b"{}")),
    (b"PING\r\n", Event("PING", 0, b"", b"", b"", b"")),
    (b"ping \r\n", Event("PING", 0, b"", b"", b"", b"")),
    (b"PONG\r\n", Event("PONG", 0, b"", b"", b"", b"")),
    (b"+OK\r\n", Event("+OK", 0, b"", b"", b"", b"")),
    (b"+ok\t\r\n", Event("+OK", 0, b"", b"", b"", b"")),
    (b"-ERR 'Unknown Protocol Operation'\r\n", Event("-ERR", 0, b"", b"", b"", b"Unknown Protocol Operation")),
    (b"-ERR unquoted \r\n", Event("-ERR", 0, b"", b"", b"", b"unquoted")),
    (b"-ERR ''\r\n", Event("-ERR", 0, b"", b"", b"", b"")),
    (b"-ERR\r\n", Event("-ERR", 0, b"", b"", b"", b"")),
    (b"MSG orders$1.final 9 5\r\nhello\r\n", Event("MSG", 9, b"orders$1.final", b"", b"", b"hello")),
    (b"MSG a 1 _INBOX.x.7 0\r\n\r\n", Event("MSG", 1, b"a", b"_INBOX.x.7", b"", b"")),
    (b"MSG a\0b 1 c\x0bd\x1f\x7f 0\r\n\r\n", Event("MSG", 1, b"a\0b", b"c\x0bd\x1f\x7f", b"", b"")),
    (b"msg \t a\t\t18446744073709551615  05 \r\n\r\nM\r\n\r\n", Event("MSG", 2**64 - 1, b"a", b"", b"", b"\r\nM\r\n")),
    ("MSG ключ 1 2\r\nhi\r\n".encode(), Event("MSG", 1, "ключ".encode(), b"", b"", b"hi")),
    (b"HMSG a 1 25 30\r\n%bhello\r\n" % BLOCK, Event("HMSG", 1, b"a", b"", BLOCK, b"hello")),
    (b"hMsG a 1 r  25 25\r\n%b\r\n" % BLOCK, Event("HMSG", 1, b"a", b"r", BLOCK, b"")),
    (b"HMSG a 1 0 2\r\nhi\r\n", Event("HMSG", 1, b"a", b"", b"", b"hi")),
]
each_row = pytest.mark.parametrize(
    ("wire", "event"), TABLE, ids=lambda value: None if isinstance(value, Event) else repr(value[:24])
)


@each_row
def test_the_reference_reads_it_too(wire: bytes, event: Event) -> None:
    parser = reference.Parser(max_payload=1024)
    assert parser.feed(wire) == ([tuple(event)], None)


@each_row
@each_binding
def test_whole(binding, wire: bytes, event: Event) -> None:
    parser = binding.Parser()
    found = parser.feed(wire)
    assert found == [event]
    assert [type(part) for part in found[0]] == [str, int, bytes, bytes, bytes, bytes]
    assert type(found[0]) is Event
    assert parser.buffered == 0


@each_row
@each_binding
def test_byte_by_byte_there_is_nothing_until_the_end(binding, wire: bytes, event: Event) -> None:
    parser = binding.Parser()
    for at in range(len(wire) - 1):
        assert parser.feed(wire[at : at + 1]) == []
        assert parser.buffered == at + 1
    assert parser.feed(wire[-1:]) == [event]
    assert parser.buffered == 0


@each_row
@each_binding
def test_what_follows_stays_untouched(binding, wire: bytes, event: Event) -> None:
    for trailing in (b"M", b"PIN", wire[:-1], b"MSG a 1 9\r\nhalf"):
        parser = binding.Parser()
        assert parser.feed(wire + trailing) == [event]
        assert parser.buffered == len(trailing)


@each_binding
def test_a_run_longer_than_one_call_of_c_takes(binding) -> None:
    wire = b"".join(wire for wire, _ in TABLE) * 60
    events = [event for _, event in TABLE] * 60
    assert len(events) > 4 * 256
    parser = binding.Parser()
    assert parser.feed(wire) == events
    parser.feed(wire[:7])
    assert parser.feed(wire[7:]) == events


@each_binding
def test_every_kind_of_buffer(binding) -> None:
    parser = binding.Parser()
    for data in (bytearray(b"PING\r\n"), memoryview(b"xPING\r\n")[1:], b"PI", memoryview(b"NG\r\n"), b""):
        parser.feed(data)
    assert parser.buffered == 0
    source = bytearray(b"PING\r\n")
    parser.feed(source)
    source += b"not kept by the parser: a buffer still exported could not grow"
    with pytest.raises(TypeError, match=r"^a bytes-like object is required, not 'str'$"):
        parser.feed("PING\r\n")


@each_binding
def test_a_large_message_in_many_pieces_costs_linear_work(binding) -> None:
    size = 4 * 1024 * 1024
    wire = b"MSG a 1 %d\r\n%b\r\n" % (size, b"x" * size)
    parser = binding.Parser()
    events = [event for at in range(0, len(wire), 512) for event in parser.feed(wire[at : at + 512])]
    assert [len(event.payload) for event in events] == [size]


REFUSED = [
    (b"HTTP/1.1 400 Bad Request\r\n", "bytes that are no NATS frame"),
    (b"\r\n", "bytes that are no NATS frame"),
    (b"\x00" * 100, "bytes that are no NATS frame"),
    (b"PING\n", "bytes that are no NATS frame"),
    (b"PINGPONG\r\n", "bytes that are no NATS frame"),
    (b"INFO{}\r\n", "bytes that are no NATS frame"),
    (b"PUB a 0\r\n\r\n", "bytes that are no NATS frame"),
    (b"MSG a 1\r\n", "bytes that are no NATS frame"),
    (b"MSG a 1 r s 0\r\n\r\n", "bytes that are no NATS frame"),
    (b"MSG a one 0\r\n\r\n", "bytes that are no NATS frame"),
    (b"MSG a 18446744073709551616 0\r\n\r\n", "bytes that are no NATS frame"),
    (b"MSG a\rb 1 0\r\n\r\n", "bytes that are no NATS frame"),
    (b"MSG a 1 2\r\nhello\r\n", "bytes that are no NATS frame"),
    (b"HMSG a 1 13 12\r\n", "bytes that are no NATS frame"),
    (b"MSG a 1 -2\r\nhi\r\n", "a payload length that is no number or above 1024 bytes"),
    (b"MSG a 1 1025\r\n", "a payload length that is no number or above 1024 bytes"),
    (b"MSG a 1 99999999999999999999999\r\n", "a payload length that is no number or above 1024 bytes"),
    (b"HMSG a 1 x 12\r\n", "a payload length that is no number or above 1024 bytes"),
    (b"MSG " + b"a" * 4096, "a control line longer than its limit"),
    (b"INFO " + b"a" * 262144, "a control line longer than its limit"),
]
each_refusal = pytest.mark.parametrize(
    ("wire", "reason"), REFUSED, ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else ""
)


@each_refusal
@each_binding
def test_a_breach_shows_its_first_64_bytes(binding, wire: bytes, reason: str) -> None:
    parser = binding.Parser(max_payload=1024)
    with pytest.raises(RemoteProtocolError) as caught:
        parser.feed(wire)
    assert str(caught.value) == f"the server sent {reason}: {wire[:64]!r}"
    assert caught.value is parser.failure


@each_refusal
@each_binding
def test_good_frames_come_first_then_the_error_with_the_next_feed(binding, wire: bytes, reason: str) -> None:
    parser = binding.Parser(max_payload=1024)
    assert [event.kind for event in parser.feed(b"PING\r\n+OK\r\n" + wire)] == ["PING", "+OK"]
    assert str(parser.failure) == f"the server sent {reason}: {wire[:64]!r}"
    with pytest.raises(RemoteProtocolError, match=reason):
        parser.feed(b"")


@each_binding
def test_after_an_error_the_parser_takes_nothing_until_reset(binding) -> None:
    parser = binding.Parser()
    with pytest.raises(RemoteProtocolError):
        parser.feed(b"GET / HTTP/1.1\r\n")
    for _ in range(2):
        with pytest.raises(
            LocalProtocolError, match=r"until reset\(\); it failed because the server sent .*GET / HTTP"
        ):
            parser.feed(b"PING\r\n")
    parser.reset()
    assert parser.failure is None
    assert parser.buffered == 0
    assert [event.kind for event in parser.feed(b"PING\r\n")] == ["PING"]


@each_binding
def test_reset_forgets_half_a_frame(binding) -> None:
    parser = binding.Parser()
    parser.feed(b"MSG a 1 10\r\nhalf")
    parser.reset()
    assert [event.kind for event in parser.feed(b"PONG\r\n")] == ["PONG"]


@each_binding
def test_limits_are_inclusive(binding) -> None:
    assert binding.Parser(max_payload=5).feed(b"MSG a 1 5\r\nhello\r\n")
    with pytest.raises(RemoteProtocolError, match="above 4 bytes"):
        binding.Parser(max_payload=4).feed(b"MSG a 1 5\r\nhello\r\n")
    line = b"MSG %b 1 0" % (b"a" * 32)
    assert len(line) == 40
    assert binding.Parser(max_control_line=40).feed(line + b"\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="longer than its limit"):
        binding.Parser(max_control_line=39).feed(line + b"\r\n\r\n")
    # INFO names every server of a cluster and has a limit of its own, however short the others may be.
    assert binding.Parser(max_control_line=1).feed(b"INFO %b\r\n" % (b"a" * (262144 - 5)))
    with pytest.raises(RemoteProtocolError, match="longer than its limit"):
        binding.Parser(max_control_line=1).feed(b"INFO %b\r\n" % (b"a" * (262144 - 4)))


@each_binding
def test_an_endless_line_is_refused_when_its_limit_is_passed_not_later(binding) -> None:
    parser = binding.Parser(max_control_line=100)
    for _ in range(100):
        assert parser.feed(b"P") == []
    with pytest.raises(RemoteProtocolError, match="longer than its limit"):
        parser.feed(b"P")


@each_binding
@pytest.mark.parametrize("option", ["max_payload", "max_control_line"])
def test_limits_below_one_are_refused(binding, option: str) -> None:
    for value in (0, -1, 2**70):
        with pytest.raises(ConfigurationError, match=f"^{option} is {value}; it must be between 1 and "):
            binding.Parser(**{option: value})
