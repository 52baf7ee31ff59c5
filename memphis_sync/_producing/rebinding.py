"""
Registers producers, and registers one that was made before a fork anew in the child.

The object that the program has stays what it is, and gets a new sender. Its first message in the child begins a
registration, which takes the messages until the producer is there: so a non-blocking one waits for no network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._core import fork_generation
from memphis_sync._options.arguments import with_suffix
from memphis_sync._options.checks import check_int
from memphis_sync._producing.registration import Ended, Registration
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S, Sender
from memphis_sync.errors import ClosedError
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from memphis_sync._producing.cache import ProducerArguments
    from memphis_sync.client import Memphis
    from memphis_sync.producer import Producer


def named(given: ProducerArguments) -> ProducerArguments:
    """The arguments with the whole name: a random suffix is added once."""
    if not given.generate_random_suffix:
        return given
    name = with_suffix("producer_name", "Producer", given.producer_name)
    return replace(given, producer_name=name, generate_random_suffix=False)


def register(client: Memphis, given: ProducerArguments) -> tuple[StationView, ...]:
    """
    Registers a producer on its stations.

    Args:
        client: The client.
        given: The arguments of producer(), checked, with the whole name.

    Raises:
        MemphisError: As producer().
    """
    stations, retries = list(given.station_name), given.timeout_retries
    client._session.data_link()
    make = client._requests.create_producers
    views = client._requests.run(lambda: make(stations, given.producer_name, retries), min(retries, 1), "producer()")
    return tuple(views)


class Rebinding:
    """The way of one producer into the children of its process. It does not refer to it, for the sake of collection."""

    def __init__(self) -> None:
        self._registrations: dict[int, Registration] = {}  # by generation; each step on it is atomic

    def under_way(self) -> Optional[Registration]:
        """The registration in this process, from its beginning to its end."""
        return self._registrations.get(fork_generation())

    def registration(self, producer: Producer[Any, Any]) -> Optional[Registration]:
        """
        What takes the producer's messages in this process, begun by the first call; None once the producer can.

        Raises:
            ClosedError: The producer was destroyed, or the client was closed.
        """
        sender, client = producer._sender, producer._client
        if not sender.is_inherited:
            return None
        if sender.is_closed:
            raise ClosedError(f"{sender!r} is destroyed; the message was not accepted")
        session, generation = client._session, fork_generation()
        session.check()
        present = self.under_way()
        if present is not None:
            return present
        given = producer._given

        def made() -> Producer[Any, Any]:
            return type(producer)(client, register(client, given), given)

        def ended(registration: Registration, found: Optional[Producer[Any, Any]]) -> None:
            if found is not None:
                producer._take_over(found)
            if self._registrations.get(generation) is registration:
                self._registrations.pop(generation, None)

        new = Registration(session, producer.stations, made, ended, given.block_on_full_s)
        registration = self._registrations.setdefault(generation, new)
        if registration is not new:
            return registration
        if not producer._sender.is_inherited:  # another thread's has ended meanwhile
            ended(new, None)
            return None
        try:
            new.start()
        except BaseException:
            ended(new, None)
            raise
        return new

    def produce(
        self,
        producer: Producer[Any, Any],
        message: Any,
        ack_wait_sec: float,
        nonblocking: bool,
        headers: Any,
        msg_id: Optional[str],
        limit: Optional[int],
        key: Optional[str],
        number: int,
        on_delivery: Any,
    ) -> Any:
        """As Sender.send(), for a producer that was made before a fork."""
        given = producer._given
        while True:
            registration = self.registration(producer)
            if registration is None:
                return producer._sender.way().send(
                    message,
                    ack_wait_sec,
                    nonblocking,
                    headers,
                    msg_id,
                    limit,
                    key,
                    number,
                    on_delivery,
                    producer._room_s,
                )
            if nonblocking and limit is not None:
                registration.wait_below(check_int("concurrent_task_limit", limit, 1))
            default = given.on_delivery if nonblocking else None
            try:
                return registration.produce(
                    message,
                    given.ack_timeout_s if ack_wait_sec is DEFAULT_ACK_WAIT_S else ack_wait_sec,
                    headers,
                    None,
                    nonblocking,
                    msg_id,
                    producer_partition_key=key,
                    producer_partition_number=number,
                    on_delivery=default if on_delivery is None else on_delivery,
                )
            except Ended:
                continue  # the producer is registered, or must be registered again

    def sender(self, producer: Producer[Any, Any]) -> Sender:
        """The producer's sender in this process; waits for its registration. Raises as producer()."""
        while True:
            registration = self.registration(producer)
            if registration is None:
                return producer._sender
            registration.join()
