"""How a consumer joins its group, and what fetch_messages() does with the consumers that it keeps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from memphis_sync._control.requests import CREATE_S
from memphis_sync._protocol.control import ConsumerCreate
from memphis_sync.consumer import Consumer
from memphis_sync.message import Message, Messages

if TYPE_CHECKING:
    from memphis_sync.client import Memphis


def join(
    client: Memphis,
    request: ConsumerCreate,
    *,
    batch_max_time_to_wait_ms: int,
    pull_interval_ms: int = 1000,
    batch_size: int = 10,
    retries: int = 1,
    deadline: Optional[float] = None,
) -> Consumer:
    """Registers a consumer and makes it; *deadline*: for all of it, by ``time.monotonic()``. Raises as consumer()."""
    work = client._requests.create_consumer(request, retries)
    if deadline is None:
        view = client._call(work, CREATE_S, min(retries, 1), "consumer()")
    else:
        left_s = max(deadline - time.monotonic(), 0.0)
        view = client._session.loop.call(work, left_s, f"consumer {request.name!r} was not registered: its creation")
        client._session.data_link(deadline)
    consumer = Consumer(
        client,
        view,
        name=request.name,
        group=request.consumers_group,
        pull_interval_ms=pull_interval_ms,
        batch_size=batch_size,
        batch_max_time_to_wait_ms=batch_max_time_to_wait_ms,
        max_ack_time_ms=request.max_ack_time_ms,
        max_msg_deliveries=request.max_msg_deliveries,
    )
    consumer._reader.membership.join(deadline)
    return consumer


def each_once(messages: Iterable[Message]) -> Messages:
    """Without those that came once more, because their ack time ended before all had come."""
    seen: set[tuple[Optional[int], Optional[int]]] = set()
    found = Messages()
    for message in messages:
        place = message.partition, message.sequence
        if message.is_dead_letter or place not in seen:
            seen.add(place)
            found.append(message)
    return found
