"""
The parameters of producer(), and the producers that Memphis.produce() creates once and keeps.

Without a lock: a signal handler or a destructor may interrupt the same call, so each step is atomic.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Optional, Union

from memphis_sync._options.arguments import check_name, check_retries, check_station_names, name_of
from memphis_sync._options.checks import check_bool, check_optional_callable, check_seconds
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._producing.registration import Ended, Registration
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S, OnDelivery
from memphis_sync.producer import Producer

if TYPE_CHECKING:
    from memphis_sync.client import Memphis

AnyProducer = Producer[Any, Any]  # of one station, or of several
# Stations, name, and the options generate_random_suffix, idempotent and block_on_full_s.
ProducerKey = tuple[tuple[str, ...], str, bool, bool, Optional[float]]


def _check_block(option: str, value: object) -> Optional[float]:
    return None if value is None else check_seconds(option, value)


@arguments
class ProducerArguments(Arguments):
    """
    The parameters of Memphis.producer().

    Args:
        station_name: One station, or several: each message then goes to all of them.
        producer_name: Up to 128 letters, digits, ``_ - .``; converted to lower case.
        generate_random_suffix: Adds ``_`` and 8 hexadecimal digits to the name.
        timeout_retries: As for station(), but at most 1: each repetition may register the producer again.
        idempotent: Give each message an id, so that it is stored once even if the connection breaks meanwhile. False is
            a fifth faster, and means at least once.
        block_on_full_s: How long a non-blocking produce waits when the queue is full, in seconds, from 0, before it
            raises BufferFullError; None: it raises at once.
        ack_timeout_s: How long the broker may take to confirm, in seconds, above 0; the default of produce().
        on_delivery: The default of produce() for non-blocking messages; also called for those of produce_many().
    """

    station_name: Union[str, list[str]] = option(check_station_names)
    producer_name: str = option(name_of("Producer"))
    generate_random_suffix: bool = option(check_bool, default=False)
    timeout_retries: int = option(check_retries, default=5)
    _: KW_ONLY
    idempotent: bool = option(check_bool, default=True)
    block_on_full_s: Optional[float] = option(_check_block, default=None)
    ack_timeout_s: float = option(
        lambda option, value: check_seconds(option, value, allow_zero=False), default=DEFAULT_ACK_WAIT_S
    )
    on_delivery: Optional[OnDelivery] = option(check_optional_callable, default=None)


if TYPE_CHECKING:

    @arguments
    class ToOneStation(ProducerArguments):
        """One station: produce() returns a single confirmation."""

        station_name: str

    @arguments
    class ToStations(ProducerArguments):
        """A list, which may contain a single station."""

        station_name: list[str]

else:
    ToOneStation = ToStations = ProducerArguments


@functools.lru_cache(maxsize=1024)
def names_of(station_name: Union[str, list[str]], producer_name: str) -> tuple[tuple[str, ...], str]:
    """The names in a key. Each message asks for them, so the checks of a text are made once."""
    stations = tuple(check_station_names("station_name", station_name))
    return stations, check_name("producer_name", "Producer", producer_name)


class ProducerCache(dict[ProducerKey, Union[AnyProducer, Registration]]):
    """Producers, and the registrations of those to come, by what produce() was told."""

    def register(self, client: Memphis, key: ProducerKey) -> Union[AnyProducer, Registration]:
        """
        What takes the messages of *key* from now on: a registration, begun by the first call that needs it.

        Raises:
            ConfigurationError: An option in the key is out of its bounds.
            ClosedError: The client was closed.
        """
        stations, name, generate_random_suffix, idempotent, block_on_full_s = key
        check_bool("idempotent", idempotent)
        check_bool("generate_random_suffix", generate_random_suffix)
        _check_block("block_on_full_s", block_on_full_s)
        client._session.check()

        def register() -> AnyProducer:
            return client.producer(
                list(stations), name, generate_random_suffix, idempotent=idempotent, block_on_full_s=block_on_full_s
            )

        def ended(registration: Registration, producer: Optional[AnyProducer]) -> None:
            if self.get(key) is registration:
                if producer is None:
                    self.pop(key, None)
                else:
                    producer._client = weakref.proxy(client)  # without a cycle a forgotten client is gone at once
                    self[key] = producer

        made = Registration(client._session, stations, register, ended, block_on_full_s)
        registered = self.setdefault(key, made)
        if registered is made:
            made.start()
        return registered

    def discard(self, unwanted: Union[AnyProducer, Registration, None]) -> None:
        """Forgets one, whatever its key; the next message registers anew."""
        for key, kept in list(self.items()):
            if kept is unwanted:
                self.pop(key, None)

    def discard_station(self, internal: str) -> None:
        """Forgets the producers of exactly this station."""
        for producer in list(self.values()):
            if isinstance(producer, Producer) and any(view.internal == internal for view in producer._views):
                self.discard(producer)


__all__ = ["Ended", "ProducerCache"]
