"""
A consumer that is observed: its reader, which tells what comes, and what tells when it is handled. A client without
observers has a plain reader, and calls handlers as they are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync._consuming.portion import Portion
from memphis_sync._consuming.reader import Reader
from memphis_sync.message import Message

if TYPE_CHECKING:
    from memphis_sync._consuming.source import Source
    from memphis_sync._control.api import Requests


class ObservedReader(Reader):
    """A reader whose messages are told of when they come."""

    def read(self, only: Optional[int], limit: int, wait_s: float, ahead: bool, **options: Any) -> list[Message]:
        """As Reader.read(), for what is handed out at once."""
        started = time.monotonic()
        return self._received(super().read(only, limit, wait_s, ahead, **options), started)

    def take_portion(self, portion: Portion, only: Optional[int], **options: Any) -> list[Message]:
        """As Reader.take_portion()."""
        started = time.monotonic()
        return self._received(super().take_portion(portion, only, **options), started)

    def _received(self, messages: list[Message], started: float) -> list[Message]:
        source = self.source
        if messages:
            source.observers.received(source.view.name, source.consumer_group, messages, time.monotonic() - started)
        return messages


def new_reader(source: Source, requests: Requests, *, ack_time_s: float, max_deliveries: int) -> Reader:
    """The reader of a consumer; see Reader."""
    kind = ObservedReader if source.observers else Reader
    return kind(source, requests, ack_time_s=ack_time_s, max_deliveries=max_deliveries)


def handling(source: Source, function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of a message, or of a list of them as its first argument, that observers are told of."""
    observers = source.observers
    if not observers:
        return function

    def call(messages: Any, *others: Any) -> Any:
        if isinstance(messages, list) and not messages:
            return function(messages, *others)  # an error
        with observers.processing(messages if isinstance(messages, list) else [messages]):
            return function(messages, *others)

    return call
