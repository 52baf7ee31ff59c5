"""``/openapi.json``: what the gateway takes and answers, for programs; ``/openapi``: the same for people."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import lru_cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from memphis_sync.types import VERSION

from .errors import as_json

Json = dict[str, Any]

_STATION: Json = {
    "name": "station",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": 128},
    "description": "Letters, digits, _ - and .; a station that does not exist is created.",
}
_STATUSES = {
    "200": "It was done.",
    "202": "It was accepted, and nobody waits for the broker (ack=none).",
    "400": "The request is wrong.",
    "401": "The token is missing, has expired or is not valid.",
    "403": "Not allowed to this user.",
    "404": "The station or the group was destroyed.",
    "409": "It was already answered otherwise.",
    "410": "The ack time is over.",
    "413": "Too large.",
    "415": "The content type or encoding is not supported.",
    "429": "Too many logins have failed. Try again after Retry-After seconds.",
    "503": "The broker cannot be reached, or the queue is full. Try again after Retry-After seconds.",
    "504": "No confirmation in time; outcome says whether the message may be stored.",
}
_PRODUCING = (
    (
        "Idempotency-Key",
        "The message's id: with the same one it is stored once. Of a batch or stream: the beginning of it.",
    ),
    ("Memphis-Timeout-Ms", "How long the broker may take to confirm, 1 to 3600000; by default 15000."),
    ("Memphis-Ack", "all: wait until it is stored. none: do not wait."),
    ("Memphis-Partition-Key", "Messages with the same key go to the same partition."),
    ("Memphis-Partition-Number", "The partition."),
)


def _text(about: str, **more: Any) -> Json:
    return {"type": "string", "description": about, **more}


def _number(about: str, default: Any = None, **more: Any) -> Json:
    return {"type": "integer", "description": about, **({} if default is None else {"default": default}), **more}


def _object(**fields: Any) -> Json:
    required = [name for name, field in fields.items() if field.pop("needed", False)]
    return {"type": "object", "properties": fields, **({"required": required} if required else {})}


_LOGIN = _object(
    username=_text("The broker's user.", needed=True),
    password=_text("Its password."),
    connection_token=_text("For a broker in token mode, instead of a password."),
    account_id=_number("Its account.", 1),
    token_expiry_in_minutes=_number("How long the token is valid."),
    refresh_token_expiry_in_minutes=_number("How long the refresh token is valid."),
)
_TOKENS = _object(
    jwt=_text("For the header Authorization: Bearer."),
    expires_in=_number("Milliseconds until it expires."),
    jwt_refresh_token=_text("For /auth/refreshToken, once."),
    refresh_token_expires_in=_number("Milliseconds until it expires."),
)
_REFRESH = _object(jwt_refresh_token=_text("From the last answer.", needed=True))
_READER = {
    "consumer_name": _text("The consumer.", needed=True),
    "batch_size": _number("How many messages at most.", 10, minimum=1, maximum=5000),
    "batch_max_wait_time_ms": _number("How long to wait.", 5000),
}
_CONSUME = _object(
    **{name: dict(field) for name, field in _READER.items()},
    consumer_group=_text("Its members share the messages; by default the consumer's name."),
    ack_time_ms=_number("After so long without an answer a message is delivered again.", 30000),
    max_deliveries=_number("After so many deliveries it is a dead letter.", 10, minimum=1, maximum=10),
)
_BATCH = _object(
    **{name: dict(field) for name, field in _READER.items()},
    consumer_group=_text("By default rest-gateway; a name gets that suffix."),
)
_DELIVERED = _object(
    message=_text("The payload, when it is UTF-8."),
    message_base64=_text("The payload, when it is not."),
    headers={"type": "object", "description": "Each name with all its values."},
    sequence=_number("Number in the partition."),
    partition=_number("The partition."),
    time=_text("When it was stored.", format="date-time"),
    delivered=_number("How often it was delivered."),
    token=_text("The delivery token, for /ack and /nack."),
    ack_until_ms=_number("Until when, in milliseconds since 1970."),
)
_ACK = _object(
    tokens={"type": "array", "items": {"type": "string"}, "maxItems": 5000, "description": "Delivery tokens."},
    token=_text("A single one."),
)
_NACK = _object(
    **{name: dict(field) for name, field in _ACK["properties"].items()},
    delay_ms=_number("When they come again; 0: at once.", 0, maximum=86400000),
    dead_letter=_text("Make them dead letters, for this reason.", maxLength=1000),
)
_ANSWERED = _object(
    sent=_number("How many succeeded."),
    fail=_number("How many did not."),
    errors={"type": "array", "items": {"type": "object"}, "description": "index, status and error of each failure."},
    success={"type": "boolean"},
    error={"type": "string", "nullable": True},
)
_STORED = _object(
    success={"type": "boolean"},
    error={"type": "string", "nullable": True},
    partition=_number("The partition."),
    seq=_number("Number in the partition."),
    stream=_text("Its stream."),
    duplicate={"type": "boolean", "description": "A message with this id was stored before."},
    outcome=_text("After an error: not_sent, rejected or unknown.", enum=["not_sent", "rejected", "unknown"]),
)
_RESULT = _object(line=_number("Number of the line, from 1."), status=_number("Of a failure."), **_STORED["properties"])
_ANY: Json = {"description": "The message, byte for byte."}
_MESSAGES: Json = {"type": "array", "items": {}, "description": "Each element is a message, as it was sent."}
_ROWS: Json = {"type": "array", "items": _object(message=_text("The payload."), headers={"type": "object"})}
_FOUND = _object(messages={"type": "array", "items": _DELIVERED}, success={"type": "boolean"})
_OK = _object(status=_text("ok"))
_JSON, _NDJSON = "application/json", "application/x-ndjson"

# Path, method, title, body by content type, answer by content type, statuses beside 200.
_ROUTES: tuple[tuple[str, str, str, Json, Json, str], ...] = (
    ("/auth/authenticate", "post", "Log in", {_JSON: _LOGIN}, {_JSON: _TOKENS}, "400 401 429 503"),
    ("/auth/refreshToken", "post", "The next pair of tokens", {_JSON: _REFRESH}, {_JSON: _TOKENS}, "400 401 503"),
    ("/auth/logout", "post", "End the session", {}, {_JSON: _object(message=_text("Logged out"))}, "401"),
    (
        "/stations/{station}/produce/single",
        "post",
        "Produce a message",
        dict.fromkeys((_JSON, "text/plain", "application/octet-stream", "application/x-protobuf"), _ANY),
        {_JSON: _STORED},
        "202 400 401 403 404 413 415 503 504",
    ),
    (
        "/stations/{station}/produce/batch",
        "post",
        "Produce the elements of an array",
        {_JSON: _MESSAGES},
        {_JSON: _ANSWERED},
        "202 400 401 403 404 413 415 503 504",
    ),
    (
        "/stations/{station}/produce/stream",
        "post",
        "Produce a message a line, with a result a line while the body is still coming",
        {_NDJSON: {"description": "JSON, a line each."}, "text/plain": {"description": "Any line."}},
        {_NDJSON: _RESULT},
        "400 401 403 404 415 503",
    ),
    (
        "/stations/{station}/consume/batch",
        "post",
        "Fetch messages and acknowledge them at once",
        {_JSON: _BATCH},
        {_JSON: _ROWS},
        "400 401 403 404 503",
    ),
    (
        "/stations/{station}/consume",
        "post",
        "Wait for messages that stay yours until you answer their tokens",
        {_JSON: _CONSUME},
        {_JSON: _FOUND},
        "400 401 403 404 503",
    ),
    (
        "/stations/{station}/ack",
        "post",
        "Acknowledge messages",
        {_JSON: _ACK},
        {_JSON: _ANSWERED},
        "400 401 403 404 409 410 503",
    ),
    (
        "/stations/{station}/nack",
        "post",
        "Give messages back, or make them dead letters",
        {_JSON: _NACK},
        {_JSON: _ANSWERED},
        "400 401 403 404 409 410 503",
    ),
    ("/monitoring/status", "get", "Whether this process answers", {}, {_JSON: _OK}, ""),
    ("/healthz", "get", "Whether this process answers", {}, {_JSON: _OK}, ""),
    ("/readyz", "get", "Whether the broker answers", {}, {_JSON: _OK}, "503"),
    ("/metrics", "get", "Counters for Prometheus", {}, {"text/plain": {"type": "string"}}, ""),
    ("/openapi.json", "get", "This description", {}, {_JSON: {"type": "object"}}, ""),
    ("/openapi", "get", "This description for people", {}, {"text/html": {"type": "string"}}, ""),
)


def _operation(path: str, title: str, body: Json, found: Json, statuses: str) -> Json:
    made: Json = {
        "summary": title,
        "responses": {code: {"description": _STATUSES[code]} for code in ["200", *statuses.split()]},
    }
    made["responses"]["200"]["content"] = {kind: {"schema": schema} for kind, schema in found.items()}
    if body:
        made["requestBody"] = {"required": True, "content": {kind: {"schema": schema} for kind, schema in body.items()}}
    parameters = [_STATION] if "{station}" in path else []
    if "/produce/" in path:
        parameters += [
            {"name": name, "in": "header", "schema": {"type": "string"}, "description": about}
            for name, about in _PRODUCING
        ]
    if parameters:
        made["parameters"] = parameters
    if not path.startswith("/stations") and path != "/auth/logout":
        made["security"] = []
    return made


@lru_cache(1)
def description() -> Json:
    """The document: OpenAPI 3.0.3."""
    paths: Json = {}
    for path, method, title, body, found, statuses in _ROUTES:
        paths.setdefault(path, {})[method] = _operation(path, title, body, found, statuses)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "memphis-sync gateway",
            "version": VERSION,
            "description": "Memphis' REST protocol. An error is JSON: error or message, and outcome for a message.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}},
        "security": [{"token": []}],
    }


async def document(_: Request) -> Response:
    """GET /openapi.json."""
    return Response(as_json(description()), media_type="application/json")


# ---- for people -----------------------------------------------------------------------------------------------------

_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}"
    "code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:.5rem;border:1px solid #8888}"
    "summary{cursor:pointer;padding:.4rem 0}td,th{text-align:left;vertical-align:top;padding:.1rem .8rem .1rem 0}"
)
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


async def page(_: Request) -> Response:
    """GET /openapi."""
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
    return Response(_page(), headers=headers, media_type="text/html")


@lru_cache(1)
def _page() -> str:
    told = description()
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width"><title>memphis-sync gateway</title>',
        f"<style>{_STYLE}</style></head><body><h1>memphis-sync gateway {html.escape(VERSION)}</h1>",
        f"<p>{html.escape(told['info']['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>',
    ]
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<details><summary><code>{method.upper()} {html.escape(path)}</code> ")
            parts.append(f"{html.escape(operation['summary'])}</summary>{_parameters(operation)}")
            parts.append(_schemas("Body", operation.get("requestBody", {}).get("content", {})))
            parts.append(_schemas("Answer", operation["responses"]["200"]["content"]))
            rows = operation["responses"].items()
            parts.append(_table(("status", ""), [(code, each["description"]) for code, each in rows]) + "</details>")
    return "".join([*parts, "</body></html>"])


def _parameters(operation: Json) -> str:
    rows = [(each["name"], f"{each['in']}: {each['description']}") for each in operation.get("parameters", ())]
    return _table(("parameter", ""), rows) if rows else ""


def _schemas(title: str, content: Json) -> str:
    if not content:
        return ""
    kinds = html.escape(", ".join(content))
    schema = json.dumps(next(iter(content.values()))["schema"], indent=1, ensure_ascii=False)
    return f"<p>{title}: <code>{kinds}</code></p><pre>{html.escape(schema)}</pre>"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td><code>{html.escape(one)}</code><td>{html.escape(other)}" for one, other in rows)
    return f"<table><tr><th>{head[0]}<th>{head[1]}{lines}</table>"
