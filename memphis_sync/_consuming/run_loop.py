"""
Consumer.run(): one message after the other to a function, on the calling thread, until it is told to stop.

What the function raises is its message's affair, and what that means is the caller's choice. It never ends with a
message in hand: what was not handled goes back to the group.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Callable, Optional

from memphis_sync._base.logs import Log
from memphis_sync._base.stop_signals import StopSignals
from memphis_sync._consuming.observing import handling
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._consuming.until import Until
from memphis_sync._options.checks import MAX_BATCH_SIZE, MAX_TIME_MS, check_limit_s, check_seconds, int_in, none_or
from memphis_sync._options.handling import (
    DELAY_MS,
    MAX_DELAY_MS,
    check_delays,
    check_handler,
    check_on_error,
    check_signals,
)
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._session import waiting
from memphis_sync.errors import ForkedError, MemphisError, UsageError
from memphis_sync.message import Message
from memphis_sync.types import OnError

if TYPE_CHECKING:
    from memphis_sync.consumer import Consumer

log = Log("memphis_sync.consume")

_DOUBLINGS = 40  # more of them are above every limit, and would make long numbers
_REASON = 1000  # characters of a dead letter's reason


@arguments
class RunArguments(Arguments):
    """
    The parameters of Consumer.run().

    Args:
        function: Called with each message. Its return means ack(), unless it has answered the message itself.
        on_error: What an error of the function means for its message. ``"retry"``: it is delivered again after a pause,
            and becomes a dead letter after ``max_msg_deliveries``. ``"dead_letter"``: it becomes one at once, with the
            error as the reason. ``"stop"``: it is given back, and run() raises the error.
        delay_ms: The pause before the second delivery, for ``"retry"``, 0 to 86400000; it doubles with each delivery.
        max_delay_ms: The longest pause, 0 to 86400000.
        max_messages: Returns after so many messages, from 1; None: no limit.
        idle_exit_s: Returns when nothing has arrived for so long, in seconds, above 0; an outage does not count. None:
            goes on for ever.
        stop_signals: Signals that end it after the current message, as ``(signal.SIGTERM,)``; a second one ends it at
            once. The handlers from before are put back at the end. On the main thread only.
    """

    function: Callable[[Message], object] = option(check_handler)
    _: KW_ONLY
    on_error: OnError = option(check_on_error, default="retry")
    delay_ms: int = option(int_in(0, MAX_TIME_MS), default=DELAY_MS)
    max_delay_ms: int = option(int_in(0, MAX_TIME_MS), default=MAX_DELAY_MS)
    max_messages: Optional[int] = option(none_or(int_in(1)), default=None)
    idle_exit_s: Optional[float] = option(none_or(check_limit_s), default=None)
    stop_signals: Collection[int] = option(check_signals, default=())


@arguments
class WaitArguments(Arguments):
    """
    The parameters of Consumer.wait().

    Args:
        timeout_s: How long, in seconds, 0 or more; None: as long as it takes.
        stop_signals: As of run(): the first one ends consume() after the batch at hand.
    """

    timeout_s: Optional[float] = option(none_or(check_seconds), default=None)
    _: KW_ONLY
    stop_signals: Collection[int] = option(check_signals, default=())


def check_run(given: RunArguments) -> RunArguments:
    """The arguments as they are to be used. Raises ConfigurationError."""
    given = given.checked()
    check_delays(given.delay_ms, given.max_delay_ms)
    return given


def run(consumer: Consumer, given: RunArguments) -> int:
    """Consumer.run(); see there."""
    given = check_run(given)
    until = Until(given.idle_exit_s)
    with StopSignals(given.stop_signals, "run()", until.tell):
        return run_until(consumer, given, until)


def wait(consumer: Consumer, given: WaitArguments) -> bool:
    """Consumer.wait()."""
    given = given.checked()
    waiting.forbid_on_own_thread("wait()")
    consuming = None if consumer._source.is_inherited else consumer._consuming
    if consuming is None:
        raise UsageError(f"{consumer!r} does not consume in this process: call consume() before wait(), or run()")
    if consuming.is_mine:
        raise UsageError("wait() was called by the callback, and would wait for itself; call it on another thread")

    def stop() -> None:
        consuming.tell_to_stop()
        consumer._reader.wake()

    with StopSignals(given.stop_signals, "wait()", stop):
        return consuming.join(MAX_TIME_MS if given.timeout_s is None else given.timeout_s)


def run_until(consumer: Consumer, given: RunArguments, until: Until) -> int:
    """
    Runs the loop.

    Args:
        consumer: Whose messages.
        given: Checked.
        until: When it is over besides.

    Returns:
        How many messages the function was called with.
    """
    waiting.forbid_on_own_thread("run()")
    consumer.check_open()
    until.wake = consumer._reader.wake
    handling = _Handling(consumer, given)
    most = given.max_messages or MAX_BATCH_SIZE
    messages = consumer._reader.messages(consumer, min(consumer.batch_size, most), until=until)
    count = 0
    try:
        until.restart()
        for message in messages:
            count += 1
            handling.handle(message)
            if count == given.max_messages:
                break
    finally:
        messages.close()
        handling.give_back()  # not before: the loop's own requests would get it
    return count


class _Handling:
    """
    The function of one run(), and what becomes of each message.

    Args:
        consumer: Whose messages.
        given: Checked.
    """

    def __init__(self, consumer: Consumer, given: RunArguments) -> None:
        self._source = consumer._reader.source
        self._callbacks = self._source.session.callbacks
        self._function = handling(self._source, given.function)
        self._given = given
        self._in_hand: Optional[Message] = None

    def handle(self, message: Message) -> None:
        """
        Calls the function with a message.

        Raises:
            BaseException: What the function raised, when it is to stop; or what is no Exception, as KeyboardInterrupt.
        """
        self._in_hand = message
        try:
            result = self._function(message)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("it returned a coroutine, which is never awaited: pass a plain function")
        except BaseException as exc:
            if self._source.is_inherited:
                raise  # the function has forked, and this is the child
            if not isinstance(exc, Exception) or self._given.on_error == "stop":
                raise
            self._failed(message, exc)
        else:
            if not message.is_answered:
                _settle(message, message.ack)
        self._in_hand = None

    def give_back(self) -> None:
        """Gives a message back to the group that was not answered in the end."""
        message = self._in_hand
        if message is not None and not (message.is_answered or self._source.is_inherited or _stays(message)):
            _settle(message, message.nack)

    def _failed(self, message: Message, error: Exception) -> None:
        """The function raised: its message is delivered again, or becomes a dead letter."""
        if message.is_answered:
            self._log(message, error, f"the message was answered with {message.answer} before")
        elif _stays(message):
            self._log(message, error, "the broker keeps the dead letter until it is resent")
        elif self._given.on_error == "dead_letter":
            self._log(message, error, "it becomes a dead letter")
            reason = f"{type(error).__name__}: {error}"[:_REASON]
            _settle(message, lambda: message.dead_letter(reason))
        elif message.is_dead_letter:
            self._log(message, error, "it is sent again after the ack time")
            _settle(message, message.nack)
        else:
            delivered = message.delivered
            delay_ms = min(self._given.delay_ms << min(delivered - 1, _DOUBLINGS), self._given.max_delay_ms)
            self._log(message, error, f"delivery {delivered}; it goes back to the group for {delay_ms} ms")
            _settle(message, lambda: message.delay(delay_ms=delay_ms) if delay_ms else message.nack())

    def _log(self, message: Message, error: Exception, what: str) -> None:
        self._callbacks.raised(log, f"{self._source!r}: the handler failed on {message!r}: {what}", error)


def _stays(message: Message) -> bool:
    """Whether it is a dead letter that was sent again: the broker keeps it until it is acknowledged."""
    return isinstance(message, ResentMessage) and not message.is_owed


def _settle(message: Message, answer: Callable[[], object]) -> None:
    """Answers a message; when that cannot be, it is delivered again by time."""
    try:
        answer()
    except ForkedError:
        raise
    except MemphisError as exc:
        log.warning("%r is delivered again: it could not be answered: %s", message, exc)
