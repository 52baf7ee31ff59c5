"""What the parts of one copy of the service share: connection, stores, and checks of users and stations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from nats.aio.client import Client

from memphis_sync._protocol import subjects
from memphis_sync._protocol.names import durable_name, internal_name
from memphis_sync._protocol.streams import StationSettings
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.storage.dead_letters import DeadLetterStore
from memphis_sync.broker.storage.given_back import GivenBackStore
from memphis_sync.broker.storage.jetstream_api import JetStreamApi
from memphis_sync.broker.storage.leases import Leases
from memphis_sync.broker.storage.locks import NamedLocks
from memphis_sync.broker.storage.tables import Row, State, key_of

CREATING, READY, DELETING = "creating", "ready", "deleting"  # the status in a station's row


def settings_of(row: Row) -> StationSettings:
    """The settings in a station's row."""
    return StationSettings(**row.value["settings"])


@dataclass(frozen=True)
class Shared:
    """
    What all parts share.

    Attributes:
        connection: The service's connection.
        api: JetStream's API on it, for requests.
        state: The tables of stations, members and so on.
        users: The users that requests may name; None for any: then whoever may connect is trusted.
        store: The dead letters.
        given_back: What groups gave back, and are owed.
        replicas: Copies of what the broker stores, in a cluster.
    """

    connection: Client
    api: JetStreamApi
    state: State
    users: Optional[frozenset[str]]
    leases: Leases
    store: DeadLetterStore
    given_back: GivenBackStore
    replicas: int


class Part:
    """
    A part of the service; those that serve requests have ``routes``.

    Args:
        shared: What all parts share.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._connection, self._js = shared.connection, shared.connection.jetstream()
        self._api, self._state, self._leases = shared.api, shared.state, shared.leases
        self._store, self._given_back = shared.store, shared.given_back
        self._locks = NamedLocks()  # of its own

    def _require_user(self, name: str, otherwise: str) -> None:
        """
        Checks that a user exists.

        Raises:
            RequestError: It does not; *otherwise* is the text.
        """
        if not name or (self._shared.users is not None and name not in self._shared.users):
            raise RequestError(otherwise)

    async def _ready(self, station: str) -> Optional[StationSettings]:
        """The settings of a station; None when it does not exist, or is being created or deleted."""
        row = await self._state.stations.get(key_of(station))
        return None if row is None or row.value["status"] != READY else settings_of(row)

    async def _send_again(self, station: str, group: str, payload: bytes, headers: dict[str, str]) -> None:
        """Sends a message to a group again, in both forms of the subject."""
        names = internal_name(station), durable_name(group)
        for subject in (subjects.dls(*names), subjects.dls_before_dots(*names)):
            await self._connection.publish(subject, payload, headers=headers)

    async def _required(self, station: str) -> StationSettings:
        """
        The settings of a station that a request is about.

        Raises:
            RequestError: It does not exist, or not yet, or not any more.
        """
        settings = await self._ready(station)
        if settings is None:
            raise RequestError(f"station {station} does not exist")
        return settings


class BackgroundPart(Part):
    """A part that must not delay requests: its JetStream requests have slots of their own."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._api = JetStreamApi(shared.connection)
