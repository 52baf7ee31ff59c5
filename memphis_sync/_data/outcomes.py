"""What a settled ticket means: its confirmation, or its error, which says what became of the message and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

from memphis_sync._core import Ticket
from memphis_sync._core._codes import TicketOutcome
from memphis_sync.errors import (
    AckTimeoutError,
    MemphisError,
    Outcome,
    ProduceError,
    RejectedError,
    SchemaError,
    StationGoneError,
    _rebuild,
)
from memphis_sync.types import PubAck

if TYPE_CHECKING:
    from memphis_sync._data import DataLink

_SEVERAL = 2
_NO_RESPONDERS_CODE = 503
_new_tuple = tuple.__new__
PENDING, DELIVERED, REFUSED, NO_RESPONDERS, EXPIRED, ABANDONED, UNKNOWN, UNSENT = TicketOutcome
OUTCOMES = tuple(outcome.name.lower().replace("_", " ") for outcome in TicketOutcome)


class Target(NamedTuple):
    """Where a route leads, for the reader of its tickets."""

    station: str
    partition: int
    stream: str
    link: DataLink
    of_partitions: int = 0  # how many the station has
    of_stations: int = 1  # how many the producer has
    reason: Optional[tuple[type[MemphisError], tuple[Any, ...], dict[str, Any]]] = None  # parts of an error: why unsent


def target_of(ticket: Ticket) -> Target:
    """Where a ticket's message went."""
    target: Target = ticket.route.target
    return target


def pub_ack(ticket: Ticket) -> PubAck:
    """The confirmation of a delivered message."""
    station, partition, stream, *_ = ticket.route.target
    # A named tuple's own __new__ is a Python function, which would take longer than all else here.
    return _new_tuple(PubAck, (station, partition, ticket.sequence, ticket.duplicate, stream))


def reason_of(ticket: Ticket) -> MemphisError:
    """Why a message is unsent: the error of its producer's registration, or of the message itself."""
    target = target_of(ticket)
    if target.reason is not None:
        return _rebuild(*target.reason)
    text = f"the message was never sent to {_where(target)}: {ticket.failure[-1]}"
    return ProduceError(text, message_id=ticket.message_id)


def _where(target: Target) -> str:
    station, partition = target.station, target.partition
    return f"station {station!r}" if partition == 0 else f"station {station!r}, partition {partition}"


def error_of(ticket: Ticket) -> Union[ProduceError, SchemaError]:
    """The error that a settled message ended with."""
    target = target_of(ticket)
    where = _where(target)
    message_id: Optional[str] = ticket.message_id
    outcome = ticket.outcome
    was_written, code, err_code, text = ticket.failure
    if outcome == UNSENT:
        reason = reason_of(ticket)
        if isinstance(reason, (ProduceError, SchemaError)):
            return reason
        error = ProduceError(f"the message was never sent to {where}: {reason}", message_id=message_id)
        error.__cause__ = reason
        return error
    if outcome == REFUSED:
        text = _unescaped(text)
        return RejectedError(
            f"{where} refused the message: {text} (code {code}, err_code {err_code})",
            message_id=message_id,
            code=code,
            err_code=err_code,
            description=text,
        )
    if outcome == NO_RESPONDERS:
        return StationGoneError(
            f"{where} does not answer: it was destroyed, or never existed. The message is not stored",
            message_id=message_id,
            code=code,
            description="no responders",
        )
    sent: Outcome = "unknown" if was_written else "not_sent"
    fate = f"it may be stored; {advice(ticket)}" if was_written else "it was never sent"
    if not target.stream:
        fate += ", for its producer was not registered by then"
    if outcome == UNKNOWN:
        what = (
            "does not answer"
            if code == _NO_RESPONDERS_CODE
            else f"refused the message ({_unescaped(text)}; code {code}, err_code {err_code})"
            if code
            else f"cannot get the message again ({text})"
        )
        return ProduceError(
            f"{where} {what}, but the message had been sent before, and that was not answered: {fate}",
            outcome=sent,
            message_id=message_id,
        )
    if outcome == EXPIRED and code == _NO_RESPONDERS_CODE:
        return AckTimeoutError(
            f"{where} did not answer before the message's deadline: its cluster has elected no leader, or it was "
            "destroyed and the broker could not be asked. The message is not stored",
            outcome="not_sent",
            message_id=message_id,
        )
    if outcome == EXPIRED:
        return AckTimeoutError(
            f"{where} did not confirm the message before its deadline; {fate}", outcome=sent, message_id=message_id
        )
    if target.stream and target.link.file is not None:
        fate = f"it remains in {target.link.file.path!r} and is sent at the next connect with it"
    return ProduceError(
        f"the client ended before {where} confirmed the message; {fate}", outcome=sent, message_id=message_id
    )


def advice(ticket: Ticket) -> str:
    """What to do with a message that may be stored, so that it is stored once."""
    target, message_id = target_of(ticket), ticket.message_id
    if not message_id:
        return "without a message id, producing it again may store it twice"
    # The partition of a key or of an automatic id does not follow from the id.
    number = "" if target.of_partitions < _SEVERAL else f", producer_partition_number={target.partition} and no key"
    alone = "" if target.of_stations < _SEVERAL else f" to station {target.station!r} alone,"
    return f"produce it again{alone} with msg_id={message_id!r}{number}, to store it once"


def _unescaped(text: str) -> str:
    """JSON's escapes undone; the core hands over the string as it stood between its quotes."""
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
