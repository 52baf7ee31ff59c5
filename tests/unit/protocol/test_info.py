"""How a connection begins: what a server may say in INFO, and what a client says of itself in CONNECT."""

from __future__ import annotations

import json

import pytest

from memphis_sync._protocol.info import DEFAULT_MAX_PAYLOAD, connect_request, login_options, parse_info
from memphis_sync.errors import RemoteProtocolError
from memphis_sync.types import Credentials


def test_what_a_link_needs_is_read_and_the_rest_kept() -> None:
    said = b'{"max_payload": 8388608, "tls_required": true, "connection_id": 7, "connect_urls": ["[::1]:4222"]}'
    info = parse_info(said)
    assert (info.max_payload, info.tls_required, info.is_memphis) == (8388608, True, True)
    assert info.fields["connection_id"] == 7
    plain = parse_info(b"{}")
    assert (plain.max_payload, plain.tls_required, plain.is_memphis) == (DEFAULT_MAX_PAYLOAD, False, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"5", "is not a JSON object"),
        (b'{"max_payload": 0}', "max_payload in its INFO is 0; it must be a whole number from 1 to 2147483647"),
        (b'{"max_payload": true}', "max_payload in its INFO is True"),
        (b'{"max_payload": 1.5}', r"max_payload in its INFO is 1\.5"),
        (b'{"max_payload": 2147483648}', "max_payload in its INFO is 2147483648"),
        (b'{"max_payload": 1%s}' % (b"0" * 400), "max_payload in its INFO is a number of 1329 bits"),
        (b'{"max_payload": "%s"}' % (b"x" * 400), r"max_payload in its INFO is 'x{60}\.\.\.;"),
        (b'{"max_payload": {}}', "max_payload in its INFO is of type dict"),
        (b'{"max_payload": null}', "max_payload in its INFO is None"),
        (b'{"tls_required": 1}', "tls_required in its INFO is 1; it must be true or false"),
        (b'{"connect_urls": "a:1"}', "connect_urls in its INFO are not addresses"),
        (b'{"connect_urls": [5]}', "connect_urls in its INFO are not addresses"),
        (b'{"connect_urls": ["a"]}', "connect_urls in its INFO are not addresses"),
        (b'{"connect_urls": ["a:1", ":1"]}', "connect_urls in its INFO are not addresses"),
        (b'{"connect_urls": ["a:99999"]}', "connect_urls in its INFO are not addresses"),
    ],
)
def test_what_cannot_be_is_refused_in_words(text: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        parse_info(text)


@pytest.mark.parametrize(
    ("credentials", "options", "fields"),
    [
        (Credentials("shop", password="pw"), {"user": "shop$1", "password": "pw"}, {"user": "shop$1", "pass": "pw"}),
        (Credentials("shop"), {"user": "shop$1", "password": ""}, {"user": "shop$1", "pass": ""}),
        (Credentials("shop", token="t"), {"token": "t"}, {"auth_token": "t"}),
    ],
)
def test_both_links_log_in_with_the_same(credentials: Credentials, options: object, fields: dict[str, str]) -> None:
    name = f"id::{credentials.identity}"
    assert login_options(credentials, "id") == {"name": name, **options}
    frame = connect_request(credentials, "id")
    assert frame.startswith(b"CONNECT ")
    said = json.loads(frame[8:])
    assert said["name"] == name
    assert {key: said[key] for key in ("user", "pass", "auth_token") if key in said} == fields
    assert (said["verbose"], said["headers"], said["no_responders"]) == (False, True, True)
