"""
What a producer tells the broker about a message that failed its station's schema.

A Memphis broker answers neither; ours answers the first when it has it, and knows one that comes again by its
``report_id``. ``headers`` must be an object and ``data`` whole bytes in hex: a Memphis broker stores anything else in
pieces, or dies of it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

TITLE = "Schema validation has failed"
ALERT = "schema_validation_fail_alert"


def schema_dead_letter(
    *,
    station_internal: str,
    partition: int,
    producer: str,
    connection_id: str,
    payload: bytes,
    headers: Mapping[str, str],
    error: str,
    is_memphis: bool,
) -> bytes:
    """The body for ``$memphis_schemaverse_dls``; *headers* are the user's, the client's own are added."""
    own = {"$memphis_producedBy": producer, "$memphis_connectionId": connection_id}
    body = {
        "station_name": station_internal,
        "producer": {"name": producer, "connection_id": connection_id},
        "message": {"data": payload.hex(), "headers": {**headers, **own}, "size": len(payload)},
        "validation_error": error,
        "partition_number": partition,
    }
    if not is_memphis:
        body["report_id"] = uuid.uuid4().hex
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def schema_notification(*, station: str, producer: str, error: str, payload: bytes) -> bytes:
    """The body for ``$memphis_notifications``; the message appears in it as text."""
    body = {
        "title": TITLE,
        "msg": f"Station: {station}\nProducer: {producer}\nError: {error}",
        "type": ALERT,
        "code": payload.decode("utf-8", "replace"),
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
