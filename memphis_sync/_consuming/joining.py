"""How a consumer joins its group, and the consumers that fetch_messages() creates once and keeps."""

from __future__ import annotations

import operator
import time
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from memphis_sync._consuming.registering import register
from memphis_sync._options.arguments import ConsumerArguments, FetchArguments, check_name, consumer_request
from memphis_sync._options.checks import check_bool, check_seconds
from memphis_sync._session.single_flight import SingleFlight
from memphis_sync.consumer import READ_ALL_S, Consumer
from memphis_sync.errors import StationNotFoundError
from memphis_sync.message import Message
from memphis_sync.messages import Messages

if TYPE_CHECKING:
    from memphis_sync._consuming.consume_loop import Receiver
    from memphis_sync.client import Memphis

# Of the arguments of fetch_messages(), what a consumer is made with besides its names.
_MADE_OF = (
    *("consumer_group", "batch_max_time_to_wait_ms", "max_ack_time_ms", "max_msg_deliveries"),
    *("generate_random_suffix", "start_consume_from_sequence", "last_messages"),
)
_made_of = operator.attrgetter(*_MADE_OF)


class ConsumerCache(SingleFlight[Consumer]):
    """
    What a client keeps of its consumers.

    Attributes:
        receivers: Of consume() while it runs, also after the program has forgotten the consumer.
    """

    def __init__(self) -> None:
        super().__init__("the registration of a consumer")
        self.receivers: set[Receiver] = set()

    def discard_station(self, internal: str) -> None:
        """Forgets the consumers of exactly this station."""
        for consumer in self.values():
            if consumer._view.internal == internal:
                self.discard(consumer)

    def clear(self) -> None:
        """Forgets everything."""
        super().clear()
        self.receivers.clear()


def join(client: Memphis, given: ConsumerArguments, deadline: Optional[float] = None) -> Consumer:
    """
    Registers a consumer and makes it.

    Args:
        client: The client.
        given: The arguments of consumer(), checked.
        deadline: For all of it, by ``time.monotonic()``; None: as long as the requests may take.

    Raises:
        MemphisError: As consumer().
    """
    request = consumer_request(given)  # with the whole name
    given = replace(given, consumer_name=request.name, generate_random_suffix=False)
    consumer = Consumer(client, register(client, request, given, deadline), given)
    consumer._reader.membership.join(deadline)
    return consumer


def fetch(client: Memphis, given: FetchArguments) -> Messages:
    """Fetches with a consumer that is kept for these arguments. Raises as Memphis.fetch_messages()."""
    station = check_name("station_name", "Station", given.station_name)
    name = check_name("consumer_name", "Consumer", given.consumer_name)
    timeout_s = given.timeout_s
    deadline = None if timeout_s is None else time.monotonic() + check_seconds("timeout_s", timeout_s)
    made_of = _made_of(given)

    def make() -> Consumer:
        made = join(client, ConsumerArguments(station, name, **dict(zip(_MADE_OF, made_of))).checked(), deadline)
        made._client = weakref.proxy(
            client
        )  # which has it: a client that is forgotten is gone at once, without a cycle
        return made

    consumer = client._consumers.get((station, name, *made_of), make)
    try:
        if check_bool("until_end", given.until_end):
            limit_s = READ_ALL_S if timeout_s is None else timeout_s
            found = consumer.read_all(given.consumer_partition_key, given.consumer_partition_number, timeout_s=limit_s)
            return each_once(found)
        if deadline is not None:
            timeout_s = max(deadline - time.monotonic(), 0.0)
        return consumer.fetch(
            given.batch_size,
            given.consumer_partition_key,
            given.consumer_partition_number,
            given.prefetch,
            timeout_s=timeout_s,
        )
    except StationNotFoundError:
        client._consumers.discard(consumer)
        raise


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
