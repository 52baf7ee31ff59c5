"""Live numbers of the console: they move, they are bounded, and they end."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from fix_console import Visitor
from fix_gateway import LIMIT_S

if TYPE_CHECKING:
    from fix_gateway import Gateway

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


@contextlib.contextmanager
def opened(visitor: Visitor, path: str = "/console/live") -> Iterator[http.client.HTTPResponse]:
    """A stream of events."""
    connection = visitor.gateway.connection()
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    connection.request("GET", path, headers={"Cookie": cookie})
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()
        connection.close()


def updates(response: http.client.HTTPResponse) -> Iterator[Any]:
    """The events: their figures, or the name of one that has none."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
        elif line.startswith(b"event: "):
            yield line[7:].decode().strip()


def test_the_figures_of_a_station_move(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    producer = memphis.producer(station_name, "p")
    with opened(root, f"/console/live?station={station_name}") as response:
        assert response.status == 200
        assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
        assert response.getheader("cache-control") == "no-store"
        seen = updates(response)
        assert next(seen)["values"]["messages"] == "0"
        producer.produce_many(["x"] * 300)
        update = next(each for each in seen if each["values"]["messages"] == "300")
        assert float(update["values"]["rate in"].replace(",", "")) > 0
        assert max(update["series"]["in"]) > 0
        assert update["problem"] == ""


def test_a_station_that_is_not_there_or_goes_is_said_in_words(
    root: Visitor, memphis: Memphis, station_name: str
) -> None:
    memphis.station(station_name)
    with opened(root, f"/console/live?station={station_name}") as response:
        seen = updates(response)
        assert next(seen)["problem"] == ""
        memphis.destroy_station(station_name)
        update = next(each for each in seen if each["problem"])
        assert update["problem"].startswith("No newer figures: ")
        assert update["values"] == {}


def test_one_user_has_so_many_streams_and_no_more_and_those_that_end_make_room(
    broker: BrokerProcess,
    gateway_inside: Callable[..., Gateway],
    visit: Callable[[Gateway], Visitor],
    until: Callable[..., Any],
) -> None:
    visitor = visit(gateway_inside(broker.url))

    def is_taken() -> bool:
        with opened(visitor) as response:
            return response.status == 200

    with contextlib.ExitStack() as streams:
        for number in range(60):
            response = streams.enter_context(opened(visitor))
            if response.status == 429:
                break
            assert response.status == 200
            if number % 2:  # the others never read
                next(updates(response))
        assert response.status == 429
        assert response.getheader("retry-after")
    until(is_taken, LIMIT_S)


def test_logging_out_ends_the_stream(root: Visitor, gateway: Gateway) -> None:
    other = Visitor(gateway)
    assert other.log_in().status == 303
    with opened(root) as response, opened(other) as stays:
        seen = updates(response)
        assert next(seen)["values"]
        assert root.post("/logout", {}).status == 303
        assert next(each for each in seen if isinstance(each, str)) == "out"
        assert response.read() == b"data:\n\n"
        assert [bool(next(each)["values"]) for each in [updates(stays)] for _ in range(2)] == [True, True]


def test_a_stream_without_a_login_is_no_stream(visitor: Visitor) -> None:
    with opened(visitor) as response:
        assert (response.status, response.getheader("location")) == (303, "/console/login")


def test_open_pages_do_not_keep_a_gateway_from_ending(
    broker: BrokerProcess,
    fresh_gateway: Callable[..., Gateway],
    visit: Callable[[Gateway], Visitor],
) -> None:
    gateway = fresh_gateway(broker.url)
    visitor = visit(gateway)
    with opened(visitor) as one, opened(visitor) as other:
        assert next(updates(one))["values"]
        gateway.program.terminate()
        assert [each for each in updates(one) if isinstance(each, str)] == []
        other.read()
        assert gateway.program.wait(LIMIT_S) == 0
    assert "Traceback" not in gateway.output()
    assert "Cancel" not in gateway.output()  # uvicorn's word for requests that it has broken off
