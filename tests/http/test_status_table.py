"""
The table of statuses, over real sockets: each request, and the status and the body that it gets.

The rows follow the table of Memphis' own gateway; where this one differs, the row says what it was there.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Optional, Union

import pytest


class Row(NamedTuple):
    """
    One request and its answer.

    Attributes:
        name: What it shows.
        request: Method and path; ``*`` stands for a station's name.
        status: The status.
        body: The body; a text: what ``error`` or ``message`` begins with. None: any, and JSON.
        sent: The request's body.
        headers: Its headers.
        token: Of whom: root, nobody, or the text itself.
        was: What Memphis' own gateway answers, where that differs.
    """

    name: str
    request: str
    status: int
    body: Union[dict[str, Any], list[Any], str, None]
    sent: Union[bytes, str, list[Any], dict[str, Any], None] = None
    headers: Optional[dict[str, str]] = None
    token: Optional[str] = "root"
    was: str = ""


TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
SINGLE, BATCH, CONSUME = (
    "POST /stations/*/produce/single",
    "POST /stations/*/produce/batch",
    "POST /stations/*/consume/batch",
)
LOGIN, REFRESH = "POST /auth/authenticate", "POST /auth/refreshToken"
UNAUTHORIZED = {"message": "Unauthorized"}
STORED = {"duplicate": False, "error": None, "partition": 1, "seq": 1, "stream": "*$1", "success": True}
BATCH_STORED = {
    "error": None,
    "errors": [],
    "fail": 0,
    "results": [{"duplicate": False, "partition": 1, "seq": 1, "stream": "*$1"}],
    "sent": 1,
    "success": True,
}
NOTHING_SENT = {"error": None, "errors": [], "fail": 0, "results": [], "sent": 0, "success": True}
OK = {"username": "root", "password": "memphis"}
NONE = {"consumer_name": "c", "batch_max_wait_time_ms": 100}

ROWS = [
    # ---- 200
    Row("single", SINGLE, 200, STORED, b"x", TEXT),
    Row("single, octets", SINGLE, 200, STORED, b"\xff", {"Content-Type": "application/octet-stream"}, was="500"),
    Row(
        "single, protobuf with a parameter",
        SINGLE,
        200,
        STORED,
        b"",
        {"Content-Type": "application/x-protobuf; v=1"},
        was="500",
    ),
    Row(
        "single, a form", SINGLE, 200, STORED, b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, was="500"
    ),
    Row("batch", BATCH, 200, BATCH_STORED, b'[{"a": 1}]', JSON),
    Row(
        "batch with a charset",
        BATCH,
        200,
        BATCH_STORED,
        b"[1]",
        {"Content-Type": "application/json; charset=utf-8"},
        was="500",
    ),
    Row("batch of a number", BATCH, 200, BATCH_STORED, b"[1]", JSON, was="500"),
    Row("batch of nothing", BATCH, 200, NOTHING_SENT, b"[]", JSON),
    Row("batch of null", BATCH, 200, NOTHING_SENT, b"null", JSON),
    Row("consume nothing", CONSUME, 200, [], NONE),
    Row("login", LOGIN, 200, None, OK, token=None),
    Row("status", "GET /monitoring/status", 200, {"status": "ok"}, token=None),
    Row("a path in any case", "POST /Stations/*/PRODUCE/Single", 200, STORED, b"x", TEXT),
    Row("a slash at the end", f"{SINGLE}/", 200, STORED, b"x", TEXT),
    Row("login with a slash at the end", f"{LOGIN}/", 200, None, OK, token=None, was="401"),
    Row("a token in the query", f"{SINGLE}?authorization=<root>", 200, STORED, b"x", TEXT, token=None),
    # ---- 202: only here
    Row(
        "not waited for", f"{SINGLE}?ack=none", 202, {"acknowledged": False, "error": None, "success": True}, b"x", TEXT
    ),
    # ---- 400
    Row(
        "login without a type", LOGIN, 400, "Some of your fields are not valid", b"{}", {"Content-Type": ""}, token=None
    ),
    Row("login, not JSON", LOGIN, 400, "Some of your fields are not valid", b"{", JSON, token=None),
    Row("login, account in words", LOGIN, 400, "Some of your", {**OK, "account_id": "1"}, token=None),
    Row("login without a name", LOGIN, 400, {"message": [{"field": "Username", "reason": "required"}]}, {}, token=None),
    *(
        Row(f"login, a long {field}", LOGIN, 400, f"Some of your fields are not valid: {field} takes", sent, token=None)
        for field, sent in {
            "username": {**OK, "username": "u" * 60_000},
            "password": {**OK, "password": "p" * 1025},
            "connection_token": {"username": "root", "connection_token": "t" * 60_000},
        }.items()
    ),
    Row("refresh, not JSON", REFRESH, 400, "Some of your fields are not valid", b"{", JSON, token=None, was="500"),
    Row("consume, not JSON", CONSUME, 400, "Invalid request body", b"{", JSON),
    Row("consume, text", CONSUME, 400, "Invalid request body", b"{}", TEXT),
    Row("consume, no name", CONSUME, 400, {"error": "Consumer name is required", "success": False}, {}),
    *(
        Row(
            f"consume {size}",
            CONSUME,
            400,
            {"error": "Batch size can not be greater than 5000 or less than 1", "success": False},
            {**NONE, "batch_size": size},
        )
        for size in (5001, -1)
    ),
    Row("consume, a bad name", CONSUME, 400, "consumer_name is 'a b'", {**NONE, "consumer_name": "a b"}),
    Row("consume, waiting too long", CONSUME, 400, "batch_max_wait_time_ms", {**NONE, "batch_max_wait_time_ms": 10**9}),
    Row("batch, not JSON", BATCH, 400, "the body is not a JSON array", b"[", JSON, was="500"),
    Row("batch of an object", BATCH, 400, "the body is not a JSON array; nothing", b"{}", JSON, was="500"),
    Row("a $memphis header", SINGLE, 400, "header '$memphis_x'", b"x", {**TEXT, "$memphis_x": "1"}, was="500"),
    Row(
        "broken gzip", SINGLE, 400, "the body is not valid gzip", b"x", {**TEXT, "Content-Encoding": "gzip"}, was="200"
    ),
    *(
        Row(f"station {name}", f"POST /stations/{name}/produce/single", 400, None, b"x", TEXT, was=was)
        for name, was in {
            "..": "500",
            "%2e%2e": "500",
            "a%2Fb": "200, into a",
            "%24weird": "500",
            "my%20station": "200, into my%20station",
            "gr%C3%BCn": "500",
            "%00": "500",
            "a%0d%0ab": "500",
            "%ff": "500",
            "-": "500",
            "x" * 129: "500",
            "a%2A": "500",
            "a%3E": "500",
        }.items()
    ),
    # ---- 401
    *(
        Row(f"{route}, {what}", route, 401, UNAUTHORIZED, b"[1]", JSON, token=token)
        for route in (SINGLE, BATCH, CONSUME, "POST /auth/logout")
        for what, token in {"no token": None, "no such token": "x", "not one": "a.b.c"}.items()
    ),
    Row("a wrong password", LOGIN, 401, UNAUTHORIZED, {**OK, "password": "x"}, token=None),
    Row("an unknown account", LOGIN, 401, UNAUTHORIZED, {**OK, "account_id": 9}, token=None),
    Row("no password", LOGIN, 401, UNAUTHORIZED, {"username": "root"}, token=None),
    Row("refresh with nothing", REFRESH, 401, UNAUTHORIZED, {}, token=None),
    Row("refresh with an access token", REFRESH, 401, UNAUTHORIZED, {"jwt_refresh_token": "<root>"}, token=None),
    # ---- 404, 405: JSON, and without a token
    Row("no such path", "POST /x", 404, {"error": "Cannot POST /x", "success": False}, was="text"),
    Row("no such path, no token", "GET /x", 404, {"error": "Cannot GET /x", "success": False}, token=None, was="401"),
    Row("no station", "POST /stations//produce/single", 404, "Cannot POST", b"x", TEXT),
    Row("a slash too much", "GET /healthz/", 404, "Cannot GET /healthz/", token=None),
    Row("less than a path", "POST /stations/*/produce", 404, "Cannot POST", b"x", TEXT),
    Row("more than a path", f"{SINGLE}/x", 404, "Cannot POST", b"x", TEXT),
    Row(
        "another method",
        "GET /stations/*/produce/single",
        405,
        {"error": "Method Not Allowed", "success": False},
        was="text",
    ),
    Row("another method, no token", "PUT /auth/authenticate", 405, None, b"{}", JSON, token=None),
    # ---- 413, 415, 431
    Row("a body of 5 MB", SINGLE, 413, "Request Entity Too Large", b"x" * 5_000_000, TEXT, was="text"),
    Row("a batch of 5 MB", BATCH, 413, "Request Entity Too Large", b"[" + b"1," * 2_500_000 + b"1]", JSON, was="text"),
    Row("a login of 5 MB", LOGIN, 413, "Request Entity Too Large", b"x" * 5_000_000, JSON, token=None, was="text"),
    Row(
        "an image",
        SINGLE,
        415,
        "content type 'image/png' is not supported",
        b"x",
        {"Content-Type": "image/png"},
        was="500",
    ),
    Row("no type", SINGLE, 415, "the content type is missing", b"x", {"Content-Type": ""}, was="500"),
    Row("a batch of text", BATCH, 415, "content type 'text/plain' is not supported", b"[1]", TEXT, was="500"),
    Row(
        "zstd",
        SINGLE,
        415,
        "content encoding 'zstd'",
        b"x",
        {**TEXT, "Content-Encoding": "zstd"},
        was="200, stored as sent",
    ),
    Row("large headers", SINGLE, 431, "Request Header Fields Too Large", b"x", {**TEXT, "X": "y" * 20_000}, was="text"),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_request_has_its_answer(gateway: Any, memphis: Any, station_name: str, row: Row) -> None:
    if row.status != 200:
        memphis.station(station_name)
    token = {"root": gateway.token(), None: None}.get(row.token, row.token)
    method, _, path = row.request.replace("*", station_name).replace("<root>", gateway.token()).partition(" ")
    sent = row.sent
    if isinstance(sent, dict):
        sent = json.loads(json.dumps(sent).replace("<root>", gateway.token()))
    answer = gateway.request(method, path, sent, row.headers, token=token)
    assert answer.status == row.status, answer
    told = answer.json  # its type is checked, too
    if isinstance(row.body, str):
        assert (told.get("error") or told["message"]).startswith(row.body), told
    elif row.body is not None:
        assert told == json.loads(json.dumps(row.body).replace("*$1", f"{station_name}$1"))
    if row.status >= 400:
        assert told.get("success", False) is False
        assert "Traceback" not in answer.body.decode()
        # Nothing was stored.
        assert list(memphis.consumer(station_name, "reader").read_all()) == []
    assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == ("*", "Origin")


def test_every_difference_is_told() -> None:
    """The rows that say what Memphis' own gateway answers are as many as they are meant to be."""
    assert {row.status for row in ROWS} == {200, 202, 400, 401, 404, 405, 413, 415, 431}
    assert len([row for row in ROWS if row.was]) > 25


