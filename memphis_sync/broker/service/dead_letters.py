"""
The requests about dead letters: to list them, to send them again, to drop them.

All of it goes by pages of a bounded number of bytes and rows: a reply never exceeds ``max_payload``, and a request
never takes longer than clients wait, however much there is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Optional

from nats.aio.client import Client

from memphis_sync._protocol import subjects
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
    headers_size,
    read_headers,
    resent_headers,
)
from memphis_sync._protocol.names import durable_name, internal_name, lower_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.stations import READY
from memphis_sync.broker.service.users import Users
from memphis_sync.broker.storage.dead_letters import DeadLetterRecord, DeadLetterStore
from memphis_sync.broker.storage.tables import State, key_of

_LIST_BYTES = 1 << 20  # of a list's page, where max_payload has room for it
_LIST_ROWS = 1000
_RESEND_BYTES = 32 << 20
_RESEND_ROWS = 100
_DROP_ROWS = 500
_OVERHEAD = 512  # of a reply around its base64


class DeadLetters:
    """The handlers of requests about dead letters."""

    def __init__(self, connection: Client, state: State, users: Users, store: DeadLetterStore) -> None:
        self._connection = connection
        self._state = state
        self._users = users
        self._store = store

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def list_page(self, body: bytes) -> DeadLetterListReply:
        """Serves a page of a list; it may have fewer rows than were asked for, even none, and still not be the last."""
        request = DeadLetterList.decode(body)
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
                continue  # it has just gone
            found.append(_shown(row, data))
            left -= size
        return DeadLetterListReply(tuple(found), after_id)

    async def data_piece(self, body: bytes) -> DeadLetterDataReply:
        """Serves a piece of a payload."""
        request = DeadLetterData.decode(body)
        station = await self._station(request.station_name, request.username)
        rows = await self._store.rows(station, [request.id])
        data = await self._store.data(rows[0]) if rows else None
        if data is None:
            raise RequestError(f"station {station} has no dead letter {request.id}")
        start = min(max(0, request.offset), len(data))
        piece = (self._connection.max_payload - _OVERHEAD) // 4 * 3
        return DeadLetterDataReply(data[start : start + piece], len(data))

    async def resend(self, body: bytes) -> DeadLetterCountReply:
        """Serves a page of sending again."""
        request = DeadLetterResend.decode(body)
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

    async def drop(self, body: bytes) -> DeadLetterCountReply:
        """Serves a page of dropping."""
        request = DeadLetterDrop.decode(body)
        kind = _checked_type(request.type)
        station = await self._station(request.station_name, request.username)
        ids, after_id = await self._page(station, request.ids, request.after_id, _DROP_ROWS)
        rows = await self._store.rows(station, ids)
        dropped = await asyncio.gather(*(self._store.drop(row) for row in rows if kind in ("", row.type)))
        return DeadLetterCountReply(sum(dropped), after_id)

    # ---- parts of them ----------------------------------------------------------------------------------------------

    async def _station(self, name: str, username: str) -> str:
        station = lower_name("Station", name)
        self._users.require(username, f"User {username} does not exist")
        row = await self._state.stations.get(key_of(station))
        if row is None or row.value["status"] != READY:
            raise RequestError(f"station {station} does not exist")
        return station

    async def _page(self, station: str, wanted: Sequence[int], after_id: int, limit: int) -> tuple[list[int], int]:
        """The ids of a page, and what the next one begins after; 0 when there is none."""
        every = sorted(set(wanted)) if wanted else await self._store.ids(station)
        ids = [dead_letter_id for dead_letter_id in every if dead_letter_id > after_id]
        return ids[:limit], (ids[limit - 1] if len(ids) > limit else 0)

    async def _send(self, row: DeadLetterRecord, data: bytes) -> bool:
        """Sends a dead letter to its groups; False when their headers would make it larger than the server takes."""
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
        station = internal_name(row.station)
        for group, resent in messages.items():
            durable = durable_name(group)
            for subject in (subjects.dls(station, durable), subjects.dls_before_dots(station, durable)):
                await self._connection.publish(subject, payload, headers=resent)
        return True


def _checked_type(kind: str) -> str:
    if kind and kind.lower() not in TYPES:
        raise RequestError(f"dead letters are of type {' or '.join(TYPES)}, not {kind}")
    return kind.lower()


def _shown(row: DeadLetterRecord, data: Optional[bytes]) -> DeadLetterRow:
    return DeadLetterRow(
        id=row.id,
        station=row.station,
        type=row.type,
        partition=row.partition,
        sequence=row.sequence,
        producer=row.producer,
        groups=tuple(row.groups),
        error=row.error,
        time_ns=row.time_ns,
        size=row.size,
        header_bytes=row.header_bytes,
        data=data,
    )


def _size_of(row: DeadLetterRecord) -> int:
    """Bytes of a row in a reply, without its data."""
    return len(json.dumps(_shown(row, None).to_json(), ensure_ascii=False).encode("utf-8", "replace"))


def _in_base64(size: int) -> int:
    return (size + 2) // 3 * 4
