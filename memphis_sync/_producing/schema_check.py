"""
Messages of a station with a schema: checked before they enter the outbox, and reported to the broker when they fail.

A failure is reported as by the official clients: the message becomes a dead letter if the station is configured so, and
a notification is sent if the cluster is configured so. Neither waits, and the caller gets the error in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._base.logs import Log
from memphis_sync._core import Route
from memphis_sync._protocol.body import Request
from memphis_sync._protocol.dead_letters import SchemaDeadLetter
from memphis_sync._protocol.payload import payload_of
from memphis_sync._protocol.requests import Notification
from memphis_sync.errors import MemphisError, SchemaError
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from memphis_sync._schema.live import StationCodec
    from memphis_sync._session import Session

log = Log("memphis_sync.schema")


def encode_one(
    session: Session,
    producer: str,
    view: StationView,
    codec: StationCodec,
    message: Any,
    headers: Optional[Mapping[str, str]],
    route: Route,
) -> bytes:
    """
    Encodes a message so that it matches a station's schema.

    Raises:
        SchemaError: It does not match; the failure is being reported to the broker.
        ClosedError, ForkedError: The client cannot be used.
    """
    session.check()
    try:
        return codec.encode(message)
    except SchemaError as exc:
        if not codec.has_failed:  # otherwise the schema is wrong, not the message
            _report(session, producer, view, message, headers, route, exc)
        raise


def encode_all(
    session: Session,
    producer: str,
    views: tuple[StationView, ...],
    message: Any,
    headers: Optional[Mapping[str, str]],
    routes: list[Route],
) -> Any:
    """
    Encodes a message for several stations, for each by its own schema.

    Returns:
        One payload when all stations get the same bytes; otherwise a list with one for each route.

    Raises:
        SchemaError: It does not match one of the schemas; the failure is being reported for each such station.
        ClosedError, ForkedError: The client cannot be used.
    """
    codecs = [view.live.codec for view in views]
    if not any(codecs):
        return payload_of(message, session.json_writer)
    payloads: list[bytes] = []
    errors: list[SchemaError] = []
    for view, codec, route in zip(views, codecs, routes):
        try:
            if codec is None:
                payloads.append(bytes(payload_of(message, session.json_writer)))
            else:
                payloads.append(encode_one(session, producer, view, codec, message, headers, route))
        except SchemaError as exc:
            errors.append(exc)
    if errors:
        raise errors[0]
    return payloads[0] if payloads.count(payloads[0]) == len(payloads) else payloads


def _report(
    session: Session,
    producer: str,
    view: StationView,
    message: Any,
    headers: Optional[Mapping[str, str]],
    route: Route,
    error: SchemaError,
) -> None:
    try:
        payload: Optional[bytes] = bytes(payload_of(message, session.json_writer))
    except (MemphisError, UnicodeEncodeError):
        payload = None  # it has no bytes, so there is nothing to store as a dead letter
    reports: list[Request[Any]] = []
    try:
        is_memphis = session.data_link().is_memphis
        if view.live.schemaverse_to_dls and payload is not None:
            dead_letter = SchemaDeadLetter.of(
                view.internal,
                route.target.partition,
                producer,
                session.connection_id,
                payload,
                dict(headers or {}),
                str(error),
                is_memphis=is_memphis,
            )
            reports.append(dead_letter)
        if session.stations.send_notification:
            reports.append(Notification.of_schema_failure(view.name, producer, str(error), payload or b""))
        if reports:
            session.reports.add(session.control, reports, is_memphis=is_memphis)
    except MemphisError as exc:
        log.warning("a schema failure on station %s could not be reported: %s", view.name, exc)
