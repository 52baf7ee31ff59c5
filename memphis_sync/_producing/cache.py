"""
The producers that Memphis.produce() makes once and keeps.

No lock: a signal handler or a destructor may come in the middle of the same call, so each step is atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

from memphis_sync._options import checks as opt
from memphis_sync._producing.registration import Ended, Registration
from memphis_sync.producer import Producer

if TYPE_CHECKING:
    from memphis_sync.client import Memphis

AnyProducer = Producer[Any, Any]  # of one station, or of several
# Stations, name, and the options generate_random_suffix, idempotent and block_on_full_s.
ProducerKey = tuple[tuple[str, ...], str, bool, bool, Optional[float]]


class ProducerCache(dict[ProducerKey, Union[AnyProducer, Registration]]):
    """Producers, and the registrations of those to come, by what produce() was told."""

    def register(self, client: Memphis, key: ProducerKey) -> Union[AnyProducer, Registration]:
        """
        What takes the messages of *key* from now on: a registration, begun by the first call that needs it.

        Raises:
            ConfigurationError: An option in the key is out of its bounds.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        stations, name, generate_random_suffix, idempotent, block_on_full_s = key
        opt.check_bool("idempotent", idempotent)
        opt.check_bool("generate_random_suffix", generate_random_suffix)
        if block_on_full_s is not None:
            opt.check_seconds("block_on_full_s", block_on_full_s)
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
