"""
What the client knows about its stations, updated by the broker's announcements.

Lives on the loop; the values that it changes (StationLive, the functions dict) are read by any thread without a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional, Union

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import start_thread
from memphis_sync._control import ControlLink, Subscription
from memphis_sync._protocol import subjects
from memphis_sync._protocol.json_text import PLAIN, JsonWriter
from memphis_sync._protocol.requests import ConsumerReply, ProducerReply, SchemaUpdate
from memphis_sync._schema.live import StationCodec
from memphis_sync.errors import MemphisError
from memphis_sync.types import SchemaInfo, StationLive

log = Log("memphis_sync.control")

_SCHEMA_INIT, _SCHEMA_DROP = 1, 2


class Heard(NamedTuple):
    """How many updates of each kind have come by push: a reply that was asked for before is older than any of them."""

    schema: int = 0
    functions: int = 0
    dead_letters: int = 0
    notifications: int = 0


class StationEntry:
    """One station's changing parts, and who wants to hear of them."""

    def __init__(self) -> None:
        self.live = StationLive()
        self.functions: dict[int, int] = {}
        self.references = 0
        self.schema_updates = 0
        self.functions_updates = 0
        self.dead_letter_updates = 0
        self.subscribed: Optional[asyncio.Future[Any]] = None
        self.subscriptions: list[Subscription] = []


