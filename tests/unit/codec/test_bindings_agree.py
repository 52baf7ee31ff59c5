"""
Any stream, any split: the reference, Cython and cffi see the same events, the same errors, and leave the same bytes.

And any bytes at all either parse or raise RemoteProtocolError, never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Optional, Union

from codec_bindings import BINDINGS, each_binding
from hypothesis import example, given, settings, strategies as st
from reference import codec as reference

from memphis_sync.errors import MemphisError, RemoteProtocolError

MAX_PAYLOAD = 400
MAX_LINE = 64
COMMON = settings(max_examples=250)

TOKENS = st.text("abc.$*>_1ключ", min_size=1, max_size=9).map(str.encode)
BLANKS = st.sampled_from([b" ", b" ", b" ", b"\t", b"  ", b" \t "])
NUMBERS = st.one_of(st.integers(0, 99), st.sampled_from([2**32, 2**63, 2**64 - 1, 2**64, 10**30])).map(b"%d".__mod__)


def any_case(name: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([name, name, name.lower(), name.title(), name.swapcase()])


@st.composite
def messages(draw: Callable) -> bytes:
    """MSG and HMSG, right ones mostly; sometimes a length or an end is not."""
    fields = [draw(TOKENS), draw(NUMBERS)]
    if draw(st.booleans()):
        fields.append(draw(TOKENS))
    payload = draw(st.one_of(st.binary(max_size=20), st.integers(0, MAX_PAYLOAD + 2).map(bytes)))
    name = b"MSG"
    block = b""
    if draw(st.booleans()):
        name = b"HMSG"
        block = draw(st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0 404\r\na: b\r\n\r\n", b"", b"junk"]))
        fields.append(b"%d" % (len(block) + draw(st.sampled_from([0, 0, 0, 0, 500]))))
    fields.append(b"%d" % (len(block) + len(payload) + draw(st.sampled_from([0] * 12 + [-1, 1]))))
    line = draw(any_case(name)) + b"".join(draw(BLANKS) + field for field in fields)
    end = draw(st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r\r"]))
    return line + draw(st.sampled_from([b"", b" "])) + b"\r\n" + block + payload + end


@st.composite
def words(draw: Callable) -> bytes:
    """The other frames, with and without text."""
    name = draw(any_case(draw(st.sampled_from([b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"]))))
    text = draw(
        st.sampled_from([b"", b"", b"", b" ", b" {}", b" 'a b'", b"\t{}  ", b" '", b"x", b" \r", b" " + b"y" * 70])
    )
    return name + text + draw(st.sampled_from([b"\r\n"] * 9 + [b"\n"]))


STREAMS = st.lists(
    st.one_of(messages(), messages(), words(), words(), st.binary(max_size=6)),
    max_size=8,
).map(b"".join)
PIECES = st.lists(st.integers(1, 40), max_size=30)


def split(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The stream in pieces of these sizes, and what is left in one."""
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


Seen = list[tuple[list[tuple], Optional[str], Optional[int]]]


def seen_by_reference(pieces: list[bytes]) -> Seen:
    """For each piece: the frames, the breach, the bytes that wait."""
    parser = reference.Parser(MAX_PAYLOAD, MAX_LINE)
    seen: Seen = []
    for piece in pieces:
        frames, breach = parser.feed(piece)
        seen.append(([tuple(frame) for frame in frames], str(breach) if breach else None, len(parser.stream)))
        if breach:
            break
    return seen


def seen_by_binding(binding, pieces: list[bytes]) -> Seen:
    """The same of a binding, whose error comes with the next call when frames precede it."""
    parser = binding.Parser(MAX_PAYLOAD, MAX_LINE)
    seen: Seen = []
    for piece in pieces:
        frames: list[tuple] = []
        try:
            frames = [tuple(event) for event in parser.feed(piece)]
        except RemoteProtocolError as exc:
            assert exc is parser.failure  # noqa: PT017  the context manager would not let frames through
        seen.append((frames, str(parser.failure) if parser.failure else None, parser.buffered))
        if parser.failure:
            break
    return seen


