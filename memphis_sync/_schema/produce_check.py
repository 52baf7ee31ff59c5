"""
Messages of a station with a schema: put through it before the outbox, and reported to the broker when they fail.

A failure is told the broker as the official clients do: the message goes to the dead letters if the station wants that,
and a notification goes out if the cluster wants that. Neither waits, and neither hides the error from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._base.logs import Log
from memphis_sync._core import Route
from memphis_sync._protocol import subjects
from memphis_sync._protocol.payload import payload_of
from memphis_sync._protocol.schema_reports import schema_dead_letter, schema_notification
from memphis_sync.errors import MemphisError, SchemaError
from memphis_sync.types import MessageCodec, StationView

if TYPE_CHECKING:
    from memphis_sync._session import Session

log = Log("memphis_sync.schema")


def encode_one(
    session: Session,
    producer: str,
    view: StationView,
    codec: MessageCodec,
    message: Any,
    headers: Optional[Mapping[str, str]],
    route: Route,
) -> bytes:
    """
    A message as bytes that match a station's schema.

    Raises:
        SchemaError: It does not match; that is on its way to the broker.
        ClosedError, ForkedError: The client cannot be used.
    """
    session.check()
    try:
        return codec.encode(message)
    except SchemaError as exc:
        if not codec.has_failed:  # else it is not the message that is wrong
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
    A message for several stations, each by its own schema.

    Returns:
        One payload when all stations get the same bytes; else a list with one for each route.

    Raises:
        SchemaError: It does not match one of the schemas; each station that it fails on is told.
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
        payload = None  # it has no bytes: there is nothing that a dead letter could hold
    messages: list[tuple[str, bytes]] = []
    try:
        is_memphis = session.data_link().is_memphis
    except MemphisError as exc:
        log.warning("a schema failure on station %s could not be reported: %s", view.name, exc)
        return
    if view.live.schemaverse_to_dls and payload is not None:
        dead_letter = schema_dead_letter(
            station_internal=view.internal,
            partition=route.target.partition,
            producer=producer,
            connection_id=session.connection_id,
            payload=payload,
            headers=_plain(headers),
            error=str(error),
            is_memphis=is_memphis,
        )
        messages.append((subjects.SCHEMA_DEAD_LETTERS, dead_letter))
    if session.stations.send_notification:
        notification = schema_notification(
            station=view.name, producer=producer, error=str(error), payload=payload or b""
        )
        messages.append((subjects.NOTIFICATIONS, notification))
    if messages:
        try:
            session.reports.add(session.control, messages, is_memphis=is_memphis)
        except MemphisError as exc:
            log.warning("a schema failure on station %s could not be reported: %s", view.name, exc)


def _plain(headers: Optional[Mapping[str, str]]) -> dict[str, str]:
    """The user's headers as a plain dict."""
    return {} if headers is None else dict(headers.items())
