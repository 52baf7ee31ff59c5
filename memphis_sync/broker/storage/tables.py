"""
The control plane's tables in JetStream key-value buckets: there is no other database, and no state in this process.

Rules:
* A row is JSON under one key. A change of a row that others may change, too, names the revision it was made from, so
  several copies of the service can work on one cluster: whoever loses reads again.
* Reads go to the bucket's leader (no direct get): a copy sees what another has just written.
* Keys are external names with ``/`` for each dot (a dot would start a new token), and one token for a connection id.
* A deleted row leaves nothing behind: its marker is purged, unless somebody wrote the key again meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import (
    APIError,
    BadRequestError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from memphis_sync.broker.storage.jetstream_api import in_steps, is_no_room

WRONG_LAST_SEQUENCE = (10071, 10164)  # JetStream's codes for a revision that is no longer the last
_ROWS_AT_ONCE = 64
_PLAIN_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")  # any UUID


class ConflictError(Exception):
    """Somebody else changed the row first."""


@dataclass(frozen=True)
class Row:
    """One row and the revision it was read at."""

    value: dict[str, Any]
    revision: int


def key_of(name: str) -> str:
    """The key token of an external name."""
    return name.replace(".", "/")


def name_of(key: str) -> str:
    """The external name in a key token: undoes key_of()."""
    return key.replace("/", ".")


def connection_key(connection_id: str) -> str:
    """The key token of a connection id, which clients choose freely."""
    if _PLAIN_ID.match(connection_id):
        return connection_id
    return "=" + hashlib.sha256(connection_id.encode("utf-8", "surrogatepass")).hexdigest()


class Table:
    """One bucket."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue, name: str) -> None:
        self._js = js
        self._bucket = bucket
        self._name = name

    async def get(self, key: str) -> Optional[Row]:
        """The row under a key; None when there is none."""
        try:
            entry = await self._bucket.get(key)
        except KeyNotFoundError:
            return None
        return Row(json.loads(entry.value or b"{}"), entry.revision or 0)

    async def create(self, key: str, value: dict[str, Any]) -> Row:
        """
        Writes a row that must not exist.

        Raises:
            ConflictError: It exists.
        """
        while True:
            try:
                return Row(value, await self._bucket.create(key, _dump(value)))
            except KeyWrongLastSequenceError as exc:
                raise ConflictError(key) from exc
            except KeyNotFoundError:  # it was there, and was deleted while nats-py looked at it
                continue

    async def update(self, key: str, value: dict[str, Any], revision: int) -> Row:
        """
        Replaces a row that was read at *revision*.

        Raises:
            ConflictError: It was changed meanwhile.
        """
        try:
            return Row(value, await self._bucket.update(key, _dump(value), last=revision))
        except KeyWrongLastSequenceError as exc:
            raise ConflictError(key) from exc

    async def put(self, key: str, value: dict[str, Any]) -> None:
        """Writes a row, whatever was there."""
        await self._bucket.put(key, _dump(value))

    async def put_if_room(self, key: str, value: dict[str, Any]) -> bool:
        """The same; returns False when the store is full."""
        try:
            await self.put(key, value)
        except APIError as exc:
            if not is_no_room(exc):
                raise
            return False
        return True

    async def rows(self, pattern: str) -> dict[str, Row]:
        """The rows whose keys match, by key."""
        keys = await self.keys(pattern)
        rows = await in_steps(self.get, keys, _ROWS_AT_ONCE)
        return {key: row for key, row in zip(keys, rows) if row is not None}

    async def delete(self, key: str, revision: int) -> None:
        """
        Deletes a row that was read at *revision*.

        Raises:
            ConflictError: It was changed meanwhile.
        """
        subject = f"$KV.{self._name}.{key}"
        headers = {"KV-Operation": "DEL", "Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            marker = await self._js.publish(subject, headers=headers)
        except APIError as exc:
            if exc.err_code in WRONG_LAST_SEQUENCE:
                raise ConflictError(key) from exc
            raise
        await self._js.purge_stream(f"KV_{self._name}", subject=subject, seq=marker.seq + 1)

    async def purge(self, pattern: str) -> None:
        """Removes all rows whose keys match, ``*`` and ``>`` standing for tokens; no marker stays."""
        await self._js.purge_stream(f"KV_{self._name}", subject=f"$KV.{self._name}.{pattern}")

    async def keys(self, pattern: str) -> list[str]:
        """The keys that match, ``*`` and ``>`` standing for tokens, in alphabetical order."""
        return (await self.keys_and_last(pattern))[0]

    async def keys_and_last(self, pattern: str = ">") -> tuple[list[str], int]:
        """The same, and the revision of what was written last."""
        prefix = f"$KV.{self._name}."
        info = await self._js.stream_info(f"KV_{self._name}", subjects_filter=prefix + pattern)
        keys = sorted(subject[len(prefix) :] for subject in info.state.subjects or {})
        return keys, info.state.last_seq

    async def at(self, revision: int) -> Optional[tuple[str, Optional[Row]]]:
        """The key and row that have this revision, the row None where it was deleted; None when both are gone."""
        try:
            entry = await self._js.get_msg(f"KV_{self._name}", seq=revision)
        except NotFoundError:
            return None
        is_deleted = "KV-Operation" in (entry.headers or {})
        key = str(entry.subject)[len(f"$KV.{self._name}.") :]
        return key, None if is_deleted else Row(json.loads(entry.data or b"{}"), revision)


class State(NamedTuple):
    """
    The buckets.

    Attributes:
        stations: Settings and status, by ``<station>``.
        members: Consumers, by ``<station>.<group>.<connection>.<consumer>.<unique>``.
        closing: Marks of groups whose durables are being deleted, by ``<station>.<group>``.
        producers: By ``<station>.<connection>.<producer>``.
        schemas: Type, versions and which of them is active, by ``<schema>``.
        schema_versions: Source and descriptor, by ``<schema>.<unique>``; never changed once written.
    """

    stations: Table
    members: Table
    closing: Table
    producers: Table
    schemas: Table
    schema_versions: Table

    @classmethod
    async def open(cls, js: JetStreamContext, replicas: int) -> State:
        """Opens the buckets, and creates those that are missing."""
        return cls(*await asyncio.gather(*(_open(js, f"memphis_{name}", replicas) for name in cls._fields)))


async def _open(js: JetStreamContext, name: str, replicas: int) -> Table:
    try:
        return Table(js, await js.key_value(name), name)
    except BucketNotFoundError:
        config = KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE, replicas=replicas)
    try:
        return Table(js, await js.create_key_value(config), name)
    except BadRequestError:  # another copy of the service has just created it
        return Table(js, await js.key_value(name), name)


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