@COMMON
@given(stream=STREAMS, sizes=PIECES)
@example(stream=b"P\r\r\n", sizes=[1, 1, 1])
@example(stream=b"INFO \r \r\n", sizes=[])
def test_any_stream_any_split(stream: bytes, sizes: list[int]) -> None:
    pieces = list(split(stream, sizes))
    expected = seen_by_reference(pieces)
    for binding in BINDINGS:
        assert seen_by_binding(binding, pieces) == expected, binding.IMPL


@COMMON
@given(stream=STREAMS, sizes=PIECES)
def test_the_split_changes_nothing_but_the_moment(stream: bytes, sizes: list[int]) -> None:
    for binding in BINDINGS:
        whole = seen_by_binding(binding, [stream])
        pieces = seen_by_binding(binding, list(split(stream, sizes)))
        assert [frame for frames, _, _ in pieces for frame in frames] == whole[0][0]
        # What is shown of the offending bytes may be cut; the reason is the same.
        assert (pieces[-1][1] or "").partition(":")[0] == (whole[0][1] or "").partition(":")[0]


@each_binding
@COMMON
@given(pieces=st.lists(st.binary(max_size=200), max_size=6))
def test_any_garbage_parses_or_is_a_remote_protocol_error(binding, pieces: list[bytes]) -> None:
    for start in (b"", b"MSG ", b"HMSG a 1 ", b"INFO ", b"-"):
        seen_by_binding(binding, [start, *pieces])


def outcome(function: Callable, *args: object) -> Union[bytes, tuple]:
    """What a call returns, or the error with its text."""
    try:
        return function(*args)
    except (MemphisError, TypeError) as exc:
        return type(exc), str(exc)


def outcomes_agree(name: str, *args: object) -> None:
    """Both bindings do the same to the letter; the reference returns the same, or refuses where they do."""
    first, second = (outcome(getattr(binding, name), *args) for binding in BINDINGS)
    assert first == second
    try:
        assert first == getattr(reference, name)(*args)
    except reference.RefusedError:
        assert isinstance(first, tuple)
        assert isinstance(first[0], type)
        assert issubclass(first[0], MemphisError)


ODD_TOKENS = st.one_of(
    TOKENS, TOKENS, st.binary(max_size=6), st.text(max_size=4).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
U64 = st.integers(0, 2**64 - 1)
BLOCKS = st.one_of(
    st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\n\r\n"]),
    st.binary(max_size=14).map(lambda raw: b"NATS/1.0" + raw + b"\r\n\r\n"),
    st.binary(max_size=14),
)


@COMMON
@given(
    subject=ODD_TOKENS,
    other=st.one_of(st.just(b""), ODD_TOKENS),
    payload=st.binary(max_size=20),
    number=U64,
)
def test_every_frame_written(subject: bytes, other: bytes, payload: bytes, number: int) -> None:
    outcomes_agree("encode_connect", payload)
    outcomes_agree("encode_sub", subject, number, other)
    outcomes_agree("encode_unsub", number, number // 7)
    outcomes_agree("encode_pub", subject, payload, other)
    outcomes_agree("encode_header", other, payload)


HEADER_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"a: b", b"a:b ", b" a: b", b"\ta: b", b": b", b"a b : c", b"a", b"", b"a: b\rc", b"a: \n", b"x:\xff"]
        ),
        st.binary(max_size=8),
    ),
    max_size=5,
)
STATUS_LINES = st.one_of(
    st.just(b"NATS/1.0"),
    st.sampled_from(
        [b"NATS/1.0 503", b"NATS/1.0\t100  Idle  x ", b"NATS/1.0 5", b"NATS/1.0 5x3", b"NATS/1.0 1234 x", b"NATS/1.0x"]
    ),
    st.text(" \t0123456789ab\r\n", max_size=9).map(lambda text: b"NATS/1.0" + text.encode()),
)


@COMMON
@given(
    first=STATUS_LINES,
    lines=HEADER_LINES,
    end=st.sampled_from([b"\r\n\r\n"] * 6 + [b"\r\n", b"", b"\n\n", b"\r\n\r\n\r\n"]),
)
@example(first=b"NATS/1.0 100\r\n", lines=[], end=b"")
def test_every_block_read(first: bytes, lines: list[bytes], end: bytes) -> None:
    outcomes_agree("parse_headers", b"\r\n".join([first, *lines]) + end)