class StationRegistry:
    """
    The stations that this client's producers and consumers use.

    Args:
        control: Where updates come from.
        on_removed: Called with a station's internal name when the broker announces its removal.
        json_writer: Writes dicts and lists as JSON, for schemas.
    """

    def __init__(
        self, control: ControlLink, on_removed: Callable[[str], None], json_writer: JsonWriter = PLAIN
    ) -> None:
        self._control = control
        self._on_removed = on_removed
        self._json_writer = json_writer
        self._entries: dict[str, StationEntry] = {}
        self._notification_updates = 0
        self.send_notification = False

    async def start(self) -> None:
        """Subscribes to the updates that concern no single station."""
        await self._control.subscribe(subjects.CLIENT_UPDATES, self._on_client_update)

    def codec_of(self, internal: str) -> Optional[StationCodec]:
        """The schema of a station in use; None without one, and for a station that nothing uses. From any thread."""
        entry = self._entries.get(internal)
        return None if entry is None else entry.live.codec

    async def acquire(self, internal: str) -> StationEntry:
        """The entry of a station, with one reference more; its updates are heard before this returns."""
        entry = self._entries.get(internal)
        if entry is None:
            entry = self._entries[internal] = StationEntry()
            entry.subscribed = asyncio.gather(
                self._subscribe(
                    entry, subjects.schema_updates(internal), lambda body: self._on_schema(internal, entry, body)
                ),
                self._subscribe(
                    entry, subjects.functions_updates(internal), lambda body: self._on_functions(entry, body)
                ),
            )
        entry.references += 1
        if entry.subscribed is not None:
            await asyncio.shield(entry.subscribed)
        return entry

    async def release(self, internal: str) -> None:
        """Gives a reference back; the last one ends the station's subscriptions."""
        entry = self._entries.get(internal)
        if entry is None:
            return
        entry.references -= 1
        if entry.references > 0:
            return
        del self._entries[internal]
        for subscription in entry.subscriptions:
            try:
                await subscription.unsubscribe()
            except Exception as exc:  # noqa: BLE001  the connection may be gone, and with it the subscription
                log.debug("unsubscribing from %s: %r", subscription.subject, exc)

    def heard(self, entry: StationEntry) -> Heard:
        """What has been heard so far; ask before a request, for learn()."""
        return Heard(
            entry.schema_updates, entry.functions_updates, entry.dead_letter_updates, self._notification_updates
        )

    def learn(
        self, internal: str, entry: StationEntry, before: Heard, reply: Union[ProducerReply, ConsumerReply]
    ) -> None:
        """Takes over what a creation reply says; *before* is heard() from before the request."""
        now = self.heard(entry)
        if now.schema == before.schema:
            self._set_schema(internal, entry, schema_info(reply.schema_update))
        if not isinstance(reply, ProducerReply):
            return
        if now.functions == before.functions:
            replace_functions(entry.functions, reply.functions)
        # A Memphis broker announces the setting from before the change, so there its reply is the better word.
        if now.dead_letters == before.dead_letters or self._control.is_memphis:
            entry.live.schemaverse_to_dls = reply.schemaverse_to_dls
        if now.notifications == before.notifications:
            self.send_notification = reply.send_notification

    async def _subscribe(self, entry: StationEntry, subject: str, handler: Callable[[bytes], None]) -> None:
        try:
            entry.subscriptions.append(await self._control.subscribe(subject, handler))
        except MemphisError as exc:
            # Producing works without it; only a later change goes unnoticed.
            log.warning("no updates of %s: %s", subject, exc)

    def _on_schema(self, internal: str, entry: StationEntry, body: bytes) -> None:
        update = _json_object(body)
        kind = update.get("UpdateType")
        if kind not in (_SCHEMA_INIT, _SCHEMA_DROP):
            raise ValueError(f"UpdateType is {kind!r}; it must be {_SCHEMA_INIT} or {_SCHEMA_DROP}")
        schema = schema_info(SchemaUpdate.from_json(update.get("init") or {})) if kind == _SCHEMA_INIT else None
        entry.schema_updates += 1
        self._set_schema(internal, entry, schema)

    def _set_schema(self, internal: str, entry: StationEntry, schema: Optional[SchemaInfo]) -> None:
        """Puts a schema in place at once; it is compiled on a thread of its own, for that may take a while."""
        present = entry.live.codec
        if schema is None:
            entry.live.codec = None
        elif present is None or present.info != schema or present.has_failed:  # else it is compiled already
            codec = StationCodec(schema, internal, self._json_writer)
            entry.live.codec = codec
            # Not once the interpreter starts no more threads: then the first message compiles it.
            with contextlib.suppress(RuntimeError):
                start_thread("memphis-schema", codec.prepare)

    @staticmethod
    def _on_functions(entry: StationEntry, body: bytes) -> None:
        functions = _json_object(body).get("functions") or {}
        new = {int(partition): int(number) for partition, number in functions.items()}
        entry.functions_updates += 1
        replace_functions(entry.functions, new)

    def _on_client_update(self, body: bytes) -> None:
        update = _json_object(body)
        kind, internal, value = update.get("type"), str(update.get("station_name") or ""), update.get("update")
        if kind == "send_notification":
            self._notification_updates += 1
            self.send_notification = value is True
        elif kind == "schemaverse_to_dls":
            # Nothing depends on it until a message fails its schema; where a broker announces the wrong value, each new
            # producer learns the truth from its creation reply.
            entry = self._entries.get(internal)
            if entry is not None:
                entry.dead_letter_updates += 1
                entry.live.schemaverse_to_dls = value is True
        elif kind == "remove_station":
            self._on_removed(internal)
        else:
            raise ValueError(f"unknown type of update: {kind!r}")


def schema_info(update: SchemaUpdate) -> Optional[SchemaInfo]:
    """The schema of an update; None for "no schema"."""
    if not update.name:
        return None
    return SchemaInfo(
        name=update.name,
        type=update.type,
        version=update.version,
        content=update.content,
        descriptor=update.descriptor,
        message_struct_name=update.message_struct_name,
    )


def replace_functions(functions: dict[int, int], new: Mapping[int, int]) -> None:
    """
    Makes *functions* equal to *new* in place.

    New entries first, then the stale ones go: a producer that looks up its partition meanwhile finds the old or the new
    value, and never misses a partition that is in both.
    """
    functions.update(new)
    for partition in [partition for partition in functions if partition not in new]:
        functions.pop(partition, None)


def _json_object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise TypeError(f"an update must be a JSON object, not {type(value).__name__}")
    return value
