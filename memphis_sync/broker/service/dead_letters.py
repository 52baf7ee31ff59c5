"""
Requests about dead letters: to list and read them, to send them again, to drop them.

Each request serves one page of bounded size: a reply never exceeds ``max_payload``, and no request takes longer than
clients wait, however many dead letters there are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Optional

from memphis_sync._protocol.dead_letter_headers import headers_size, read_headers, resent_headers
from memphis_sync._protocol.dead_letters import (
    POISON,
    TYPES,
    DeadLetterCountReply,
    DeadLetterData,
    DeadLetterDataReply,
    DeadLetterDrop,
    DeadLetterList,
    DeadLetterListReply,
    DeadLetterResend,
    DeadLetterRow,
)
from memphis_sync._protocol.names import lower_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import Part, Shared
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.dead_letters import DeadLetterRecord

_LIST_BYTES = 1 << 20  # of a list's page, if max_payload allows it
_LIST_ROWS = 1000
_RESEND_BYTES = 32 << 20
_RESEND_ROWS = 100
_DROP_ROWS = 500
_OVERHEAD = 512  # of a reply around its base64


class DeadLetters(Part):
    """The handlers of requests about dead letters."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.routes: Routes = {
            DeadLetterList: self.list_page,
            DeadLetterData: self.data_piece,
            DeadLetterResend: self.resend,
            DeadLetterDrop: self.drop,
        }

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def list_page(self, request: DeadLetterList) -> DeadLetterListReply:
        """A page of a list; it may have fewer rows than were asked for, even none, and still not be the last."""
        kind = _checked_type(request.type)
        station = await self._station(request.station_name, request.username)
        limit = min(request.limit, _LIST_ROWS) if request.limit > 0 else _LIST_ROWS
        ids, after_id = await self._page(station, request.ids, request.after_id, limit)
        most = min(_LIST_BYTES, self._connection.max_payload // 2)
        found: list[DeadLetterRow] = []
        left = most
        for row in await self._store.rows(station, ids):
            if kind not in ("", row.type):
                continue
            is_inline = request.with_data and _in_base64(row.size) <= most
            size = _size_of(row) + (_in_base64(row.size) if is_inline else 0)
            if found and size > left:
                return DeadLetterListReply(tuple(found), found[-1].id)
            data = await self._store.data(row) if is_inline else None
            if is_inline and data is None:
                continue  # it was just removed
            found.append(_shown(row, data))
            left -= size
        return DeadLetterListReply(tuple(found), after_id)

    async def data_piece(self, request: DeadLetterData) -> DeadLetterDataReply:
        """A piece of a dead letter's header block and payload."""
        station = await self._station(request.station_name, request.username)
        rows = await self._store.rows(station, [request.id])
        data = await self._store.data(rows[0]) if rows else None
        if data is None:
            raise RequestError(f"station {station} has no dead letter {request.id}")
        start = min(max(0, request.offset), len(data))
        piece = (self._connection.max_payload - _OVERHEAD) // 4 * 3
        return DeadLetterDataReply(data[start : start + piece], len(data))

    async def resend(self, request: DeadLetterResend) -> DeadLetterCountReply:
        """Sends a page of dead letters to their groups again."""
        station = await self._station(request.station_name, request.username)
        ids, after_id = await self._page(station, request.ids, request.after_id, _RESEND_ROWS)
        too_large: list[int] = []
        count, left, last = 0, _RESEND_BYTES, 0
        for row in await self._store.rows(station, ids):
            if row.type != POISON or not row.groups:
                continue
            if left < row.size and last:
                after_id = last
                break
            data = await self._store.data(row)
            if data is not None:
                is_sent = await self._send(row, data)
                count += is_sent
                too_large += [] if is_sent else [row.id]
            left, last = left - row.size, row.id
        await self._connection.flush()
        return DeadLetterCountReply(count, after_id, tuple(too_large))

    async def drop(self, request: DeadLetterDrop) -> DeadLetterCountReply:
        """Drops a page of dead letters."""
        kind = _checked_type(request.type)
        station = await self._station(request.station_name, request.username)
        ids, after_id = await self._page(station, request.ids, request.after_id, _DROP_ROWS)
        rows = await self._store.rows(station, ids)
        dropped = await asyncio.gather(*(self._store.drop(row) for row in rows if kind in ("", row.type)))
        return DeadLetterCountReply(sum(dropped), after_id)

    # ---- parts of them ----------------------------------------------------------------------------------------------

    async def _station(self, name: str, username: str) -> str:
        station = lower_name("Station", name)
        self._require_user(username, f"User {username} does not exist")
        await self._required(station)
        return station

    async def _page(self, station: str, wanted: Sequence[int], after_id: int, limit: int) -> tuple[list[int], int]:
        """The ids of a page, and the id that the next one begins after; 0 when this is the last."""
        every = sorted(set(wanted)) if wanted else await self._store.ids(station)
        ids = [dead_letter_id for dead_letter_id in every if dead_letter_id > after_id]
        return ids[:limit], (ids[limit - 1] if len(ids) > limit else 0)

    async def _send(self, row: DeadLetterRecord, data: bytes) -> bool:
        """Sends a dead letter to its groups; False when added headers make it larger than the server accepts."""
        payload = data[row.header_bytes :]
        headers = read_headers(data[: row.header_bytes])
        messages = {
            group: resent_headers(
                headers, row.id, group, partition=row.partition, sequence=row.sequence, time_ns=row.time_ns
            )
            for group in row.groups
        }
        if any(headers_size(each) + len(payload) > self._connection.max_payload for each in messages.values()):
            return False
        for group, resent in messages.items():
            await self._send_again(row.station, group, payload, resent)
        return True


def _checked_type(kind: str) -> str:
    if kind and kind.lower() not in TYPES:
        raise RequestError(f"dead letters are of type {' or '.join(TYPES)}, not {kind}")
    return kind.lower()


def _shown(row: DeadLetterRecord, data: Optional[bytes]) -> DeadLetterRow:
    values: dict[str, Any] = {item.name: getattr(row, item.name, data) for item in fields(DeadLetterRow)}
    return DeadLetterRow(**{**values, "groups": tuple(row.groups)})


def _size_of(row: DeadLetterRecord) -> int:
    """Bytes of a row in a reply, without its data."""
    return len(json.dumps(_shown(row, None).to_json(), ensure_ascii=False).encode("utf-8", "replace"))


def _in_base64(size: int) -> int:
    return (size + 2) // 3 * 4
