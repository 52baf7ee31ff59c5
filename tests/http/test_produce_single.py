"""produce/single: what is stored, byte for byte, and what is answered."""

from __future__ import annotations

from typing import Any

import pytest


def only_message(memphis: Any, station: str) -> Any:
    (message,) = memphis.consumer(station, "reader").read_all()
    message.ack()
    return message


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-8", "grün\n".encode()),
        ("application/json", b'{"n": 9007199254740993, "n": 1.0}'),
        ("application/json; charset=utf-8", b"not JSON at all: nothing looks at it"),
        ("application/cloudevents+json", b"{}"),
        ("application/x-protobuf", b"\x08\x96\x01\xff\x00"),
        ("application/octet-stream", bytes(range(256))),
        ("application/x-www-form-urlencoded", b"a=1&b=%20"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--\r\n"),
        ("application/xml", b"<a/>"),
        ("text/plain", b""),
    ],
)
def test_a_body_is_stored_byte_for_byte(
    gateway: Any, memphis: Any, station_name: str, content_type: str, body: bytes
) -> None:
    answer = gateway.post(f"/stations/{station_name}/produce/single", body, content_type)
    assert (answer.status, answer.json) == (
        200,
        {
            "duplicate": False,
            "error": None,
            "partition": 1,
            "seq": 1,
            "stream": f"{station_name}$1",
            "success": True,
        },
    )
    message = only_message(memphis, station_name)
    assert bytes(message.data) == body
    assert message.get_headers()["$memphis_producedBy"] == "rest-gateway"
