"""
The dead letters of a station: messages that a group did not acknowledge, and messages that did not match the schema.

A Memphis broker offers them in its REST API only; with it the calls raise a ServerError that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Optional, TypeVar, Union

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.logs import Log
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._control.dead_letters import read_data
from memphis_sync._options.checks import as_int, check_int, show
from memphis_sync._protocol.dead_letter_headers import read_headers
from memphis_sync._protocol.dead_letters import (
    TYPES,
    DeadLetterDrop,
    DeadLetterList,
    DeadLetterResend,
    DeadLetterRow,
)
from memphis_sync._protocol.stored import time_of
from memphis_sync.errors import ConfigurationError
from memphis_sync.headers import is_own

if TYPE_CHECKING:
    from memphis_sync.client import Memphis

log = Log("memphis_sync.control")

DEFAULT_LIMIT = 1000
MAX_LIMIT = 1_000_000
PAGE_SIZE = 100  # rows of a reply, with payloads; the broker sends fewer when they are large
BARE_PAGE_SIZE = 1000  # without payloads
_IDS_AT_ONCE = 10_000  # ids in a request, which must stay below max_payload
_MAX_ID = 2**63 - 1

_Counted = TypeVar("_Counted", DeadLetterResend, DeadLetterDrop)


@dataclass(frozen=True, repr=False)
class DeadLetter:
    """
    A message that could not be processed, as the broker stores it.

    Attributes:
        id: Identifies it in resend() and drop(); never used again for another message.
        station: Name of the station, lower case.
        type: ``poison``: a group did not acknowledge it in its last delivery, or called ``dead_letter()``. ``schema``:
            it did not match the schema, and was not stored in the station.
        partition: From 1; 0 for a ``schema`` one whose partition is not known.
        sequence: Number in the partition, from 1; 0 for a ``schema`` one.
        producer: Name of the producer; ``unknown`` without one.
        groups: The consumer groups that have not acknowledged it.
        reason: The text of ``dead_letter()`` or of the schema's check; "" after too many deliveries.
        time: When the station stored the message, or when the failure was reported; UTC, to the microsecond.
        size: Payload and headers in bytes, as sent.
        data: The payload.
        headers: The headers that the producing program has set.
    """

    id: int
    station: str
    type: Literal["poison", "schema"]
    partition: int
    sequence: int
    producer: str
    groups: tuple[str, ...]
    reason: str
    time: datetime
    size: int
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        where = f"{self.station}[{self.partition}] seq={self.sequence}" if self.sequence else self.station
        groups = f" groups={','.join(self.groups)}" if self.groups else ""
        return f"<DeadLetter {self.id} {self.type} {where}{groups} {self.size} bytes>"


Ids = Union[int, DeadLetter, Iterable[Union[int, DeadLetter]]]


@hint_keywords()
class DeadLetters(NotCopied, NotAwaited):
    """
    The dead letters of one station; ``client.dls("orders")``, or ``dls`` of a Station.

    Iterating yields all of them, ascending by id, and reads page by page.

    Attributes:
        station_name: Lower case.
    """

    _instead = "pass the station's name, and call dls() of the client there"

    def __init__(self, client: Memphis, station_name: str) -> None:
        self._client = client
        self.station_name = station_name

    def list(
        self,
        type: str = "",  # noqa: A002
        *,
        ids: Optional[Ids] = None,
        after_id: int = 0,
        limit: int = DEFAULT_LIMIT,
        with_data: bool = True,
    ) -> list[DeadLetter]:
        """
        Dead letters with headers and payloads, ascending by id.

        Args:
            type: ``poison`` or ``schema``; "" for both.
            ids: Only these, ids or DeadLetter objects; those that do not exist are left out.
            after_id: Only those with a larger id, 0 or more. The last id of a list continues after that list.
            limit: How many to return at most, 1 to 1000000.
            with_data: Whether to read headers and payloads; without them both are empty, and a list costs little.

        Raises:
            ConfigurationError: An argument is not allowed; nothing was sent.
            StationNotFoundError: The station does not exist.
            ServerError: The broker refused, or offers dead letters in its REST API only (code 503).
            DeadlineError, ConnectionLostError: No reply.
            ClosedError: The client was closed.
        """
        limit = check_int("limit", limit, 1, MAX_LIMIT)
        found: list[DeadLetter] = []
        for letter in self._read(type, ids, after_id, limit, with_data=with_data):
            found.append(letter)
            if len(found) == limit:
                break
        return found

    def iterate(self, type: str = "", *, after_id: int = 0) -> Iterator[DeadLetter]:  # noqa: A002
        """Yields all of them, holding one page in memory. Arguments and errors as in list()."""
        return self._read(type, None, after_id, MAX_LIMIT)

    def __iter__(self) -> Iterator[DeadLetter]:
        return self.iterate()

    def resend(self, ids: Optional[Ids] = None) -> int:
        """
        Sends poison ones to their groups again. Each is kept until every group has acknowledged it, so it can be sent
        again if no consumer was there.

        Args:
            ids: Ids or DeadLetter objects; None for all of the station. ``schema`` ones have no group and are left out.

        Returns:
            How many were sent.

        Raises:
            DeadlineError, ConnectionLostError: No reply; some may have been sent.
            ConfigurationError, StationNotFoundError, ServerError, ClosedError: As in list().
        """
        return self._count(DeadLetterResend(self.station_name), ids, "resend()")

    def drop(self, ids: Optional[Ids] = None, *, type: str = "") -> int:  # noqa: A002
        """
        Removes dead letters for good; the station's own messages stay.

        Args:
            ids: Ids or DeadLetter objects; None for all of the station.
            type: Only ``poison`` or ``schema`` ones; "" for both.

        Returns:
            How many were removed.

        Raises:
            DeadlineError, ConnectionLostError: No reply; some may have been removed.
            ConfigurationError, StationNotFoundError, ServerError, ClosedError: As in list().
        """
        return self._count(DeadLetterDrop(self.station_name, type=_check_type(type)), ids, "drop()")

    def __repr__(self) -> str:
        return f"<DeadLetters of station {self.station_name!r}>"

    # ---- for the package's own use ----------------------------------------------------------------------------------

    @property
    def _about(self) -> str:
        return f"dead letters of station {self.station_name!r}"

    def _read(
        self, kind: str, ids: Optional[Ids], after_id: int, limit: int, *, with_data: bool = True
    ) -> Iterator[DeadLetter]:
        """Checks its arguments at once, and requests page by page while it is used."""
        _check_type(kind)
        after_id = check_int("after_id", after_id, 0, _MAX_ID)
        page_size = PAGE_SIZE if with_data else BARE_PAGE_SIZE
        return self._pages(kind, _chunks(ids), after_id, min(limit, page_size), with_data=with_data)

    def _pages(
        self, kind: str, chunks: Sequence[tuple[int, ...]], after_id: int, limit: int, *, with_data: bool
    ) -> Iterator[DeadLetter]:
        for chunk in chunks:
            after = after_id
            while True:
                request = DeadLetterList(
                    self.station_name, type=kind, ids=chunk, after_id=after, limit=limit, with_data=with_data
                )
                reply = self._client._requests.call("list()", request, about=self._about)
                for row in reply.rows:
                    letter = self._complete(row, with_data=with_data)
                    if letter is not None:
                        yield letter
                after = reply.after_id
                if not after:
                    break

    def _complete(self, row: DeadLetterRow, *, with_data: bool) -> Optional[DeadLetter]:
        """A row as a DeadLetter; None when it was dropped before its payload was read."""
        data = row.data
        if data is None and with_data:
            data = self._client._requests.run(
                lambda: read_data(self._client._requests, self.station_name, row.id), 0, "list()"
            )
            if data is None:
                return None
        block, payload = (data or b"")[: row.header_bytes], (data or b"")[row.header_bytes :]
        return DeadLetter(
            id=row.id,
            station=row.station,
            type=row.type,
            partition=row.partition,
            sequence=row.sequence,
            producer=row.producer,
            groups=row.groups,
            reason=row.error,
            time=time_of(row.time_ns),
            size=row.size,
            data=payload,
            headers={name: value for name, value in read_headers(block).items() if not is_own(name)},
        )

    def _count(self, request: _Counted, ids: Optional[Ids], what: str) -> int:
        """Sends the request page by page, and adds up the counts."""
        total = 0
        for chunk in _chunks(ids):
            after = 0
            while True:
                page = replace(request, ids=chunk, after_id=after)
                reply = self._client._requests.call(what, page, about=self._about)
                total += reply.count
                if reply.too_large:
                    log.warning(
                        "dead letters %s of station %r were not sent: with the headers to add they are larger than the "
                        "broker accepts",
                        ", ".join(map(str, reply.too_large)),
                        self.station_name,
                    )
                after = reply.after_id
                if not after:
                    break
        return total


def _check_type(kind: object) -> str:
    if not isinstance(kind, str) or kind not in ("", *TYPES):
        raise ConfigurationError(f"type is {show(kind)}; it must be {' or '.join(TYPES)}, or empty for both")
    return kind


def _chunks(ids: Optional[Ids]) -> list[tuple[int, ...]]:
    """Ascending ids in chunks that fit a request; one empty chunk for all, none for no ids."""
    if ids is None:
        return [()]
    given = [ids] if isinstance(ids, DeadLetter) or as_int(ids) is not None else ids
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"ids is {show(ids)}; it must be ids or DeadLetter objects, or None for all")
    numbers = (item.id if isinstance(item, DeadLetter) else item for item in given)
    every = sorted({check_int("ids", number, 1, _MAX_ID) for number in numbers})
    return [tuple(every[at : at + _IDS_AT_ONCE]) for at in range(0, len(every), _IDS_AT_ONCE)]
