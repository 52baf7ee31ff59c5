"""
From several addresses to one connection: which is tried when, at first and after an outage.

Each of the two is a generator that yields what it waits for, so that a thread (``run()``) and an event loop
(``run_on_loop()``) wait for the same thing. Neither waits for one silent peer while another could answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import time
from collections.abc import Generator, Sequence
from typing import Callable, NamedTuple, Optional

from memphis_sync._base import waits
from memphis_sync._nats.errors import connect_errors, is_passing, next_error
from memphis_sync._nats.handshake import LOOK_UP, Connected, Handshake, Login
from memphis_sync.errors import AuthenticationError, ConnectError
from memphis_sync.types import ServerAddress

AGAIN_S = 0.5  # a peer that is silent for so long may still answer, while the next one is asked, and then it again
PASSING_S = 0.2  # before another try of what passes by itself
SLICE_S = 0.2  # a thread's waits are cut so that a closed client is noticed
LOOK_S = 0.02  # and so, while one try waits for its host's addresses and another one for its socket


class Wait(NamedTuple):
    """What a generator waits for: any of these tries, and at most until then, by ``time.monotonic()``."""

    tries: Sequence[Handshake]
    until: float


Steps = Generator[Wait, list[Handshake], tuple[ServerAddress, Connected]]  # is sent the tries that can go on
OnFailed = Callable[[ServerAddress, ConnectError], None]


def connect_first(addresses: Sequence[ServerAddress], login: Login, deadline: float, on_failed: OnFailed) -> Steps:
    """
    Connects to the first of several addresses that answers, and tries all again while there is time when what went
    wrong may pass by itself: a server says something else than a verdict on the credentials, or closes the connection
    during the handshake.

    Args:
        addresses: In their order.
        login: How to log in.
        deadline: By ``time.monotonic()``, for all addresses together.
        on_failed: Called with each address that gave no connection and why.

    Raises:
        AuthenticationError: An address refused the credentials, and none gave a connection.
        ConnectError: No address gave a connection: host unknown, port refused, no answer in time, no NATS server there,
            TLS wanted by one side only, or a certificate that was refused. The text has each with its reason.
    """
    error: Optional[ConnectError] = None
    while True:
        # An address that never answers leaves time for the ones behind it.
        share_s = (deadline - time.monotonic()) / len(addresses)
        try:
            return (yield from connect_again(addresses, login, deadline, on_failed, again_s=share_s))
        except ConnectError as exc:
            error = exc if error is None else next_error(error, exc)
        if not is_passing(error) or time.monotonic() + PASSING_S >= deadline:
            raise error
        yield Wait([], time.monotonic() + PASSING_S)


def connect_again(
    addresses: Sequence[ServerAddress],
    login: Login,
    deadline: float,
    on_failed: OnFailed,
    *,
    at_once: bool = False,
    again_s: float = AGAIN_S,
) -> Steps:
    """
    One try at several addresses: connects to the first that answers.

    A peer may swallow what was sent before it came back to life, and then never answer on that connection. So an
    address that is silent for *again_s* keeps nobody waiting: the next one is asked, and once each was, all of them
    anew, again and again. The first connection to each is kept beside the newest one, for a peer that is just slow.

    Args:
        addresses: The first one is asked first.
        login: As connect_first(), and so are the next two.
        deadline: See there.
        on_failed: See there.
        at_once: Whether all are asked side by side from the beginning, as in an outage that lasts.
        again_s: See above.

    Raises:
        ConnectError, AuthenticationError: As connect_first(), when no address is left that may still answer.
    """
    tries: dict[ServerAddress, list[Handshake]] = {address: [] for address in addresses}
    failed: dict[ServerAddress, ConnectError] = {}
    unasked, ask_at = [] if at_once else list(addresses), time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if ask_at <= now < deadline:
                for address in [unasked.pop(0)] if unasked else addresses:
                    if isinstance(failed.get(address), AuthenticationError):
                        continue  # the next word on that in the next try
                    for stale in tries[address][1:]:
                        stale.close()
                    tries[address][1:] = [Handshake(address, deadline, login)]
                ask_at = now + again_s
            for one in (yield Wait([one for each in tries.values() for one in each], min(deadline, ask_at))):
                if one not in tries[one.address]:
                    continue  # another try of the address has just failed
                try:
                    connected = one.go_on()
                except ConnectError as exc:
                    for other in tries[one.address]:  # whatever ends one of them decides
                        other.close()
                    tries[one.address] = []
                    failed[one.address] = exc
                    on_failed(one.address, exc)
                    continue
                if connected is not None:
                    return one.address, connected
            if not any(tries.values()):
                if not unasked or time.monotonic() >= deadline:
                    raise connect_errors(list(failed.values()))
                ask_at = time.monotonic()
    finally:
        for each in tries.values():
            for one in each:
                one.close()


def run(steps: Steps, is_stopped: Callable[[], bool] = lambda: False) -> tuple[ServerAddress, Connected]:
    """
    Waits on the calling thread.

    Args:
        steps: connect_first() or connect_again().
        is_stopped: Asked a few times a second; True ends the try.

    Raises:
        ConnectError, AuthenticationError: As *steps*, or it was stopped.
    """
    with contextlib.closing(steps):
        try:
            wait = next(steps)
            while not is_stopped():
                wait = steps.send(_ready(wait))
        except StopIteration as end:
            result: tuple[ServerAddress, Connected] = end.value
            return result
        raise ConnectError("the client is closed")


async def run_on_loop(steps: Steps) -> tuple[ServerAddress, Connected]:
    """The same on an event loop; a cancellation ends the try."""
    with contextlib.closing(steps):
        try:
            wait = next(steps)
            while True:
                wait = steps.send(await _ready_on_loop(wait))
        except StopIteration as end:
            result: tuple[ServerAddress, Connected] = end.value
            return result


def _ready(wait: Wait) -> list[Handshake]:
    """The tries that can go on: those with nothing to wait for, whose sockets are ready, or whose time is up."""
    ready = [one for one in wait.tries if one.is_ready]
    if ready:
        return ready
    lookups = [one.lookup for one in wait.tries if one.waits_for == LOOK_UP]
    watched = [one for one in wait.tries if one.waits_for != LOOK_UP]
    slice_s = LOOK_S if lookups and watched else SLICE_S
    left_s = max(min([wait.until, *(one.until for one in wait.tries)]) - time.monotonic(), 0)
    if lookups and lookups[0] is not None and not watched:
        lookups[0].is_over.wait(min(left_s, slice_s))
    else:
        with waits.selector() as selector:
            for one in watched:
                selector.register(one, one.waits_for, one)
            ready = [key.data for key, _ in selector.select(min(left_s, slice_s))]
    return ready + _late(wait.tries, ready)


async def _ready_on_loop(wait: Wait) -> list[Handshake]:
    ready = [one for one in wait.tries if one.is_ready]
    if ready:
        return ready
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake(one: Optional[Handshake] = None) -> None:
        if one is not None and one not in ready:
            ready.append(one)
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_at(min([wait.until, *(one.until for one in wait.tries)]), wake)
    watched = [one for one in wait.tries if one.waits_for != LOOK_UP]
    try:
        for one in wait.tries:
            if one.lookup is not None and one.waits_for == LOOK_UP:
                one.lookup.then(functools.partial(_post, loop, wake))
            elif one.waits_for == selectors.EVENT_READ:
                loop.add_reader(one, wake, one)
            else:
                loop.add_writer(one, wake, one)
        await woken
    finally:
        timer.cancel()
        for one in watched:
            loop.remove_reader(one)
            loop.remove_writer(one)
    return ready + _late(wait.tries, ready)


def _post(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # it has closed, and nobody waits there any more
        loop.call_soon_threadsafe(work)


def _late(tries: Sequence[Handshake], ready: list[Handshake]) -> list[Handshake]:
    now = time.monotonic()
    return [one for one in tries if one not in ready and (one.is_ready or now >= one.until)]
