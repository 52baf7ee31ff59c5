"""What the produce tests share: a client through a proxy, and what a station holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

import pytest

import memphis_sync

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

Through = Callable[..., tuple["Memphis", "Proxy"]]
Holds = Callable[[str], list[tuple[int, bytes]]]


@pytest.fixture
def through_proxy(broker: BrokerProcess, proxy_to: Callable[[str, int], Proxy]) -> Iterator[Through]:
    """``through_proxy(**options)``: a client whose two links run through a proxy, and that proxy."""
    clients: list[Memphis] = []

    def make(**options: object) -> tuple[Memphis, Proxy]:
        proxy = proxy_to(broker.host, broker.port)
        options = {"reconnect_interval_ms": 20, **options}
        client = memphis_sync.connect(proxy.host, broker.username, password=broker.password, port=proxy.port, **options)
        clients.append(client)
        return client, proxy

    yield make
    for client in clients:
        client.close(timeout_s=1.0)


@pytest.fixture
def holds(broker: BrokerProcess) -> Iterator[Holds]:
    """``holds(station)``: everything the station stores, as (partition, payload) in each partition's order."""
    groups = iter(range(1000))
    with memphis_sync.connect(broker.url, name="reader") as client:

        def read(station: str) -> list[tuple[int, bytes]]:
            found: list[tuple[int, bytes]] = []
            consumer = client.consumer(station, f"reader-{next(groups)}")
            while True:
                batch = consumer.fetch(1000, timeout_s=0.3)
                if not batch:
                    return found
                for message in batch:
                    found.append((message.partition, message.data))
                    message.ack()

        yield read
