"""Ctrl-C, outages and callbacks at the end of a client: nothing hangs, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import memphis_sync
from memphis_sync import UndeliveredWarning


@pytest.fixture
def stalled(broker, proxy_to, station_name):
    """A client with a backlog behind a connection that passes nothing, its producer, its consumer, and the proxy."""
    proxy = proxy_to("127.0.0.1", broker.port)
    client = memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port)))
    producer = client.producer(station_name, "p")
    consumer = client.consumer(station_name, "c")
    proxy.stall()
    for _ in range(3):
        producer.produce(b"x", nonblocking=True)
    yield client, producer, consumer, proxy
    proxy.go_on()
    client.close()


def interrupt_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize(
    "call",
    [
        lambda client, producer, consumer: consumer.fetch(timeout_s=60),
        lambda client, producer, consumer: next(iter(consumer)),
        lambda client, producer, consumer: client.flush(),
        lambda client, producer, consumer: producer.produce(b"blocking"),
        lambda client, producer, consumer: client.consumer("other", "c"),
        lambda client, producer, consumer: client.ping(60),
        lambda client, producer, consumer: producer.produce(b"x", nonblocking=True).result(),
        lambda client, producer, consumer: producer.produce(b"x", nonblocking=True, concurrent_task_limit=2),
        lambda client, producer, consumer: producer.produce_many([b"x"] * 10),
        lambda client, producer, consumer: memphis_sync.wait([producer.produce(b"x", nonblocking=True)]),
        lambda client, producer, consumer: next(
            iter(memphis_sync.as_completed([producer.produce(b"x", nonblocking=True)]))
        ),
    ],
    ids=[
        *("fetch", "iterate", "flush", "produce", "request", "ping"),
        *("result", "task-limit", "produce-many", "wait", "as-completed"),
    ],
)
def test_ctrl_c_is_served_and_the_client_stays_usable(stalled, call):
    client, producer, consumer, proxy = stalled
    timer = interrupt_after(0.2)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        call(client, producer, consumer)
    assert time.monotonic() - start < 10
    timer.join()
    proxy.go_on()
    assert client.flush(10) == 0
    assert client.ping(5) < 5
    stats = client.stats()
    assert stats.accepted == stats.delivered + stats.failed + stats.abandoned + stats.queued + stats.in_flight


def test_a_pong_after_the_limit_harms_nothing(stalled):
    """nats-py fails on a PONG that nobody waits for any more, and reconnects."""
    client, _, _, proxy = stalled
    for _ in range(3):
        with pytest.raises(memphis_sync.DeadlineError, match=r"0\.1 s"):
            client.ping(0.1)
    accepted = proxy.accepted
    proxy.go_on()
    assert client.ping(5) < 5
    assert client.flush(10) == 0
    assert (proxy.accepted, client.is_connected()) == (accepted, True)


def test_ctrl_c_in_close_ends_the_client_at_once(stalled):
    client, *_ = stalled
    interrupt_after(0.3)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), pytest.warns(UndeliveredWarning, match="3 messages were not confirmed"):
        client.close(timeout_s=60)
    assert time.monotonic() - start < 10
    client.close()
    assert client.stats().abandoned == 3


def test_close_during_an_outage(broker, proxy_to, station_name):
    proxy = proxy_to("127.0.0.1", broker.port)
    client = memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port)))
    client.produce(station_name, "p", b"x")
    proxy.down()
    time.sleep(0.2)
    start = time.monotonic()
    client.close(timeout_s=0.5)
    assert time.monotonic() - start < 10
    del client
    gc.collect()  # an unclosed socket or a pending task would be reported here


def test_a_delivery_callback_may_block_call_and_close(broker, station_name):
    client = memphis_sync.connect(broker.url)
    producer = client.producer(station_name, "p")
    done = threading.Event()
    seen = []

    def on_delivery(delivery):
        seen.append(delivery.result())
        seen.append(producer.produce(b"from the callback"))
        seen.append(client.ping(5))
        client.close()
        done.set()

    producer.produce(b"x", nonblocking=True, on_delivery=on_delivery)
    assert done.wait(10)
    assert [ack.sequence for ack in seen[:2]] == [1, 2]
    client.close()


def test_a_client_in_the_token_mode_of_a_broker(fresh_broker, station_name):
    own = fresh_broker(token="canary-token")
    with memphis_sync.connect("127.0.0.1", "root", connection_token="canary-token", port=own.port) as client:
        assert client.produce(station_name, "p", b"x").sequence == 1
        assert [m.data for m in client.fetch_messages(station_name, "c")] == [b"x"]
        assert "canary" not in repr(client)
    url = f"memphis://root:canary-token@127.0.0.1:{own.port}?auth=token"
    with memphis_sync.connect(url) as client:
        assert client.ping() < 1
    with pytest.raises(memphis_sync.AuthenticationError):
        memphis_sync.connect("127.0.0.1", "root", password="canary-token", port=own.port)


def test_clients_opened_and_closed_leave_nothing(broker):
    """A notebook cell that is run again and again."""
    threads = threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with memphis_sync.connect(broker.url) as client:
            client.ping()
    gc.collect()
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


def test_inside_a_running_loop(broker, station_name):
    """As in a notebook: the calling thread runs a loop of its own."""
    import asyncio

    async def main():
        with memphis_sync.connect(broker.url) as client:
            client.produce(station_name, "p", b"x")
            return client.fetch_messages(station_name, "c", timeout_s=5)

    assert [m.data for m in asyncio.run(main())] == [b"x"]
