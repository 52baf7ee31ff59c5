"""Several messages, as a fetch returns them."""

from __future__ import annotations

from datetime import datetime
from typing import Optional, TypedDict

from memphis_sync._base.in_notebook import ROWS, table, value_of
from memphis_sync._base.refusals import NotAwaited
from memphis_sync._protocol.json_text import json_or_text
from memphis_sync.errors import MemphisError, UnacknowledgedError
from memphis_sync.message import Message, readable_headers


class MessageDict(TypedDict):
    """A message as a plain dict; see Messages.to_dicts()."""

    station: str
    partition: Optional[int]
    sequence: Optional[int]
    time: Optional[datetime]
    headers: dict[str, str]
    data: object


class Messages(NotAwaited, list[Message]):
    """What a fetch returns: a list of messages that can be acknowledged together, and converted to plain dicts."""

    __slots__ = ()

    def ack(self) -> None:
        """
        Acknowledges all messages that were not answered yet. It tries each of them, whatever becomes of the others.

            batch = consumer.fetch(100)
            for message in batch:
                handle(message.data)
            batch.ack()

        Raises:
            UnacknowledgedError: Some were not acknowledged, and are delivered again; its ``errors`` has the error of
                each, by its place in the list.
        """
        errors: dict[int, MemphisError] = {}
        for place, message in enumerate(self):
            if not message.is_answered:
                try:
                    message.ack()
                except MemphisError as exc:
                    errors[place] = exc
        if errors:
            first = next(iter(errors.values()))
            raise UnacknowledgedError(
                f"{len(errors)} of {len(self)} messages were not acknowledged, and are delivered again; the first one "
                f"because of {type(first).__name__}: {first}",
                errors=errors,
            )

    def to_dicts(self) -> list[MessageDict]:
        """
        One dict for each message, for a table: ``pandas.DataFrame(batch.to_dicts())``.

        Returns:
            Keys ``station``, ``partition``, ``sequence``, ``time`` (the last three may be None for a dead letter that
            was sent again, see ResentMessage), ``headers`` (the user's; empty when they cannot be read) and ``data``:
            the payload as a JSON value; if it is not JSON, as text; if it is not UTF-8, as bytes. It never raises.
        """
        return [
            {
                "station": message.station,
                "partition": message.partition,
                "sequence": message.sequence,
                "time": message.timesent,
                "headers": readable_headers(message) or {},
                "data": json_or_text(message.payload),
            }
            for message in self
        ]

    def _repr_html_(self) -> str:
        rows = ([value_of(message, name) for name in Message._shown] for message in self[:ROWS])
        return table(f"{len(self)} messages", rows, Message._shown, count=len(self))
