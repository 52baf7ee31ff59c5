"""A program that observes its client, for type checkers: it is never run. See api.py."""

# ruff: noqa: TC004  nothing here is used at run time

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal, Union

import memphis_sync
from memphis_sync import BulkResult, Headers, LinkEvent, Message, Observer, Outgoing, PubAck
from memphis_sync.observer import UNWATCHED, add_default_observer, remove_default_observer

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Traces(Observer):
    """One that defines everything."""

    def for_client(self, client: str, address: str) -> Observer:
        return self

    def producing(self, station: str, count: int, headers: Outgoing) -> object:
        assert_type(headers.nonblocking, bool)
        headers["traceparent"] = "00"
        headers.add_all(Headers({"a": "b"}))
        return UNWATCHED if headers.nonblocking else count

    def settled(self, token: int, outcome: Union[PubAck, BulkResult, BaseException]) -> None:
        if isinstance(outcome, PubAck):
            assert_type(outcome.partition, int)

    def received(self, station: str, group: str, messages: Sequence[Message], seconds: float) -> None:
        assert_type(messages[0].station, str)

    @contextlib.contextmanager
    def processing(self, messages: Sequence[Message]) -> Generator[None, None, None]:
        yield

    def acked(self, messages: Sequence[Message], kind: Literal["ack", "nack", "delay", "dead_letter"]) -> None:
        """Nothing."""

    def link(self, event: LinkEvent) -> None:
        assert_type(event.waiting, int)


class Few(Observer):
    """One that defines a single method."""

    def link(self, event: LinkEvent) -> None:
        """Nothing."""


def observing() -> None:
    """Nothing."""
    client = memphis_sync.connect("localhost", "root", password="memphis", observers=[Traces(), Few()])
    client.add_observer(Few())
    client.watch_stats(lambda stats: print(stats.queued), interval_s=1)
    add_default_observer(Few())
    remove_default_observer(Few())
