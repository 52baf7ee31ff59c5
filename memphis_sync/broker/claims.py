"""
Claims: a mark in a row that one copy of the service is at work on something that takes several steps.

A claim names its owner's connection. Others wait while that connection is open, and take the work over when it isn't:
the owner was killed. An owner that was only cut off for a moment notices by the row's revision that it lost its claim.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client

from memphis_sync.broker.activity import open_connection_ids

_UNKNOWN_S = 10.0  # a claim this old is dead where the server doesn't tell who is connected
_STUCK_S = 60.0  # and this old, whoever is connected: no step takes that long
_FRESH_S = 0.1  # nobody is asked about a younger claim: it is most likely being worked on


class Claims:
    """
    The claims of one copy of the service.

    Args:
        connection: Its connection.
        owner: The id in that connection's name.
    """

    def __init__(self, connection: Client, owner: str) -> None:
        self._connection = connection
        self._owner = owner

    def fields(self) -> dict[str, Any]:
        """What a row holds while it is claimed."""
        return {"owner": self._owner, "since": time.time()}

    async def is_dead(self, row: Mapping[str, Any]) -> bool:
        """Whether nobody works on a claimed row any more; call it under this copy's own lock of the row."""
        if row["owner"] == self._owner:
            return True  # under the lock nobody else of this copy can: an earlier attempt failed half-way
        age: float = time.time() - row["since"]
        if age < _FRESH_S:
            return False
        connected = await open_connection_ids(self._connection)
        if connected is None:
            return age > _UNKNOWN_S
        return row["owner"] not in connected or age > _STUCK_S
