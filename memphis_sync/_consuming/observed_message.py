"""Messages whose answers are told to observers; a client without one has plain messages, whose ack costs no more."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Optional, TypeVar, cast

from memphis_sync._base.hints import hint_keywords
from memphis_sync.message import CONFIRM_S, DEAD_LETTER_S, Message

if TYPE_CHECKING:
    from memphis_sync._consuming.source import Source
    from memphis_sync.observer import AckKind

M = TypeVar("M", bound=Message)


@hint_keywords(but={"ack", "nack"})
class _Answering(Message):
    """In front of a kind of message: its answers are told."""

    __slots__ = ()

    def ack(self, *, wait: bool = False, timeout_s: float = CONFIRM_S) -> None:
        super().ack(wait=wait, timeout_s=timeout_s)
        self._tell()

    def nack(self) -> None:
        super().nack()
        self._tell()

    def delay(self, delay: Optional[float] = None, *, delay_ms: Optional[int] = None) -> None:
        super().delay(delay, delay_ms=delay_ms)
        self._tell()

    def dead_letter(self, reason: str, *, timeout_s: float = DEAD_LETTER_S) -> None:
        super().dead_letter(reason, timeout_s=timeout_s)
        self._tell()

    def _tell(self) -> None:
        self._source.observers.acked([self], cast("AckKind", self.answer))


def message_kind(source: Source, kind: type[M]) -> type[M]:
    """The class of a consumer's messages: *kind*, or one in its place."""
    return cast("type[M]", _answering(cast("Any", kind))) if source.observers else kind


@functools.cache
def _answering(kind: Any) -> type[Any]:
    return type(kind.__name__, (_Answering, kind), {"__slots__": (), "__doc__": kind.__doc__})
