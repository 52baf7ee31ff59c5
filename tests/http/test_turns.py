"""Bodies of many small things: whoever else asks the gateway has an answer while it reads them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from typing import Any

import pytest

from memphis_sync import ConfigurationError, MemphisError
from memphis_sync.http.gateway.decoding import Identity
from memphis_sync.http.gateway.fields import _from_json
from memphis_sync.http.gateway.json_array import beside, elements
from memphis_sync.http.gateway.produce import _DEFAULTS
from memphis_sync.http.gateway.streaming import BATCH, Stream, json_fault

SIZE = 1 << 20


def many(unit: str) -> bytes:
    return f"[[{','.join([unit] * (SIZE // len(unit)))}]]".encode()


def test_blank_lines_let_others_have_their_turn() -> None:
    async def turns() -> int:
        nothing: Any = None  # no line becomes a message
        stream = Stream(nothing, _DEFAULTS, {}, Identity(), SIZE, is_json=False, on_broken=int, is_ending=bool)
        taking = asyncio.ensure_future(stream._take([b""] * (20 * BATCH)))
        count = 0
        while not taking.done():
            await asyncio.sleep(0)
            count += 1
        assert taking.result()
        stream._spool.close()
        return count

    assert asyncio.run(turns()) > 10, "one when nobody else has a turn"


@pytest.mark.parametrize(("size", "is_beside"), [(100, False), (2 << 20, True)])
def test_what_takes_long_to_check_is_produced_beside_the_loop(size: int, is_beside: bool) -> None:
    threads = []

    class Checking:
        def produce_each(self, messages: list[bytes], *, headers: Any) -> list[MemphisError]:
            del headers
            threads.append(threading.get_ident())
            return [ConfigurationError("none of them is right") for _ in messages]

    async def accept() -> None:
        producer: Any = Checking()
        stream = Stream(producer, _DEFAULTS, {}, Identity(), SIZE, is_json=False, on_broken=int, is_ending=bool)
        assert await stream._accept([(1, bytes(size))])
        stream._spool.close()

    asyncio.run(accept())
    assert [thread != threading.get_ident() for thread in threads] == [is_beside]


@pytest.mark.parametrize(
    ("unit", "read"),
    [
        ("[]", lambda body: list(elements(body))),
        ('{"":[]}', lambda body: list(elements(body))),
        ("[[]]", json_fault),
        ('{"a":[{}]}', json_fault),
        ('{"a":[]}', lambda body: _from_json(b'{"tokens":' + body + b"}")),
    ],
)
def test_the_collector_does_not_look_at_a_large_value_again_and_again(unit: str, read: Any) -> None:
    body = many(unit)
    runs: list[str] = []

    def seen(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)

    gc.callbacks.append(seen)
    try:
        asyncio.run(beside(len(body), read, body))
    finally:
        gc.callbacks.remove(seen)
    assert gc.isenabled()
    assert len(runs) < 100, "a thousand when it runs meanwhile"


@pytest.mark.parametrize("unit", ['{"a":1}', "1", "1.5", '{"":[{}]}'])
def test_a_large_value_lets_other_threads_in(unit: str) -> None:
    body = many(unit)
    began, ended = threading.Event(), threading.Event()
    turns = 0

    def read() -> None:
        began.set()
        json_fault(body)
        ended.set()

    thread = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        thread.start()
        began.wait()
        while not ended.is_set():
            time.sleep(0.0001)  # lets go, and asks for its turn
            turns += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert turns > 10, "two when nobody else has a turn"
