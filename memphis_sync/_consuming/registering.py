"""Registers consumers with the broker, those that were made before a fork anew in the child, and lets them leave."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Optional

from memphis_sync._consuming.give_back import GIVE_BACK_S
from memphis_sync._control.api import DESTROY_S, JS_S
from memphis_sync._options.arguments import ConsumerArguments, consumer_request
from memphis_sync._protocol.requests import ConsumerCreate
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from memphis_sync.client import Memphis
    from memphis_sync.consumer import Consumer


def register(
    client: Memphis, request: ConsumerCreate, given: ConsumerArguments, deadline: Optional[float]
) -> StationView:
    """
    Registers a consumer.

    Args:
        client: The client.
        request: What the broker gets.
        given: The arguments of consumer(), checked.
        deadline: For all of it, by ``time.monotonic()``; None: as long as the requests may take.

    Raises:
        MemphisError: As consumer().
    """
    requests, retries = client._requests, given.timeout_retries
    if not given.create_station:
        requests.run(lambda: requests.require_station(request.station_name), 0, "consumer()", JS_S)
    work = functools.partial(requests.create_consumer, request, retries)
    if deadline is None:
        return requests.run(work, min(retries, 1), "consumer()")
    session = client._session
    session.connect(deadline)
    left_s = max(deadline - time.monotonic(), 0.0)
    view = session.loop.call(work, left_s, f"consumer {request.name!r} was not registered: its creation")
    session.data_link(deadline)
    return view


def join_again(consumer: Consumer) -> bool:
    """
    In a forked child: registers a consumer that was made before the fork anew, with the same name and options.
    Returns True.

    Raises:
        MemphisError: As consumer().
    """
    client, given = consumer._client, consumer._given
    consumer._bind(register(client, consumer_request(given), given, None))
    consumer._reader.membership.join(None)
    return True


def leave(consumer: Consumer, timeout_retries: int) -> None:
    """Consumer.destroy()."""
    if consumer.is_destroyed:
        return
    if consumer._source.is_inherited:
        consumer._source.is_destroyed = True  # this process has registered none
        return
    consumer.check_open()
    consumer.stop_consume()
    consumer._reader.return_untouched(time.monotonic() + GIVE_BACK_S, is_waiting=True, is_last=True)
    client = consumer._client
    work = functools.partial(client._requests.destroy_consumer, consumer._view, consumer.consumer_name, timeout_retries)
    client._requests.run(work, timeout_retries, "destroy()", DESTROY_S)
    client._consumers.discard(consumer)
    consumer._mark_destroyed()
