"""Answers that are large, and clients that do not read them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import uvicorn

from memphis_sync.http.gateway import room
from memphis_sync.http.gateway.app import create_app
from memphis_sync.http.gateway.server import uvicorn_config
from memphis_sync.http.gateway.settings import GatewaySettings

LIMIT_S = 60.0
LARGE = b"<" * (3 * 2**20)  # six times as much as JSON
PATHS = pytest.mark.parametrize("path", ["consume", "consume/batch"])


class Served:
    """A gateway in a thread of this process, whose limits a test chooses."""

    def __init__(self, url: str, **settings: Any) -> None:
        chosen = GatewaySettings(url, port=0, access_log=False, **settings)
        self.app = create_app(chosen)
        self.server = uvicorn.Server(uvicorn_config(self.app, chosen))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def post(self, path: str, body: dict[str, Any], token: str = "") -> http.client.HTTPResponse:
        """A request; its answer is not read yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Connection": "close"}
        connection.request("POST", path, json.dumps(body), headers)
        return connection.getresponse()

    def token(self) -> str:
        """Of the user root."""
        answer = self.post("/auth/authenticate", {"username": "root", "password": "memphis"})
        jwt: str = json.loads(answer.read())["jwt"]
        return jwt

    @property
    def used(self) -> int:
        """Bytes of answers under way."""
        return sum(self.app.state.sessions.room._used.values())

    def close(self) -> None:
        """Ends it."""
        self.server.should_exit = True
        self._thread.join(LIMIT_S)
        self._listener.close()


@pytest.fixture
def served(broker: Any) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(**settings: Any) -> Served:
        started.append(Served(broker.url, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


def wanted(**fields: Any) -> dict[str, Any]:
    return {"consumer_name": "reader", "consumer_group": "g", "batch_max_wait_time_ms": 20_000, **fields}


@PATHS
def test_the_size_of_an_answer_counts_as_it_is_sent(gateway: Any, memphis: Any, station_name: str, path: str) -> None:
    for _ in range(2):
        memphis.produce(station_name, "p", LARGE)
    for _ in range(2):
        answer = gateway.post(f"/stations/{station_name}/{path}", wanted(batch_size=2))
        rows = answer.json["messages"] if path == "consume" else answer.json
        assert [row["message"].encode() == LARGE for row in rows] == [True]


@PATHS
def test_a_client_that_does_not_read_is_cut_off(
    served: Callable[..., Served], memphis: Any, station_name: str, path: str, until: Any
) -> None:
    memphis.produce(station_name, "p", LARGE)
    gateway = served(write_timeout_s=1.0)
    answer = gateway.post(f"/stations/{station_name}/{path}", wanted(batch_size=1), gateway.token())
    assert answer.status == 200
    until(lambda: not gateway.used)
    with contextlib.closing(answer), pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()


@PATHS
def test_answers_that_are_not_read_leave_no_room_for_more(
    served: Callable[..., Served], memphis: Any, station_name: str, path: str, until: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(room, "USER_BYTES", 5 * len(LARGE))
    monkeypatch.setattr(room, "WAIT_S", 0.2)
    for _ in range(2):
        memphis.produce(station_name, "p", LARGE)
    gateway = served(write_timeout_s=3600.0)
    token = gateway.token()
    first = gateway.post(f"/stations/{station_name}/{path}", wanted(batch_size=1), token)
    second = gateway.post(f"/stations/{station_name}/{path}", wanted(batch_size=1), token)
    assert (first.status, second.status, second.getheader("Retry-After")) == (200, 503, "1")
    assert json.loads(second.read())["success"] is False
    assert len(first.read()) > 6 * len(LARGE)
    until(lambda: not gateway.used)
    third = gateway.post(f"/stations/{station_name}/{path}", wanted(batch_size=1), token)
    assert third.status == 200
    assert len(third.read()) > 6 * len(LARGE)
