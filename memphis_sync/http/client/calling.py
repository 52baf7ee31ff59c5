"""
A call: a request with a token, repeated as long as that is safe and there is time.

What the gateway has certainly not received, or has certainly not begun, is always sent again. What it may have begun is
sent again only when that changes nothing: the message carries its id, and the gateway keeps ids. A request with a
refused token was not begun: the token is refreshed once, then the client logs in once, then the call fails.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Literal, Optional

from memphis_sync.errors import AuthenticationError, ClosedError, ConnectError, UsageError
from memphis_sync.http.client.answers import Gateway, object_of, retry_after_s, text_of
from memphis_sync.http.client.settings import HttpSettings
from memphis_sync.http.client.tokens import Tokens, bearer
from memphis_sync.http.client.transport import Answer, Headers, NoAnswer, Transport, Unsent

# What is sent, for the gateway that gets it and the seconds that are left.
Make = Callable[[Gateway, float], tuple[Headers, bytes]]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
# A station forgets ids after two minutes, unless it was created with another window: then a repeat would be a second
# message.
LONGEST_REPEAT_S = 100.0


class Failed(Exception):  # noqa: N818  inside this package
    """
    A call that ended without an answer to go by.

    Attributes:
        outcome: ``unknown`` when the gateway may have begun it.
        is_late: Whether the time for it was up.
    """

    def __init__(self, text: str, *, outcome: Literal["not_sent", "unknown"], is_late: bool) -> None:
        super().__init__(text)
        self.outcome: Literal["not_sent", "unknown"] = outcome
        self.is_late = is_late


class Reply:
    """An answer, and which gateway gave it; `was_begun` says that an earlier attempt may have been done as well."""

    __slots__ = ("answer", "gateway", "was_begun")

    def __init__(self, answer: Answer, gateway: Gateway, *, was_begun: bool) -> None:
        self.answer = answer
        self.gateway = gateway
        self.was_begun = was_begun


_BROKER = (
    "a broker listens on that port, which does not speak HTTP: give the URL of a gateway (memphis-sync gateway, by "
    "default on port 4444), or use memphis_sync.connect() for the broker"
)


class Caller:
    """What one process uses to talk with the gateway: its connections and its tokens."""

    def __init__(self, settings: HttpSettings) -> None:
        self.transport = Transport(settings)
        self.tokens = Tokens(settings, self.transport)
        self._calling: set[int] = set()  # threads; each step on it is atomic

    @contextmanager
    def _once(self) -> Iterator[None]:
        """A signal handler or a destructor must not begin a call inside a call of its thread: locks are held there."""
        me = threading.get_ident()
        if me in self._calling:
            raise UsageError(
                "called by a signal handler or a destructor that interrupted another call on the same thread, which "
                "can only continue once the handler has returned: do this later, or on another thread"
            )
        self._calling.add(me)
        try:
            yield
        finally:
            self._calling.discard(me)

    def log_in(self, deadline: float) -> Gateway:
        """
        Gets a token.

        Raises:
            ConnectError, AuthenticationError: There is none.
        """
        with self._once():
            try:
                self.tokens.get(deadline)
            except Unsent as exc:
                why = _BROKER if self.transport.is_broker(deadline) else exc
                raise ConnectError(f"cannot log in at {self.transport.base}: {why}") from exc
        return self.tokens.gateway

    def close(self, deadline: float) -> None:
        """Logs out, until *deadline* at the latest, and ends all connections."""
        if not self.transport.is_closed:
            with self._once():
                try:
                    self.tokens.end(deadline)
                finally:
                    self.transport.close()

    def call(self, path: str, make: Make, deadline: float, *, is_repeatable: bool) -> Reply:
        """
        Sends a request until there is an answer to go by.

        Args:
            path: Below the gateway's URL.
            make: Called for each attempt.
            deadline: For all attempts, by ``time.monotonic()``.
            is_repeatable: Whether a gateway that keeps ids may get it twice.

        Raises:
            Failed: There was no answer in time, or none, and it must not be repeated.
            AuthenticationError, ConnectError: Logging in failed, and nothing was begun.
            ClosedError: The client was closed.
        """
        with self._once():
            return _Attempts(self, path, make, deadline, is_repeatable=is_repeatable).run()


class _Attempts:
    """The attempts of one call."""

    def __init__(self, caller: Caller, path: str, make: Make, deadline: float, *, is_repeatable: bool) -> None:
        self._caller, self._path, self._make, self._deadline = caller, path, make, deadline
        self._is_repeatable = is_repeatable
        self._begun_at: Optional[float] = None  # since when the gateway may have begun it
        self._refusals = 0  # of tokens
        self._refused = ""
        self._pause_s = FIRST_PAUSE_S

    def run(self) -> Reply:
        """All of them."""
        while True:
            try:
                reply = self._attempt()
            except Unsent as exc:
                self._wait(str(exc), None)
                continue
            except (AuthenticationError, ConnectError, ClosedError) as exc:
                if self._begun_at is None:
                    raise
                raise Failed(str(exc), outcome="unknown", is_late=False) from exc
            if reply is not None:
                return reply

    def _attempt(self) -> Optional[Reply]:
        """One of them; None when there is to be another."""
        tokens = self._caller.tokens
        if self._refused:
            token = tokens.instead_of(self._refused, self._deadline, may_refresh=self._refusals == 1)
        else:
            token = tokens.get(self._deadline)
        self._refused = ""
        gateway = tokens.gateway
        repeats = self._is_repeatable and gateway.keeps_ids
        headers, body = self._make(gateway, self._deadline - time.monotonic())
        try:
            answer = self._caller.transport.post(self._path, [bearer(token), *headers], body, self._deadline)
        except NoAnswer as exc:
            self._note_begun()
            if not repeats:
                raise Failed(str(exc), outcome="unknown", is_late=exc.is_late) from exc
            self._wait(str(exc), None)
            return None
        if answer.status == 401:
            self._refusals += 1
            if self._refusals > 2:
                raise AuthenticationError("the gateway refused three tokens one after the other, two of them just made")
            self._refused = token
            return None
        verdict = _verdict(answer, gateway)
        if verdict == "begun":
            self._note_begun()
        if verdict == "untouched" or (verdict == "begun" and repeats):
            self._wait(f"the gateway answered {answer.status} ({text_of(answer)})", retry_after_s(answer))
            return None
        return Reply(answer, gateway, was_begun=self._begun_at is not None)

    def _note_begun(self) -> None:
        if self._begun_at is None:
            self._begun_at = time.monotonic()

    def _wait(self, why: str, asked_s: Optional[float]) -> None:
        """Pauses before the next attempt; raises Failed when there is no time for one."""
        # Not all at the same time: those that an outage has ended begin again at random times of the pause.
        pause_s = random.uniform(self._pause_s / 2, self._pause_s) if asked_s is None else asked_s  # noqa: S311
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        end = self._deadline
        if self._begun_at is not None:
            end = min(end, self._begun_at + LONGEST_REPEAT_S)
        if time.monotonic() + pause_s >= end:
            outcome: Literal["not_sent", "unknown"] = "not_sent" if self._begun_at is None else "unknown"
            raise Failed(why, outcome=outcome, is_late=True)
        time.sleep(pause_s)
        if self._caller.transport.is_closed:
            raise ClosedError("the client was closed")


def _verdict(answer: Answer, gateway: Gateway) -> Literal["final", "untouched", "begun"]:
    """Whether to go by an answer, or else whether the gateway may have begun what was asked."""
    status = answer.status
    said = object_of(answer)
    if said.get("outcome") == "unknown":
        return "begun"
    if status == 429 or (status == 503 and gateway.is_own and said):
        return "untouched"
    if status == 500 and not gateway.is_own and "message" in said and "error" not in said:
        return "untouched"  # Memphis' own gateway has no connection to its broker
    # Of a proxy in front of the gateway: nobody knows how far it got. 408: the gateway was still reading.
    return "begun" if status in (408, 502, 503, 504) else "final"
