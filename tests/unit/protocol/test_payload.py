"""What becomes of a message while the station has no schema: bytes, or an error that says what it is instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from memphis_sync._protocol.payload import message_id, not_utf8, payload_of, size_of
from memphis_sync.errors import ConfigurationError


class Unreadable:
    @property
    def SerializeToString(self) -> Any:
        raise RuntimeError("no attributes today")


class NotInitialised:
    def SerializeToString(self) -> bytes:
        raise ValueError("field id is missing")


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b"b", b"b"),
        (bytearray(b"ba"), b"ba"),
        ("é", b"\xc3\xa9"),
        ({"a": [1]}, b'{"a": [1]}'),
        ([1], b"[1]"),
        (SimpleNamespace(SerializeToString=lambda: bytearray(b"\x08\x01")), b"\x08\x01"),
        (SimpleNamespace(loc=SimpleNamespace(source=SimpleNamespace(body="{ a }"))), b"{ a }"),
    ],
)
def test_each_kind_becomes_bytes(message: Any, data: bytes) -> None:
    assert payload_of(message) == data


@pytest.mark.parametrize(
    ("view", "data"),
    [
        (memoryview(b"abc"), b"abc"),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(b"\x01\x00\x02\x00").cast("H"), b"\x01\x00\x02\x00"),
    ],
)
def test_a_view_is_handed_on_as_single_bytes_without_gaps(view: memoryview, data: bytes) -> None:
    payload = payload_of(view)
    assert (bytes(payload), size_of(payload)) == (data, len(data))


def test_a_size_is_that_on_the_wire() -> None:
    views = ("é", b"abc", bytearray(2), memoryview(b"abcd").cast("I"))
    assert [size_of(each) for each in views] == [2, 3, 2, 4]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (5, r"^message is of type int; it must be bytes, bytearray, "),
        ((1, 2), r"; send list\(message\) instead$"),
        ({"a": {1}}, r"^message is a dict that cannot be written as JSON: "),
        (NotInitialised(), r"^message is a NotInitialised that cannot be written: field id is missing$"),
        (Unreadable(), r"^message is a Unreadable that cannot be read: RuntimeError: no attributes today$"),
    ],
)
def test_what_is_no_message_is_an_error_in_words(message: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        payload_of(message)


def test_a_released_view_is_an_error_in_words() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(ConfigurationError, match=r"^message is a memoryview that cannot be read: ValueError: "):
        payload_of(view)


def test_a_message_id_fits_into_one_header() -> None:
    assert message_id("é-\ud800") == b"\xc3\xa9-\xed\xa0\x80"
    for bad in ("a\nb", "a\rb", "a\0b"):
        with pytest.raises(ConfigurationError, match="it must hold no CR, LF or NUL"):
            message_id(bad)
    with pytest.raises(ConfigurationError, match="msg_id is of type int; it must be a str or None"):
        message_id(5)


def test_half_of_a_surrogate_pair_is_named_with_its_place() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "ab\ud800".encode()
    assert str(not_utf8(caught.value)).endswith("cannot be written as UTF-8: surrogates not allowed at 2")
