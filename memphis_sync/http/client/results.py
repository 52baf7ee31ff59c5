"""What producing over HTTP returns: no more than a gateway knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from memphis_sync._base.in_notebook import InNotebook
from memphis_sync.bulk import BulkResult


@dataclass(frozen=True)
class GatewayAnswer(InNotebook):
    """
    What a gateway has answered to a produced message.

    Attributes:
        station: Name of the station, lower case.
        is_stored: True: the broker has stored the message. False: the gateway has accepted it and passes it on without
            waiting for the broker, so it may still be lost; Memphis' own gateway does that always.
        message_id: The id under which the broker stores it once; None at Memphis' own gateway.
        sequence: Sequence number in its partition, from 1; None when the gateway does not say.
        duplicate: Whether the broker already had a message with this id.
        stream: Name of the partition's JetStream stream; None when the gateway does not say.
        partition: Number of the partition; None when the gateway does not say.
    """

    station: str
    is_stored: bool
    message_id: Optional[str] = None
    sequence: Optional[int] = None
    duplicate: bool = False
    stream: Optional[str] = None
    partition: Optional[int] = None


@dataclass(frozen=True)
class HttpBulkResult(BulkResult):
    """
    The outcome of produce_many() over HTTP: a BulkResult, whose ``delivered`` are stored, and what is only accepted.

    Attributes:
        accepted: How many a gateway has accepted that does not wait for the broker (Memphis' own): they may still be
            lost, and are not among ``delivered``.
    """

    accepted: int = 0
