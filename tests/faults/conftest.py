"""What the fault tests share: clients whose data link runs through a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

Through = Callable[..., tuple["Memphis", "Proxy"]]


@pytest.fixture
def through(proxy_to: Callable[[str, int], Proxy]) -> Iterator[Through]:
    """
    ``through(broker, **options)``: a client and the proxy in front of its broker.

    Faults hit the data link alone: what is under test is the hot path, and requests of the test go on. With
    ``both_links=True`` they hit the control link as well; with ``proxy=`` the client shares a proxy.
    """
    import memphis_sync  # not above: with this folder as argument that would be before --backend is looked at

    clients: list[Memphis] = []

    def make(
        broker: BrokerProcess, *, both_links: bool = False, proxy: Proxy | None = None, **options: object
    ) -> tuple[Memphis, Proxy]:
        proxy = proxy or proxy_to(broker.host, broker.port)
        options = {"reconnect_interval_ms": 20, **options}
        client = memphis_sync.connect(proxy.host, broker.username, password=broker.password, port=proxy.port, **options)
        if not both_links:
            proxy.spare()
        clients.append(client)
        return client, proxy

    yield make
    for client in clients:
        client.close(timeout_s=1.0)
