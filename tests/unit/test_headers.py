"""Headers of a user: what goes over the wire, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from memphis_sync import HeaderError, Headers
from memphis_sync._core import parse_headers
from memphis_sync.headers import encode_user_headers, header_values, is_own

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":"), min_size=1, max_size=20)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=30)


@given(st.dictionaries(names.filter(lambda name: not is_own(name)), values, max_size=5))
def test_what_is_encoded_is_read_back(headers):
    block = b"NATS/1.0\r\n" + encode_user_headers(headers) + b"\r\n"
    found = parse_headers(block)[2]
    assert found == [(name, value.strip(" \t")) for name, value in headers.items()]


@given(st.one_of(names, st.text(max_size=10)), st.one_of(values, st.text(max_size=10)))
def test_any_header_is_one_line_or_an_error(name, value):
    try:
        line = encode_user_headers({name: value})
    except HeaderError:
        return
    assert line.endswith(b"\r\n")
    assert line.count(b"\r") == line.count(b"\n") == 1
    assert b"\0" not in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("$memphis_producedBy", "x", ["$memphis_producedBy", "reserved", "should not start with $memphis"]),
        ("$MEMPHIS_x", "x", ["reserved"]),
        ("msg-id", "x", ["msg-id", "reserved", "msg_id="]),
        ("Msg-Id", "x", ["Msg-Id", "reserved"]),
        ("x-orig-msg-id", "x", ["x-orig-msg-id", "msg-id"]),
        ("Nats-Msg-Id", "x", ["Nats-Msg-Id", "reserved"]),
        ("Nats-Rollup", "all", ["Nats-Rollup", "JetStream"]),
        ("nats-expected-stream", "x", ["nats-expected-stream"]),
        ("k", "a\r\nb", ["k"]),
        ("k", "a\nb", ["k"]),
        ("k", "a\0b", ["k"]),
        ("k\n", "v", ["k"]),
        ("k:", "v", ["k:"]),
        ("a b", "v", ["a b"]),
        ("", "v", ["name"]),
        ("ключ", "v", ["ключ", "ASCII"]),
        ("k", "\udc80", ["k", "UTF-8"]),
        (7, "v", ["7", "int", "str"]),
        ("k", 7, ["'k'", "int", "str"]),
        ("k", b"v", ["'k'", "bytes", "str"]),
        ("k", None, ["'k'", "NoneType"]),
    ],
)
def test_refusals_name_the_header_and_what_is_wrong(name, value, words):
    for attempt in (lambda: encode_user_headers({name: value}), lambda: Headers().add(name, value)):
        with pytest.raises(HeaderError) as caught:
            attempt()
        assert [word for word in words if word not in str(caught.value)] == []


def test_a_value_is_in_no_error_text():
    with pytest.raises(HeaderError) as caught:
        encode_user_headers({"k": "canary\n"})
    assert "canary" not in str(caught.value)


def test_a_value_that_speaks_of_ids_is_fine():
    assert encode_user_headers({"note": "see msg-id 7"}) == b"note: see msg-id 7\r\n"


@pytest.mark.parametrize("empty", [None, {}, Headers()])
def test_no_headers(empty):
    assert encode_user_headers(empty) == b""


@pytest.mark.parametrize("wrong", [[("k", "v")], "k: v", 7, [], ""])
def test_other_types_are_refused(wrong):
    with pytest.raises(HeaderError, match=type(wrong).__name__):
        encode_user_headers(wrong)


def test_the_callers_object_is_not_changed():
    for headers in ({"k": "v"}, Headers({"k": "v"})):
        encode_user_headers(headers)
        assert dict(headers) == {"k": "v"}


def test_headers_behave_like_a_dict():
    headers = Headers()
    headers.add("a", "1")
    headers.add("a", "2")
    headers["b"] = "3"
    assert headers == {"a": "2", "b": "3"}
    assert headers.headers == {"a": "2", "b": "3"}
    assert (len(headers), list(headers), "a" in headers) == (2, ["a", "b"], True)
    del headers["a"]
    assert repr(headers) == "Headers({'b': '3'})"
    headers.headers["c"] = "4"
    assert "c" not in headers, "the property gives a copy"


def test_all_values_of_a_header_are_found_in_their_order() -> None:
    block = b"NATS/1.0\r\ncolour: red\r\nsize: 1\r\ncolour: blue\r\n$memphis_producedBy: x\r\nNats-Msg-Id: 7\r\n\r\n"
    assert header_values(block) == {"colour": ["red", "blue"], "size": ["1"]}
    assert header_values(b"") == {}
    with pytest.raises(HeaderError):
        header_values(b"nonsense")


def test_headers_are_sent_as_they_are_at_that_time() -> None:
    """They are encoded once, when they are added, however many messages they are for."""
    headers = Headers({"a": "1", "b": "ß"})
    for change in (lambda: headers.add("c", "3"), lambda: headers.pop("a"), lambda: headers.update(b="other", d="")):
        assert encode_user_headers(headers) == encode_user_headers(dict(headers))
        change()
    assert encode_user_headers(headers) == b"b: other\r\nc: 3\r\nd: \r\n"