@pytest.mark.parametrize("path", ["/", "/stations/x/produce/single", "/auth/authenticate", "/no/such/path", "*"])
def test_every_options_is_204(gateway: Any, path: str) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Headers": "authorization,x-other"}
    answer = gateway.request("OPTIONS", path, headers=asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET,POST,HEAD,PUT,DELETE,PATCH"
    assert answer.headers["access-control-allow-headers"] == "authorization,x-other"
    assert answer.headers["vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("kind", ["json", "protobuf", "avro", "graphql"])
def test_a_message_that_breaks_its_schema_is_400_and_a_dead_letter(
    gateway: Any, memphis: Any, station_name: str, until: Any, kind: str
) -> None:
    source, good, bad = {
        "json": ('{"type": "object", "required": ["n"]}', b'{"n": 1}', b'{"m": 1}'),
        "protobuf": ('syntax = "proto3"; message M { string a = 1; }', b"\x0a\x01x", b"\x0a\xff"),
        "avro": (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}',
            b'{"n": 1}',
            b'{"n": "x"}',
        ),
        "graphql": ("type Query { a: Int }", b"{ a }", b"{ b }"),
    }[kind]
    memphis.create_schema(f"schema-{station_name}", kind, schema_content=source)
    memphis.station(station_name, schema_name=f"schema-{station_name}")
    path = f"/stations/{station_name}/produce/single"
    assert gateway.post(path, good, "application/json").status == 200
    answer = gateway.post(path, bad, "application/json")
    assert (answer.status, answer.json["success"], answer.json["outcome"]) == (400, False, "not_sent")
    assert answer.json["error"].startswith("Schema validation has failed: ")
    (letter,) = until(lambda: list(memphis.dls(station_name)))
    assert letter.data == bad


# ---- a broker that is away ------------------------------------------------------------------------------------------


def test_a_broker_that_is_away(fresh_broker: Any, gateway_inside: Any, proxy_to: Any, until: Any) -> None:
    """503 when it is certain that the message was not sent, 504 when it may be stored; a success later."""
    broker = fresh_broker()
    proxy = proxy_to("127.0.0.1", broker.port)
    gateway = gateway_inside(f"memphis://127.0.0.1:{proxy.port}/?ping_interval_s=0.5")
    path = "/stations/away/produce/single"
    assert gateway.post(path, b"before", "text/plain").json["seq"] == 1

    proxy.stall()  # what is written goes nowhere, and nobody says so
    late = gateway.post(f"{path}?timeout_ms=300", b"late", "text/plain", {"Idempotency-Key": "late"})
    assert (late.status, late.json["outcome"], late.json["message_id"]) == (504, "unknown", "late")

    proxy.down()
    away = until(
        lambda: each if (each := gateway.post(f"{path}?timeout_ms=300", b"away", "text/plain")).status == 503 else None
    )
    assert (away.json["outcome"], away.json["success"], away.headers["retry-after"]) == ("not_sent", False, "1")
    batch = gateway.post("/stations/away/produce/batch", [1, 2], headers={"Memphis-Timeout-Ms": "300"})
    assert (batch.status, batch.json["sent"], batch.json["fail"]) == (503, 0, 2)
    assert [error["outcome"] for error in batch.json["errors"]] == ["not_sent"] * 2
    consumed = gateway.post("/stations/away/consume/batch", {**NONE, "batch_max_wait_time_ms": 500})
    assert (consumed.status, consumed.json["success"]) in {(503, False), (504, False)}
    assert gateway.request("GET", "/monitoring/status").json == {"status": "ok"}

    proxy.up()
    proxy.go_on()
    again = until(
        lambda: (
            each
            if (
                each := gateway.post(f"{path}?timeout_ms=2000", b"late", "text/plain", {"Idempotency-Key": "late"})
            ).status
            == 200
            else None
        )
    )
    assert again.json["seq"] == 2
    assert gateway.post(path, b"after", "text/plain").json["seq"] == 3


def test_a_full_queue_is_503_and_nothing_of_it_is_stored(
    fresh_broker: Any, gateway_inside: Any, proxy_to: Any, until: Any
) -> None:
    broker = fresh_broker()
    proxy = proxy_to("127.0.0.1", broker.port)
    gateway = gateway_inside(f"memphis://127.0.0.1:{proxy.port}/?outbox_max_messages=5")
    assert gateway.post("/stations/full/produce/batch", [0]).status == 200
    proxy.stall()
    answer = gateway.post("/stations/full/produce/batch?timeout_ms=60000&ack=none", list(range(1, 10)))
    assert (answer.status, answer.json["sent"], answer.json["fail"]) == (503, 5, 4)
    assert answer.headers["retry-after"] == "1"
    assert [error["index"] for error in answer.json["errors"]] == [5, 6, 7, 8]
    single = gateway.post("/stations/full/produce/single", b"x", "text/plain")
    assert (single.status, single.json["outcome"], single.headers["retry-after"]) == (503, "not_sent", "1")
    assert "outbox_max_messages" in single.json["error"]
    proxy.go_on()
    path = "/stations/full/produce/batch?timeout_ms=1000"
    answer = until(lambda: each if (each := gateway.post(path, [10])).status == 200 else None)
    assert answer.json["results"][0]["seq"] == 7


def test_a_station_that_was_destroyed(gateway: Any, memphis: Any, station_name: str, until: Any) -> None:
    path = f"/stations/{station_name}/produce/single"
    assert gateway.post(path, b"1", "text/plain").json["seq"] == 1
    memphis.destroy_station(station_name)
    answer = gateway.post(path, b"2", "text/plain")
    if answer.status != 200:
        assert (answer.status, answer.json["outcome"]) == (404, "rejected")
        answer = gateway.post(path, b"2", "text/plain")  # which creates it, as every first message does
    assert (answer.status, answer.json["seq"]) == (200, 1)
