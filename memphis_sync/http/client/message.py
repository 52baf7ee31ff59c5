"""
Messages as a gateway hands them out: to be acknowledged by the program, or acknowledged already.

A message that is to be acknowledged has a delivery token, which names this one delivery. Its answer is a request, which
is repeated: the gateway knows a token that was answered the same way before.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._options.checks import check_seconds, check_str
from memphis_sync._options.handling import delay_ns
from memphis_sync.errors import ConnectionLostError, DeadlineError, MemphisError, ServerError, UsageError
from memphis_sync.http.client.answers import object_of, text_of
from memphis_sync.http.client.calling import Caller, Failed
from memphis_sync.http.client.transport import JSON_TYPE

if TYPE_CHECKING:
    from typing_extensions import Self

ANSWER_S = 5.0  # as ack(wait=True)


class Delivery(NamedTuple):
    """
    How a message is answered.

    Attributes:
        caller: Gives the process's connections and login.
        token: Names the delivery; not shown.
    """

    caller: Callable[[], Caller]
    token: str


@hint_keywords()
class HttpMessage(NotCopied, NotAwaited, InNotebook):
    """
    A message as a gateway hands it out.

    As a context manager it is acknowledged at the end of the block, or given back with nack() when the block raised,
    unless the block has done either.

    Attributes:
        station: Name of the station, lower case.
        data: The payload.
        headers: Those of the producing program. A gateway writes the names as HTTP does: ``X-My-Header``.
        may_be_damaged: True: Memphis' own gateway has replaced bytes of the payload that are not UTF-8, or the payload
            held U+FFFD itself, which nobody can tell. Always False with the gateway of memphis-sync.
        sequence: Number in its partition, from 1; None with *auto_ack*.
        partition: Number of the partition; None with *auto_ack*.
        timesent: When the broker stored it, UTC; None with *auto_ack*.
        delivered: How often it has been delivered to the group, from 1; None with *auto_ack*.
    """

    _instead = "acknowledge it with the client that fetched it; pass .data and .headers instead"
    _shown = ("station", "partition", "sequence", "timesent", "headers", "data")

    def __init__(
        self,
        station: str,
        data: bytes,
        headers: dict[str, str],
        delivery: Optional[Delivery] = None,
        *,
        may_be_damaged: bool = False,
        sequence: Optional[int] = None,
        partition: Optional[int] = None,
        timesent: Optional[datetime] = None,
        delivered: Optional[int] = None,
    ) -> None:
        self.station = station
        self.data = data
        self.headers = headers
        self.may_be_damaged = may_be_damaged
        self.sequence = sequence
        self.partition = partition
        self.timesent = timesent
        self.delivered = delivered
        self._delivery = delivery
        self._answer = "" if delivery is not None else "the gateway has acknowledged it"

    @property
    def is_answered(self) -> bool:
        """Whether ack(), nack(), delay() or dead_letter() was called; True with *auto_ack*."""
        return bool(self._answer)

    def ack(self, *, timeout_s: float = ANSWER_S) -> None:
        """
        Acknowledges the message: once it returns, the group will not get it again.

        Args:
            timeout_s: How long it may take, all attempts together, in seconds, above 0.

        Raises:
            UsageError: It was answered before, or the gateway has acknowledged it.
            ServerError: The gateway refused: the ack time is over, say (``code`` 410), and the message is delivered
                again.
            DeadlineError, ConnectionLostError: There was no answer; the message may be delivered again.
            AuthenticationError, ConnectError, ClosedError: As HttpClient.produce().
        """
        _answer([self], "ack", {}, timeout_s, "ack()")

    def nack(self, *, timeout_s: float = ANSWER_S) -> None:
        """Gives the message back; the group gets it again at once. Args and Raises as ack()."""
        _answer([self], "nack", {}, timeout_s, "nack()")

    def delay(
        self, delay: Optional[float] = None, *, delay_ms: Optional[int] = None, timeout_s: float = ANSWER_S
    ) -> None:
        """
        Gives the message back; the group gets it again later.

        Args:
            delay: Seconds, 0 to 86400.
            delay_ms: The same in milliseconds. Pass exactly one of the two.
            timeout_s: As ack().

        Raises:
            ConfigurationError: The delay is out of range.
            UsageError: Both or neither are given; or as ack().
            MemphisError: Otherwise as ack().
        """
        _answer([self], "nack", {"delay_ms": delay_ns(delay, delay_ms) // 1_000_000}, timeout_s, "delay()")

    def dead_letter(self, reason: str, *, timeout_s: float = ANSWER_S) -> None:
        """
        Makes the message a dead letter; the group will not get it again. Raises as ack().

        Args:
            reason: Stored with it, 1 to 1000 characters.
            timeout_s: As ack().
        """
        given = {"dead_letter": check_str("reason", reason, empty_ok=False)}
        _answer([self], "nack", given, timeout_s, "dead_letter()")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.is_answered:
            return
        if error is None:
            self.ack()
            return
        try:
            self.nack()
        except MemphisError:  # the block's error matters more; the message is delivered again anyway
            return

    def __repr__(self) -> str:
        place = "" if self.sequence is None else f"[{self.partition}] seq={self.sequence}"
        return f"<HttpMessage {self.station}{place} {len(self.data)} bytes>"


class HttpMessages(NotAwaited, list[HttpMessage]):
    """What a fetch returns: a list of messages, which can be acknowledged together."""

    __slots__ = ()

    def ack(self, *, timeout_s: float = ANSWER_S) -> None:
        """
        Acknowledges all of them that are not answered yet, in one request. Args and Raises as HttpMessage.ack(); after
        an error those that the gateway has not acknowledged are delivered again.
        """
        left = [message for message in self if not message.is_answered]
        if left:
            _answer(left, "ack", {}, timeout_s, "ack()")


def _answer(messages: list[HttpMessage], path: str, given: dict[str, Any], timeout_s: float, what: str) -> None:
    check_seconds("timeout_s", timeout_s, allow_zero=False)
    station, tokens = messages[0].station, []
    for message in messages:
        if message._delivery is None or message._answer:
            raise UsageError(f"{what} came too late for {message!r}: {message._answer}")
        tokens.append(message._delivery.token)
        caller = message._delivery.caller
    body = json.dumps({"tokens": tokens, **given}).encode()
    try:
        reply = caller().call(
            f"/stations/{station}/{path}",
            lambda _gateway, _left_s: ([JSON_TYPE], body),
            time.monotonic() + timeout_s,
            is_repeatable=True,
        )
    except Failed as exc:
        about = f"{what} of {messages[0]!r} was not confirmed: {exc}; the message may be delivered again"
        raise (DeadlineError(about, timeout_s=timeout_s) if exc.is_late else ConnectionLostError(about)) from exc
    said = object_of(reply.answer)
    if reply.answer.status == 200 and said.get("success") is True:
        for message in messages:
            message._answer = f"{what} was called before"
        return
    failed = {each.get("index") for each in said.get("errors", ()) if isinstance(each, dict)}
    if len(messages) > 1 and failed:
        for index, message in enumerate(messages):
            if index not in failed:
                message._answer = f"{what} was called before"
    status, text = reply.answer.status, text_of(reply.answer)
    about = f"the gateway answered {status} to {what} of {messages[0]!r}: {text}"
    if len(messages) > 1:
        about += f" ({len(failed) or len(messages)} of {len(messages)} messages failed)"
    raise UsageError(about) if status == 409 else ServerError(about, code=status, description=text)
