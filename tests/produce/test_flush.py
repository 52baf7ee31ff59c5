"""flush(): what it waits for, and how it tells that messages have failed; failures that nobody asks about."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest

from memphis_sync import BufferFullError, FlushResult, ProduceError


@pytest.mark.slow
@pytest.mark.parametrize("of", ["client", "producer"])
def test_a_flush_ends_although_other_threads_go_on_producing(memphis, station_name, of, until):
    producer = memphis.producer(station_name, "p")
    other = memphis.producer(station_name, "q")
    stop, is_full = threading.Event(), threading.Event()

    def burst(mine):
        while not stop.is_set():
            try:
                mine.produce(b"x" * 100, nonblocking=True)
            except BufferFullError:
                is_full.set()
                stop.wait(0.001)

    threads = [threading.Thread(target=burst, args=(mine,)) for mine in (producer, other)]
    for thread in threads:
        thread.start()
    try:
        is_full.wait(5)
        accepted = memphis.stats().accepted
        assert (memphis if of == "client" else producer).flush(60) == 0
        until(lambda: memphis.stats().accepted > accepted)  # they do go on, after a flush that was soon over too
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert memphis.flush(60) == 0


def test_a_flush_at_its_limit_tells_how_many_it_still_waits_for(through_proxy, station_name):
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"1")
    proxy.stall()
    for _ in range(7):
        producer.produce(b"x", nonblocking=True)
    result = memphis.flush(0.2)
    assert (result, result.failed) == (7, 0)
    assert producer.flush(0) == 7
    proxy.go_on()
    assert memphis.flush(60) == 0


def test_a_flush_tells_what_has_failed_since_the_one_before(through_proxy, station_name):
    memphis, proxy = through_proxy()
    producer, other = memphis.producer(station_name, "p"), memphis.producer(station_name, "q")
    producer.produce(b"1")
    result = memphis.flush()
    assert (result, result.failed, repr(result), str(result)) == (0, 0, "FlushResult(0, failed=0)", "0")
    proxy.down()
    seen = [producer.produce(b"x", 0.2, nonblocking=True) for _ in range(3)]
    other.produce(b"x", 0.2, nonblocking=True)
    with pytest.raises(ProduceError):
        producer.produce(b"x", 0.2)
    assert all(delivery.exception(30) for delivery in seen)
    result = memphis.flush(30)
    assert (result, result.failed) == (0, 5)
    assert repr(result) == str(result) == f"{result}" == "FlushResult(0, failed=5)"
    assert [producer.flush(30).failed, other.flush(30).failed] == [4, 1]
    assert [memphis.flush(30).failed, producer.flush(30).failed, other.flush(30).failed] == [0, 0, 0]
    proxy.up()


def test_a_flush_result_is_a_number_that_can_be_copied():
    result = FlushResult(3, 4)
    assert result + 1 == 4
    assert bool(FlushResult(0, 4)) is False
    for twin in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert (twin, twin.failed, type(twin)) == (3, 4, FlushResult)


SCRIPT = """
import os, sys, time
sys.path.insert(0, "tests/support")
from fix_proxy import Proxy
import memphis_sync
proxy = Proxy(("127.0.0.1", int(os.environ["TEST_PORT"])))
client = memphis_sync.connect(f"memphis://root:memphis@127.0.0.1:{proxy.port}", exit_timeout_s=0.1)
producer = client.producer(os.environ["TEST_STATION"], "p")
producer.produce(b"warm")
proxy.down()
for number in range(1000):
    producer.produce(b"%d" % number, 0.5, nonblocking=True)
deadline = time.monotonic() + 30
while client.stats().failed < 1000 and time.monotonic() < deadline:
    time.sleep(0.01)
for number in range(3):
    producer.produce(b"%d" % number, nonblocking=True)
"""


def test_failures_that_nobody_asked_about_are_seen_without_any_logging(run_python, broker, station_name):
    env = {"TEST_PORT": str(broker.port), "TEST_STATION": station_name}
    done = run_python("-c", SCRIPT, env=env, timeout_s=60)
    text = done.stderr.decode()
    assert "messages failed and nobody has asked about them; the last: not confirmed in time" in text
    assert "3 messages were not confirmed at the end of the process; they may be lost" in text
    assert "; 1000 messages had failed before, and nobody asked about them" in text
    assert "Traceback" not in text


def test_failures_that_somebody_saw_are_not_told_at_the_end(run_python, broker, station_name):
    plain = 'producer.produce(b"%d" % number, 0.5, nonblocking=True)'
    script = SCRIPT.replace(plain, f"seen.append({plain})\n    seen[-1].done()").replace(
        "proxy.down()", "seen = []; proxy.down()"
    )
    script = script.replace("range(3)", "range(0)")
    done = run_python("-c", script, env={"TEST_PORT": str(broker.port), "TEST_STATION": station_name}, timeout_s=60)
    assert done.stderr == b""


def test_a_clean_end_says_nothing(run_python, broker, station_name):
    script = """
import memphis_sync, os
client = memphis_sync.connect(os.environ["TEST_URL"])
client.produce(os.environ["TEST_STATION"], "p", b"1")
"""
    done = run_python("-c", script, env={"TEST_URL": broker.url, "TEST_STATION": station_name})
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_program_that_configured_logging_has_its_failures_in_it(through_proxy, station_name, caplog, until):
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"1")
    proxy.down()
    for _ in range(10):
        producer.produce(b"x", 0.2, nonblocking=True)
    until(lambda: sum(r.args[1] for r in caplog.records if "nobody has asked" in r.msg) == 10)
    proxy.up()
