"""What this side writes: the bytes of each frame, and which arguments are refused with which words."""

from __future__ import annotations

import pytest
from codec_bindings import each_binding

from memphis_sync.errors import ConfigurationError, LocalProtocolError

BLOCK = b"NATS/1.0\r\nk: v\r\n\r\n"


@each_binding
def test_frames(binding) -> None:
    assert binding.PING == b"PING\r\n"
    assert binding.PONG == b"PONG\r\n"
    assert binding.encode_connect(b'{"verbose":false}') == b'CONNECT {"verbose":false}\r\n'
    assert binding.encode_sub(b"a.*.>", 7) == b"SUB a.*.> 7\r\n"
    assert binding.encode_sub(subject=b"a", sid=2**64 - 1, queue=b"q") == b"SUB a q 18446744073709551615\r\n"
    assert binding.encode_unsub(0) == b"UNSUB 0\r\n"
    assert binding.encode_unsub(7, max_msgs=100) == b"UNSUB 7 100\r\n"
    assert binding.encode_pub(b"a", b"") == b"PUB a 0\r\n\r\n"
    assert binding.encode_pub("ключ".encode(), b"x\r\n\0y", reply=b"r") == "PUB ключ r 5\r\nx\r\n\0y\r\n".encode()
    large = bytes(range(256)) * 4000
    assert binding.encode_pub(b"a", large) == b"PUB a 1024000\r\n%b\r\n" % large


BAD_TOKENS = [
    (b"", "the {} is empty"),
    (b"a b", "the {} b'a b' holds b' ' at byte 1; blanks and control bytes cannot be sent"),
    (b"a\r\nPUB b 0", "the {} b'a\\r\\nPUB b 0' holds b'\\r' at byte 1; blanks and control bytes cannot be sent"),
    (b"\x7f", "the {} b'\\x7f' holds b'\\x7f' at byte 0; blanks and control bytes cannot be sent"),
    (b"\xed\xa0\x80", "the {} b'\\xed\\xa0\\x80' is not UTF-8"),
    (b"a\xff", "the {} b'a\\xff' is not UTF-8"),
]


@each_binding
@pytest.mark.parametrize(("token", "text"), BAD_TOKENS)
def test_a_bad_subject_reply_or_queue_is_named(binding, token: bytes, text: str) -> None:
    calls = {
        "subject": [
            lambda: binding.encode_sub(token, 1),
            lambda: binding.encode_pub(token, b""),
        ],
        "queue": [lambda: binding.encode_sub(b"a", 1, token)],
        "reply": [lambda: binding.encode_pub(b"a", b"", token)],
    }
    for what, each in calls.items():
        for call in each:
            if not token and what != "subject":
                assert call()  # empty: there is none
                continue
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert str(caught.value) == text.format(what)


@each_binding
@pytest.mark.parametrize("json", [b"", b'{"pass":"secret"\r\n}', b'{"pass":\n"secret"}'])
def test_connect_options_are_one_line_and_never_shown(binding, json: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="one line of JSON") as caught:
        binding.encode_connect(json)
    assert "secret" not in str(caught.value)


@each_binding
def test_numbers_out_of_range_name_value_and_bound(binding) -> None:
    for call, option, value in [
        (lambda: binding.encode_sub(b"a", -1), "sid", -1),
        (lambda: binding.encode_sub(b"a", 2**64), "sid", 2**64),
        (lambda: binding.encode_unsub(-1), "sid", -1),
        (lambda: binding.encode_unsub(1, 2**64), "max_msgs", 2**64),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert str(caught.value) == f"{option} is {value}; it must be between 0 and 18446744073709551615"


@each_binding
def test_bytes_means_bytes(binding) -> None:
    for call, name, given in [
        (lambda: binding.encode_connect("{}"), "json", "str"),
        (lambda: binding.encode_sub("a", 1), "subject", "str"),
        (lambda: binding.encode_pub(b"a", bytearray(b"x")), "payload", "bytearray"),
        (lambda: binding.encode_pub(b"a", b"", "r"), "reply", "str"),
        (lambda: binding.encode_header("a", b""), "name", "str"),
        (lambda: binding.encode_header(b"a", 1), "value", "int"),
        (lambda: binding.parse_headers(bytearray(BLOCK)), "block", "bytearray"),
    ]:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"Argument '{name}' has incorrect type (expected bytes, got {given})"
    with pytest.raises(TypeError, match=r"^sid must be an int, not str$"):
        binding.encode_sub(b"a", "1")
