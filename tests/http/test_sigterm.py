"""
What an end under load leaves: of the gateway by SIGTERM, and of the broker by SIGKILL.

Each message has an id of its own as its Idempotency-Key. A success is stored; whatever had another answer or none is
sent again with its key, and is then stored once. Nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest
from programs import check_arrived

import memphis_sync

if TYPE_CHECKING:
    from typing_extensions import Self

LIMIT_S = 60.0
THREADS = 4
LINES = 50  # of each stream
SMALL, LARGE = 200, 20_000


class Load:
    """
    Threads that produce until they are told to stop.

    Args:
        gateway: Where to.
        station: The station.

    Attributes:
        statuses: What single messages were answered with, by body; None for no answer.
        lines: The same of lines.
    """

    def __init__(self, gateway: Any, station: str) -> None:
        self._gateway, self._station = gateway, station
        self._token = gateway.token()
        self._stop = threading.Event()
        self.statuses: dict[str, Optional[int]] = {}
        self.lines: dict[str, Optional[int]] = {}
        self._threads = [threading.Thread(target=self._singles, args=(place,)) for place in range(THREADS)]
        self._threads.append(threading.Thread(target=self._streams))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * LIMIT_S)
            assert not thread.is_alive()

    @property
    def succeeded(self) -> int:
        """How many messages were stored so far."""
        return Counter(list(self.statuses.values()) + list(self.lines.values()))[200]

    def _singles(self, place: int) -> None:
        connection = self._gateway.connection()
        number = 0
        while not self._stop.is_set():
            body = f"single-{place}-{number}"
            number += 1
            self.statuses[body] = None
            try:
                self.statuses[body] = send(connection, self._station, body, self._token)
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = self._gateway.connection()
                self._stop.wait(0.01)
        connection.close()

    def _streams(self) -> None:
        number = 0
        while not self._stop.is_set():
            key = f"stream-{number}"
            number += 1
            bodies = [f'"{key}-{line}"' for line in range(1, LINES + 1)]
            self.lines.update(dict.fromkeys(bodies))
            with contextlib.suppress(OSError, http.client.HTTPException):
                for line, status in stream(self._gateway, self._station, key, bodies, self._token):
                    self.lines[bodies[line - 1]] = status
            self._stop.wait(0.01)

    def send_again(self, gateway: Any, until: Callable[..., Any]) -> int:
        """Sends all that was not a success again, to another gateway, until it is; gives how many there were."""
        token = gateway.token()
        connection = gateway.connection()
        left = [body for body, status in self.statuses.items() if status != 200]
        for body in left:
            until(lambda body=body: send(connection, self._station, body, token) == 200)
        connection.close()
        keys = {body.strip('"').rpartition("-")[0] for body, status in self.lines.items() if status != 200}
        for key in keys:
            bodies = [f'"{key}-{line}"' for line in range(1, LINES + 1)]
            until(
                lambda key=key, bodies=bodies: (
                    [status for _, status in stream(gateway, self._station, key, bodies, token)] == [200] * LINES
                )
            )
        return len(left) + len(keys)


def send(connection: http.client.HTTPConnection, station: str, body: str, token: str) -> int:
    """The status of a single message, whose body is its key too."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain", "Idempotency-Key": body}
    connection.request("POST", f"/stations/{station}/produce/single", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def stream(gateway: Any, station: str, key: str, bodies: list[str], token: str) -> Iterator[tuple[int, int]]:
    """Line and status of each result of a stream, as they come."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson", "Idempotency-Key": key}
    with contextlib.closing(gateway.connection()) as connection:
        connection.request("POST", f"/stations/{station}/produce/stream", "\n".join(bodies), headers)
        answer = connection.getresponse()
        if answer.status == 200:
            for line in answer:
                result = json.loads(line)
                yield result["line"], 200 if result["success"] else result["status"]


SIZES = [SMALL, pytest.param(LARGE, marks=[pytest.mark.large, pytest.mark.timeout(900)])]


@pytest.mark.parametrize("size", SIZES)
def test_sigterm_under_load_loses_nothing_and_stores_nothing_twice(
    broker: Any,
    fresh_gateway: Callable[..., Any],
    memphis: Any,
    station_name: str,
    until: Callable[..., Any],
    size: int,
) -> None:
    first = fresh_gateway(broker.url)
    with Load(first, station_name) as load:
        until(lambda: load.succeeded >= size, 10 * LIMIT_S)
        first.program.terminate()
        assert first.program.wait(LIMIT_S) == 0
    assert set(load.statuses.values()) <= {200, 503, None}
    again = load.send_again(fresh_gateway(broker.url), until)
    assert again >= 1, "some had no answer: it ended under load"
    check_arrived(memphis, station_name, [*load.statuses, *load.lines])


@pytest.mark.parametrize("size", SIZES)
def test_a_broker_that_is_killed_under_load_is_an_error_or_a_success_and_never_a_false_one(
    fresh_broker: Callable[..., Any],
    fresh_gateway: Callable[..., Any],
    station_name: str,
    until: Callable[..., Any],
    size: int,
) -> None:
    broker = fresh_broker()
    gateway = fresh_gateway(broker.url)
    with Load(gateway, station_name) as load:
        until(lambda: load.succeeded >= size, 10 * LIMIT_S)
        broker.kill()
        broker.start()
        before = load.succeeded
        until(lambda: load.succeeded >= before + size // 4, 10 * LIMIT_S)
    assert set(load.statuses.values()) <= {200, 503, 504}
    assert set(load.lines.values()) <= {200, 503, 504, None}
    load.send_again(gateway, until)
    with memphis_sync.connect(broker.url) as memphis:
        check_arrived(memphis, station_name, [*load.statuses, *load.lines])
