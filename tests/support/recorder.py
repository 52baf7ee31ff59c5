"""An observer that writes down what it is told."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from memphis_sync.observer import UNWATCHED, Observer


class Recorder(Observer):
    """Everything in the order in which it came; ``adds`` goes into each message as headers."""

    def __init__(self, adds: dict[str, str] | None = None, *, watches: bool = True) -> None:
        self.adds = adds or {}
        self.watches = watches
        self.calls: list[tuple[Any, ...]] = []
        self.clients: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def add(self, *call: Any) -> int:
        with self._lock:
            self.calls.append(call)
            return len(self.calls)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        """What came of one kind, without the word itself."""
        return [call[1:] for call in list(self.calls) if call[0] == kind]

    def outcomes(self) -> dict[int, Any]:
        """By token."""
        told = self.of("settled")
        assert len({token for token, _ in told}) == len(told), "a token was settled twice"
        return dict(told)

    def for_client(self, client, address):
        self.clients.append((client, address))
        return self

    def producing(self, station, count, headers):
        token = self.add("producing", station, count, dict(headers), headers.nonblocking)
        for name, value in self.adds.items():
            headers[name] = value
        return token if self.watches else UNWATCHED

    def settled(self, token, outcome):
        self.add("settled", token, outcome)

    def received(self, station, group, messages, seconds):
        self.add("received", station, group, list(messages), seconds)

    @contextlib.contextmanager
    def processing(self, messages):
        self.add("begin", list(messages))
        try:
            yield
        except BaseException as exc:
            self.add("end", list(messages), exc)
            raise
        self.add("end", list(messages), None)

    def acked(self, messages, kind):
        self.add("acked", list(messages), kind)

    def link(self, event):
        self.add("link", event)
