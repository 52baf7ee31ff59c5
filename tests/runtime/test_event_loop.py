"""The private loop: calls from many threads, limits, Ctrl-C, its own thread, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures.thread import _threads_queues
from functools import partial

import pytest

from memphis_sync._base.threads import start_thread
from memphis_sync._nats import lookup
from memphis_sync._nats.connecting import connect_first, run, run_on_loop
from memphis_sync._nats.handshake import Login
from memphis_sync._session import waiting
from memphis_sync._session.event_loop import LoopThread
from memphis_sync.errors import ClosedError, ConnectError, DeadlineError, OwnThreadError, UsageError
from memphis_sync.types import ServerAddress


@pytest.fixture
def loop():
    thread = LoopThread(0)
    yield thread
    thread.stop()


async def answer(value, pause_s=0.0):
    await asyncio.sleep(pause_s)
    if isinstance(value, Exception):
        raise value
    return value


def test_a_result_and_an_error_come_back(loop):
    assert loop.call(lambda: answer(7), 5) == 7
    with pytest.raises(KeyError, match="boom"):
        loop.call(lambda: answer(KeyError("boom")), 5)


def test_many_threads_at_once(loop):
    results = {}
    barrier = threading.Barrier(16)

    def run(number):
        barrier.wait()
        results[number] = [loop.call(lambda: answer(number, 0.001), 10) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {n: [n] * 20 for n in range(16)}


def test_a_limit_cancels_the_work(loop):
    ended = threading.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"the lesson did not end within 0\.3 s") as caught:
        loop.call(work, 0.3, "the lesson")
    assert caught.value.timeout_s == 0.3
    assert time.monotonic() - start < 10
    assert ended.wait(2), "nobody waits for it any more, so it must not go on"


def test_ctrl_c_is_raised_soon_and_ends_the_work(loop):
    ended = threading.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.call(work, 60)
    assert time.monotonic() - start < 10
    assert ended.wait(2)
    assert loop.call(lambda: answer("usable"), 5) == "usable"


def test_a_blocking_call_on_the_loops_own_thread_is_refused(loop):
    """It would wait for itself, for ever."""

    async def work():
        loop.call(lambda: answer(1), 5, "the inner call")

    with pytest.raises(OwnThreadError, match="the inner call"):
        loop.call(work, 5)
    assert loop.call(lambda: answer(2), 5) == 2


def test_stop_ends_what_still_waits(loop):
    outcome = []

    def wait():
        try:
            loop.call(lambda: answer(1, 60), 60)
        except ClosedError as exc:
            outcome.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.05)
    assert loop.stop()
    waiter.join(5)
    assert len(outcome) == 1
    with pytest.raises(ClosedError):
        loop.call(lambda: answer(1), 1)
    assert loop.stop(), "a second stop is fine"


def test_a_thread_that_does_not_end_is_named(loop, caplog):
    release = threading.Event()
    loop.post(release.wait)  # nothing of ours blocks the loop; a bug would
    assert not loop.stop(0.3)
    assert "memphis-loop-0" in caplog.text
    release.set()


def test_stops_that_come_while_it_ends_break_nothing_off(loop):
    """A thread that could not end in time is stopped again by whoever comes next."""
    cancelled = threading.Event()
    ended = []

    async def settle():
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
            for _ in range(50):
                await asyncio.sleep(0.001)
            ended.append(True)

    loop.spawn(settle)
    loop.call(lambda: answer(1), 5)
    assert not loop.stop(0.0)
    assert cancelled.wait(5)
    assert loop.stop()
    assert ended == [True]


def test_an_interrupt_while_a_thread_starts_is_told_as_such(monkeypatch):
    """Thread.start() waits by a Condition, which says that its lock is free when a signal handler raised in it."""
    handed_out = threading.Event()

    def interrupted(self):
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_thread("memphis-test", handed_out.set)


def connects_by_name(loop, host):
    """Whether a handshake on the loop gets through to a server at that host, which then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ServerAddress(host, server.getsockname()[1])
        steps = connect_first([address], Login(lambda *_: b""), time.monotonic() + 0.5, lambda *_: None)
        with pytest.raises(ConnectError, match="no Memphis broker answered within"):
            loop.call(lambda: run_on_loop(steps), 20)


def test_names_resolve_when_no_thread_can_be_started(loop, monkeypatch):
    """As in an exit handler."""

    def refused(*_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(lookup, "start_thread", refused)
    connects_by_name(loop, "localhost")


def test_names_resolve_without_an_executor(loop):
    """Its threads would keep the process from ending, and a child that was forked from C for ever."""
    before = set(_threads_queues)
    connects_by_name(loop, "localhost")
    assert set(_threads_queues) == before


@pytest.fixture
def slow_resolver(monkeypatch):
    """A resolver that is silent until the test has ended; gives how often it was asked for each host."""
    asked, answers, real = Counter(), threading.Event(), socket.getaddrinfo

    def ask(host, *args, **options):
        if not options.get("flags"):
            asked[host] += 1
            answers.wait(60)
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield asked
    answers.set()


def test_a_resolver_that_is_silent_gets_one_thread(loop, slow_resolver):
    address = ServerAddress("localhost", 1)
    for _ in range(3):
        steps = connect_first([address], Login(lambda *_: b""), time.monotonic() + 0.3, lambda *_: None)
        with pytest.raises(ConnectError, match="no Memphis broker answered within"):
            loop.call(partial(run_on_loop, steps), 20)
        steps = connect_first([address], Login(lambda *_: b""), time.monotonic() + 0.3, lambda *_: None)
        with pytest.raises(ConnectError, match="no Memphis broker answered within"):
            run(steps)
    assert slow_resolver == {"localhost": 1}


def test_ctrl_c_is_served_while_a_name_is_looked_up(slow_resolver):
    steps = connect_first(
        [ServerAddress("localhost", 2)], Login(lambda *_: b""), time.monotonic() + 60, lambda *_: None
    )
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(steps)
    assert time.monotonic() - start < 20


def test_the_caller_may_run_a_loop_itself(loop):
    async def main():
        return loop.call(lambda: answer("from a notebook"), 5)

    assert asyncio.run(main()) == "from a notebook"


def test_a_wait_ends_when_nobody_is_left():
    ticket = threading.Lock()
    ticket.acquire()
    start = time.monotonic()
    assert not waiting.wait(ticket, None, lambda: False)
    assert time.monotonic() - start < 10


def test_a_released_ticket_is_seen_at_a_past_deadline():
    ticket = threading.Lock()
    assert waiting.wait(ticket, time.monotonic() - 1, lambda: True)


def test_an_error_of_a_signal_handler_is_not_taken_for_the_end_of_the_loop(loop, monkeypatch):
    def interrupted(*_):
        raise UsageError("of a handler")

    with monkeypatch.context() as patch:
        patch.setattr(loop._loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(UsageError, match="of a handler"):
            loop.post(print)
