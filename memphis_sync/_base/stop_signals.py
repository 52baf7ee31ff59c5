"""
Signals that end a loop of the program's main thread: the first lets it finish what it is at, the second ends it at
once. What was installed before is in place again afterwards.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

_BY_SIGNAL = 128  # plus its number is the exit code, as in shells


class StopSignals:
    """
    A context manager; in its block the signals are for the loop.

    Args:
        signals: Which; with none of them it does nothing.
        what: The call, for the error.
        stop: Called by the first one, in the signal handler.

    Raises:
        UsageError: The calling thread is not the main thread, or a signal has a handler that Python could not put back.
    """

    def __init__(self, signals: Collection[int], what: str, stop: Callable[[], object]) -> None:
        self._signals = signals
        self._stop = stop
        self._is_told = False
        self._before: dict[int, Any] = {}
        for number in signals:
            before = signal.getsignal(number)
            if before is None:
                raise UsageError(
                    f"{signal.Signals(number).name} has a handler that was not installed by Python, and that Python "
                    f"could not put back: call {what} without it"
                )
            try:
                signal.signal(number, before)  # Python says who may; under gevent threading has other ideas
            except ValueError:
                raise UsageError(
                    f"{what} was called with stop_signals on the thread {threading.current_thread().name!r}; signals "
                    "reach the main thread only (and no subinterpreter): call it there, or without stop_signals, and "
                    "end it with stop()"
                ) from None

    def __enter__(self) -> Self:
        try:
            for number in self._signals:
                self._before[number] = signal.getsignal(number)
                signal.signal(number, self._on_signal)
        except BaseException:  # Ctrl-C between two of them
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._on_signal:  # else somebody has installed another one meanwhile
                signal.signal(number, before)

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        del frame
        if not self._is_told:
            self._is_told = True
            self._stop()
            return
        self._restore()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(_BY_SIGNAL + number)
