"""Users with few rights, as the roles of a Memphis broker give them: it is said at once what is forbidden."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fix_proxy import AsMemphis
from limited_server import LIMITED, PASSWORD, LimitedServer

import memphis_sync
from memphis_sync import ServerError
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memphis_sync import Memphis

MEMPHIS_SAYS = b"Permissions Violation - cant access the requested station, please contact your Memphis administrator"


class MemphisWords(AsMemphis):
    """In front of a server: it passes for a Memphis broker, also by what it says of a right that is missing."""

    def _forward(self, pair: Any, sink: Any, data: bytes) -> None:
        if data.startswith(b"-ERR 'Permissions Violation"):
            _, rest = data.split(b"\r\n", 1)
            data = b"-ERR '%s'\r\n%s" % (MEMPHIS_SAYS, rest)
        super()._forward(pair, sink, data)


@pytest.fixture
def server(tmp_path: Path, until: Any) -> Iterator[NatsServer]:
    """A nats-server with a control plane, and station "st" with three messages and a group."""
    server = LimitedServer(BrokerOptions(port=0, users={LIMITED: PASSWORD}), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    url = f"nats://root:memphis@127.0.0.1:{server.port}"
    try:
        with BrokerProcess(BrokerOptions(nats=url), timeout_s=30) as broker, memphis_sync.connect(broker.url) as root:
            for number in range(3):
                root.produce("st", "p", b"%d" % number)
            root.consumer("st", "c", "g")
            yield server
    finally:
        server.stop()


def connected(port: int) -> Memphis:
    return memphis_sync.connect("127.0.0.1", LIMITED, password=PASSWORD, port=port)


@pytest.mark.parametrize("words", ["of nats-server", "of Memphis"])
def test_what_is_forbidden_is_said_at_once(server: NatsServer, words: str, request: pytest.FixtureRequest) -> None:
    port = server.port
    if words == "of Memphis":
        proxy = MemphisWords(("127.0.0.1", server.port))
        request.addfinalizer(proxy.close)
        port = proxy.port
    with connected(port) as client:
        station = client.station("st", create_station=False, timeout_retries=0)
        start = time.monotonic()
        with pytest.raises(ServerError, match=r"not allowed to ask \$JS\.API\.STREAM\.LIST") as caught:
            client.stations(timeout_s=60)
        assert caught.value.code == 403
        with pytest.raises(ServerError, match=r"not allowed to ask \$JS\.API\.STREAM\.MSG\.GET"):
            station.peek(timeout_s=60)
        info = station.info(timeout_s=60)
        assert (info.messages, info.groups) == (3, None)
        assert "not allowed to ask $JS.API.CONSUMER.LIST.st$1" in info.unknown["groups"]
        assert time.monotonic() - start < 30, "it did not wait for answers that never come"


CHANGES: dict[str, Callable[[Memphis], object]] = {
    "$memphis_station_creations": lambda client: client.station("new"),
    "$memphis_producer_creations": lambda client: client.producer("st", "p"),
    "$memphis_consumer_creations": lambda client: client.consumer("st", "c"),
    "$memphis_station_destructions": lambda client: client.destroy_station("st"),
    "$memphis_schema_creations": lambda client: client.create_schema("s", "json", schema_content="{}"),
    "$memphis_schema_attachments": lambda client: client.enforce_schema("s", "st"),
    "$memphis_schema_detachments": lambda client: client.detach_schema("st"),
    "$memphis_sync_dls_": lambda client: client.dls("st").drop([1]),
}


def test_a_change_that_is_forbidden_is_refused_at_once(server: NatsServer) -> None:
    with connected(server.port) as client:
        start = time.monotonic()
        for asked, change in CHANGES.items():
            with pytest.raises(ServerError, match=re.escape(f"not allowed to ask {asked}")) as caught:
                change(client)
            assert caught.value.code == 403
        assert time.monotonic() - start < 15, "none waited for an answer that never comes"
