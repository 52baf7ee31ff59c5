"""The outbox in a file: the next program sends what a killed one had accepted, with its ids, before anything new."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import Program, read_back

import memphis_sync

# Waits until its connection is gone, then produces; what it prints was accepted.
OFFLINE = """
import os, sys, time
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=os.environ["TEST_OUTBOX"], exit_timeout_s=0.2)
producer = client.producer(os.environ["TEST_STATION"], "shop")
print("ready", flush=True)
while client.is_connected():
    time.sleep(0.01)
deliveries = [producer.produce(b"%d" % n, nonblocking=True) for n in range(int(os.environ["TEST_COUNT"]))]
print("accepted", flush=True)
exec(os.environ.get("TEST_THEN", "time.sleep(600)"))
"""

# As fast as it can; the number that was last accepted is always the last line of a file.
BUSY = """
import os, sys
import memphis_sync
with memphis_sync.connect(os.environ["TEST_URL"], outbox=os.environ["TEST_OUTBOX"], wait_s=60) as client:
    producer = client.producer(os.environ["TEST_STATION"], "shop", block_on_full_s=60)
    accepted = os.open(os.environ["TEST_ACCEPTED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        producer.produce("%s %d" % (os.environ["TEST_RUN"], number), nonblocking=True)
        os.write(accepted, b"%d\\n" % number)
        number += 1
"""


class Offline(NamedTuple):
    """A program that has lost its connection and has accepted messages that nobody has."""

    child: object
    path: str
    station: str


@pytest.fixture
def offline(start_python, proxy_to, broker, memphis, station_name, tmp_path):
    """``offline(count, then)`` gives such a program; *then* is what it does next, by default to wait to be killed."""

    def start(count=20, then="time.sleep(600)", name="outbox", **env):
        memphis.station(station_name)
        proxy = proxy_to("127.0.0.1", broker.port)
        path = str(tmp_path / name)
        url = broker.url.replace(str(broker.port), str(proxy.port))
        env = {
            "TEST_URL": url,
            "TEST_OUTBOX": path,
            "TEST_STATION": station_name,
            "TEST_COUNT": str(count),
            "TEST_THEN": then,
            **env,
        }
        child = start_python("-c", OFFLINE, env=env)
        assert child.line() == b"ready\n"
        proxy.down()
        assert child.line() == b"accepted\n"
        return Offline(child, path, station_name)

    return start


def kill(child) -> None:
    child.process.kill()
    child.process.wait()


def payloads(memphis, station_name) -> list[bytes]:
    return [message.data for message in read_back(memphis, station_name)]


def test_the_next_connect_sends_what_a_killed_program_had_accepted(offline, broker, memphis, caplog):
    program = offline(20)
    kill(program.child)
    with memphis_sync.connect(broker.url, outbox=program.path) as client:
        assert client.stats().recovered == 20
        ack = client.produce(program.station, "shop", b"new")  # blocking, but not before what was recovered
        assert ack.sequence == 21
        stats = client.stats()
        assert (stats.accepted, stats.delivered, stats.recovered_uncertain) == (21, 21, 0)
    assert payloads(memphis, program.station) == [*(b"%d" % n for n in range(20)), b"new"]
    said = [record.getMessage() for record in caplog.records if "of an earlier process" in record.getMessage()]
    assert len(said) == 1
    assert f"outbox {program.path!r} holds 20 messages" in said[0]
    with memphis_sync.connect(broker.url, outbox=program.path) as client:  # empty, and usable again
        assert client.stats().recovered == 0


def test_messages_keep_their_ids(offline, broker, memphis):
    """Sent twice by two processes that had the same file, they are stored once."""
    program = offline(5)
    kill(program.child)
    copy = Path(f"{program.path}-copy")
    copy.write_bytes(Path(program.path).read_bytes())
    for path in (program.path, copy):
        with memphis_sync.connect(broker.url, outbox=path) as client:
            assert client.flush(30) == 0
            assert client.stats().recovered == client.stats().delivered == 5
    assert payloads(memphis, program.station) == [b"%d" % n for n in range(5)]


def test_a_process_that_ends_leaves_what_it_could_not_send(offline, broker, memphis):
    program = offline(7, then="sys.exit(0)")
    assert program.child.wait(60) == 0
    told = f"7 messages were not confirmed at the end of the process; 7 remain in {program.path!r} and are sent at"
    assert told in program.child.stderr.decode()
    with memphis_sync.connect(broker.url, outbox=program.path) as client:
        assert client.flush(30) == 0
    assert payloads(memphis, program.station) == [b"%d" % n for n in range(7)]


def test_a_close_that_gives_up_leaves_them_as_well_and_says_so(offline, broker, memphis):
    then = "client.close(0.1); print(deliveries[0].exception(), flush=True)"
    program = offline(3, then=then)
    told = program.child.line().decode()
    assert told.rstrip().endswith(f"it remains in {program.path!r} and is sent at the next connect with it")
    assert program.child.wait(60) == 0
    assert f"3 remain in {program.path!r}" in program.child.stderr.decode()
    with memphis_sync.connect(broker.url, outbox=program.path) as client:
        assert client.stats().recovered == 3


NO_ROOM = """
import os, resource
import memphis_sync
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    memphis_sync.connect(os.environ["TEST_URL"], outbox=os.environ["TEST_OUTBOX"])
except memphis_sync.ConfigurationError as exc:
    print(exc)
"""


def test_a_full_disk_at_the_next_connect_keeps_what_was_accepted(offline, broker, memphis, run_python):
    """A limit of the process's files stands for a full disk: both end in the same place."""
    program = offline()
    kill(program.child)
    before = Path(program.path).read_bytes()
    told = run_python("-c", NO_ROOM, env={"TEST_URL": broker.url, "TEST_OUTBOX": program.path}, timeout_s=60).stdout
    assert b"bytes on its disk: File too large. Free some" in told
    assert Path(program.path).read_bytes() == before
    assert list(Path(program.path).parent.iterdir()) == [Path(program.path)]
    with memphis_sync.connect(broker.url, outbox=program.path) as client:
        assert client.flush(60) == 0
    assert payloads(memphis, program.station) == [b"%d" % n for n in range(20)]


def test_what_the_program_was_told_about_is_not_sent_again(offline, broker, memphis):
    """Its own deadline has ended them: it may have produced them again by itself."""
    then = (
        "short = producer.produce(b'short', nonblocking=True, ack_wait_sec=0.2)\n"
        "print(type(short.exception()).__name__, flush=True)\ntime.sleep(600)"
    )
    program = offline(2, then=then)
    assert program.child.line() == b"AckTimeoutError\n"
    kill(program.child)
    with memphis_sync.connect(broker.url, outbox=program.path) as client:
        assert client.flush(30) == 0
        assert client.stats().recovered == 2
    assert payloads(memphis, program.station) == [b"0", b"1"]


def test_a_message_of_a_station_that_was_destroyed_meanwhile_fails_once(offline, broker, memphis, caplog):
    program = offline(4)
    kill(program.child)
    memphis.station(program.station).destroy()
    for recovered, failed in ((4, 4), (0, 0)):
        with memphis_sync.connect(broker.url, outbox=program.path) as client:
            assert client.flush(60) == 0
            assert (client.stats().recovered, client.stats().recovered_failed) == (recovered, failed)
    assert any("messages failed and nobody has asked about them" in each.getMessage() for each in caplog.records)


def test_what_may_be_stored_twice_is_counted(start_python, broker, memphis, station_name, tmp_path, caplog):
    """Sent, stored, and the process was killed before it heard of it; the station has forgotten the ids since."""
    station = memphis.station(station_name, idempotency_window_ms=100)
    program = start_python(
        "-c",
        "import os, time, memphis_sync\n"
        "from memphis_sync._data.connection import DataLink\n"
        "DataLink._read_until_lost = lambda self: time.sleep(600)  # deaf: no ack is heard\n"
        "client = memphis_sync.connect(os.environ['TEST_URL'], outbox=os.environ['TEST_OUTBOX'])\n"
        "producer = client.producer(os.environ['TEST_STATION'], 'shop')\n"
        "producer.produce(b'sent', nonblocking=True)\n"
        "print('accepted', flush=True)\ntime.sleep(600)\n",
        env={"TEST_URL": broker.url, "TEST_OUTBOX": str(tmp_path / "outbox"), "TEST_STATION": station_name},
    )
    program.line()
    consumer = station.consumer("first") if hasattr(station, "consumer") else memphis.consumer(station_name, "first")
    assert len(consumer.fetch(1, timeout_s=30)) == 1
    kill(program)
    time.sleep(1.2)  # the clock of a second in which it was accepted, and the window
    with memphis_sync.connect(broker.url, outbox=tmp_path / "outbox") as client:
        assert client.flush(30) == 0
        stats = client.stats()
        assert (stats.recovered, stats.recovered_uncertain) == (1, 1)
    assert "1 of them may be stored twice" in caplog.text
    assert len(payloads(memphis, station_name)) == 2


def test_a_message_whose_producer_is_not_registered_yet_waits_until_it_is_in_the_file(broker, memphis, tmp_path):
    with memphis_sync.connect(broker.url, outbox=tmp_path / "outbox") as client:
        delivery = client.produce("held-in-file", "shop", b"x", nonblocking=True)
        assert client._session._data.core.held_mark() == 1
        assert client._session._data.core.wait_held(1, 0) == 0  # not any more
        assert delivery.result(30).sequence == 1


@pytest.mark.parametrize("fsync", ["second", "produce"])
def test_the_file_is_written_to_the_disk_as_told(broker, memphis, station_name, tmp_path, until, fsync, monkeypatch):
    from memphis_sync._data import outbox_file

    synced = []
    real = outbox_file.sync_file
    monkeypatch.setattr(outbox_file, "sync_file", lambda core: synced.append(1) or real(core))
    with memphis_sync.connect(broker.url, outbox=tmp_path / "outbox", fsync=fsync) as client:
        producer = client.producer(station_name, "shop")
        before = len(synced)
        delivery = producer.produce(b"x", nonblocking=True)
        if fsync == "produce":
            assert len(synced) == before + 1
            producer.produce(b"y", nonblocking=True, headers={"a": "b"})
            assert len(synced) == before + 2
            producer.produce(b"z")  # waits for more than the disk
            assert producer.produce_many([b"1", b"2"]).delivered == 2
            assert len(synced) == before + 2
        else:
            until(lambda: len(synced) > before)
        assert delivery.result(30)


def accepted_numbers(path) -> int:
    """How many messages a run of BUSY has accepted, one more or less."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.large, pytest.mark.timeout(3600)])])
def test_kills_at_any_moment_lose_nothing_and_double_nothing(kills, fresh_broker, tmp_path, monkeypatch):
    broker = fresh_broker(data_dir=tmp_path / "broker")
    with memphis_sync.connect(broker.url) as client:
        client.station("shop", storage_type=memphis_sync.Storage.DISK)
    path, wanted, more = tmp_path / "outbox", Counter(), set()
    for run in range(kills):
        accepted = tmp_path / f"accepted-{run}"
        env = {
            "TEST_URL": broker.url,
            "TEST_OUTBOX": str(path),
            "TEST_STATION": "shop",
            "TEST_RUN": str(run),
            "TEST_ACCEPTED": str(accepted),
        }
        program = Program(["-c", BUSY], tmp_path, env=env)
        try:
            program.until(lambda file=accepted: accepted_numbers(file) > 0)
            time.sleep(random.random() * 0.3)  # any moment
            if run % 4 == 1:
                os.kill(broker.nats_pid, signal.SIGKILL)
                time.sleep(random.random() * 0.1)
        finally:
            program.close()
        count = accepted_numbers(accepted)
        wanted.update(f"{run} {number}" for number in range(count))
        more.add(f"{run} {count}")  # accepted, and killed before it could say so
    with memphis_sync.connect(broker.url, outbox=path, wait_s=60) as client:
        assert client.flush(120) == 0
        stats = client.stats()
        assert stats.recovered_failed == 0
    with memphis_sync.connect(broker.url) as client:
        stored = Counter(message.data.decode() for message in read_back(client, "shop"))
    assert [name for name in wanted if not stored[name]] == []
    assert [name for name, times in stored.items() if times > 1] == []
    assert set(stored) - set(wanted) <= more
    print(f"{kills} kills: {sum(wanted.values())} accepted, {sum(stored.values())} stored")
