"""
Programs that gevent has patched: each call that waits lets other greenlets run.

A call is made while nothing passes between the program and its broker, and that ends when another greenlet of the
program has had twenty turns: a call that held up the others would wait for ever.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from programs import check_arrived

PROGRAM = """
{patch}
import os, sys, time
import gevent
import memphis_sync

folder, name = os.environ["TEST_FOLDER"], os.environ["TEST_STATION"]

def is_there(what):
    return os.path.exists(os.path.join(folder, what))

def take_turns(call):
    took = []
    for _ in range(20):
        start = time.monotonic()
        gevent.sleep(0.005)
        took.append(time.monotonic() - start)
    assert sorted(took)[5] < 0.15, (call, took)  # and not a slice of a wait, 0.2 s, each
    print("go on:", call)

def stalled(call, make):
    print("stall:", call)
    while not is_there("stall " + call):
        gevent.sleep(0.005)
    turns = gevent.spawn(take_turns, call)
    result = make()
    assert turns.ready(), call
    print("done:", call)
    return result

client = stalled("connect", lambda: memphis_sync.connect(os.environ["TEST_URL"]))
stalled("station", lambda: client.station(name))
producer = stalled("producer", lambda: client.producer(name, "p"))
stalled("first produce", lambda: producer.produce(b"1"))
stalled("produce", lambda: producer.produce(b"2"))
stalled("result", lambda: producer.produce(b"3", nonblocking=True).result(60))
stalled("wait", lambda: memphis_sync.wait([producer.produce(b"4", nonblocking=True)]))
stalled("as_completed", lambda: list(memphis_sync.as_completed([producer.produce(b"5", nonblocking=True)])))
stalled("produce_many", lambda: producer.produce_many([b"6", b"7"]))
stalled("flush", lambda: (producer.produce(b"8", nonblocking=True), client.flush(60)))
stalled("ping", lambda: client.ping(60))

small = memphis_sync.connect(os.environ["TEST_URL"], outbox_max_messages=1)
narrow = small.producer(name, "narrow", block_on_full_s=60)
narrow.produce(b"9")
stalled("full queue", lambda: [narrow.produce(body, nonblocking=True) for body in (b"10", b"11")])
stalled("close of a client with a backlog", lambda: small.close(60))

consumer = stalled("consumer", lambda: client.consumer(name, "c", max_ack_time_ms=60000))
(message,) = stalled("fetch", lambda: consumer.fetch(1, timeout_s=60))
stalled("ack", lambda: message.ack(wait=True))
stalled("iteration", lambda: next(iter(consumer)).ack())
stalled("read_all", lambda: [message.ack(wait=True) for message in consumer.read_all(timeout_s=60)])

handled, has_begun = [], []
def handle(messages, error, context):
    has_begun.append(True)
    while not is_there("go on stop_consume"):
        time.sleep(0.005)
    handled.extend(messages)
    for message in messages:
        message.ack(wait=True)

consumer.consume(handle)
producer.produce(b"12")
while not has_begun:
    gevent.sleep(0.005)
stalled("stop_consume", lambda: consumer.stop_consume(60))
assert [bytes(message.data) for message in handled] == [b"12"], handled

reported = []
producer.produce(b"13", nonblocking=True, on_delivery=reported.append)
stalled("close", client.close)
assert len(reported) == 1, reported
print(memphis_sync.__version__)
"""
CALLS = re.findall(r'stalled\("([^"]+)"', PROGRAM)
PATCHES = {
    "all": "from gevent import monkey; monkey.patch_all()",
    "all but threads": "from gevent import monkey; monkey.patch_all(thread=False)",
    "after the import": "import memphis_sync; from gevent import monkey; monkey.patch_all()",
}


def serve(program: Any, proxy: Any, folder: Path) -> None:
    """Does what the program asks for, until it ends."""
    done: list[tuple[str, str]] = []

    def asked() -> list[tuple[str, str]]:
        return re.findall(r"^(stall|go on): (.+)\n", program.stdout, re.MULTILINE)[len(done) :]

    while program.until(lambda: asked() or program.process.poll() is not None) is not True:
        what, call = asked()[0]
        if what == "stall":
            proxy.stall()
        else:
            proxy.go_on()
        (folder / f"{what} {call}").touch()
        done.append((what, call))


@pytest.mark.parametrize("binding", ["cython", "cffi"])
@pytest.mark.parametrize("patch", PATCHES)
def test_each_call_that_waits_lets_other_greenlets_run(
    patch: str,
    binding: str,
    broker: Any,
    memphis: Any,
    proxy_to: Any,
    station_name: str,
    start_program: Any,
    tmp_path: Path,
) -> None:
    proxy = proxy_to("127.0.0.1", broker.port)
    program = start_program(
        "-W",
        "ignore",
        "-c",
        PROGRAM.replace("{patch}", PATCHES[patch]),
        env={
            "TEST_URL": broker.url.replace(str(broker.port), str(proxy.port)) + "/?timeout_ms=60000",
            "TEST_STATION": station_name,
            "TEST_FOLDER": os.fspath(tmp_path),
            "MEMPHIS_SYNC_IMPL": binding,
        },
    )
    serve(program, proxy, tmp_path)
    assert re.findall(r"^done: (.+)$", program.done(), re.MULTILINE) == CALLS
    check_arrived(memphis, station_name, [str(number) for number in range(1, 14)])
