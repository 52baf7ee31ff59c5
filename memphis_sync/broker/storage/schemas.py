"""
Schemas as the broker stores them.

A schema's row lists its versions, and says which is active. The content of each version is in a row of its own, which
is written first and never changed. So nobody sees a schema half-written: a copy of the service that is killed in
between leaves only a content row that nothing refers to.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, Optional

from memphis_sync._protocol.names import lower_name
from memphis_sync._protocol.requests import SchemaUpdate
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.storage.tables import ConflictError, Row, State, key_of


async def attachment(state: State, name: str) -> dict[str, Any]:
    """
    What a station's row says about its schema.

    Raises:
        RequestError: There is no such schema.
        NameRuleError: *name* is not a valid name.
    """
    name = lower_name("Schema", name)
    row = await state.schemas.get(key_of(name))
    if row is None:
        raise RequestError(f"Schema {name} does not exist")
    return {"name": name, "version": row.value["active"]}


async def active_version(state: State, station: Row) -> SchemaUpdate:
    """The active version of a station's schema, as clients get it; an empty update when the station has none."""
    attached = station.value.get("schema")
    if not attached:
        return SchemaUpdate()
    row = await state.schemas.get(key_of(attached["name"]))
    return SchemaUpdate() if row is None else await version_of(state, attached["name"], row, row.value["active"])


async def version_of(state: State, name: str, row: Row, number: int) -> SchemaUpdate:
    """One version of a schema, as clients get it."""
    content = await state.schema_versions.get(f"{key_of(name)}.{row.value['versions'][number - 1]}")
    if content is None:
        raise RequestError(f"version {number} of schema {name} is damaged: its content is missing")
    return SchemaUpdate(name=name, type=row.value["type"], version=number, **content.value)


async def add_version(state: State, name: str, row: Optional[Row], kind: str, content: dict[str, Any]) -> Row:
    """
    Adds the next version of a schema, or its first.

    Args:
        state, name, kind: The buckets, the schema and its type.
        row: Its row as it was read; None when there was none.
        content: Source, descriptor and message name.

    Raises:
        ConflictError: Somebody else changed the schema meanwhile; nothing was added.
    """
    unique = secrets.token_hex(8)
    key = f"{key_of(name)}.{unique}"
    await state.schema_versions.put(key, content)
    try:
        if row is None:
            return await state.schemas.create(key_of(name), {"type": kind, "active": 1, "versions": [unique]})
        value = {**row.value, "versions": [*row.value["versions"], unique]}
        return await state.schemas.update(key_of(name), value, row.revision)
    except ConflictError:
        await state.schema_versions.purge(key)
        raise


async def activate_version(state: State, name: str, number: int) -> int:
    """
    Makes a version the active one; 0 stands for the newest. Returns its number.

    Raises:
        RequestError: There is no such schema or version.
    """
    while True:
        row = await state.schemas.get(key_of(name))
        if row is None:
            raise RequestError(f"Schema {name} does not exist")
        count = len(row.value["versions"])
        if not 0 <= number <= count:
            raise RequestError(f"Schema {name} has no version {number}; it has 1 to {count}")
        wanted = number or count
        with contextlib.suppress(ConflictError):
            await state.schemas.update(key_of(name), {**row.value, "active": wanted}, row.revision)
            return wanted
