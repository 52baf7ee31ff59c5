"""A client that is observed, and a station of the test's own."""

from __future__ import annotations

import pytest


@pytest.fixture
def station(station_name):
    """The name of a station that no other test uses."""
    return station_name


@pytest.fixture
def observed(broker):
    """``observed(observer, ...)``: a client with these observers; closed after the test."""
    import memphis_sync

    clients = []

    def connect(*observers, **options):
        clients.append(memphis_sync.connect(broker.url, observers=observers, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
