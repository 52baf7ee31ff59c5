"""A producer whose registration in a forked child ends between two steps of a call."""

from __future__ import annotations

from typing import Any

from memphis_sync.errors import ForkedError


class TakenOver:
    """The direct way of a producer from before the fork, whose successor takes over while a call learns of the fork."""

    def __init__(self, producer: Any) -> None:
        self._producer, self._next = producer, producer._direct

    def take(self, *_: Any) -> None:
        self._producer._direct = self._next
        raise ForkedError("this connection was opened before the process was forked")


def test_a_call_that_meets_the_swap_goes_on_with_the_new_registration(memphis: Any, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    for nonblocking in (False, True):
        producer._direct = TakenOver(producer)
        sent = producer.produce(b"x", nonblocking=nonblocking)
        assert (sent.result(60) if nonblocking else sent).sequence == 1 + nonblocking
