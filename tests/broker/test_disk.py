"""A disk that is full, and a store at its limit: what clients are told, what still works, and what lives again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from control_client import ControlClient
from nats.errors import Error as NatsError, TimeoutError as NatsTimeoutError

import memphis_sync
from memphis_sync.broker import BrokerProcess

pytestmark = pytest.mark.slow

StartBroker = Callable[..., BrokerProcess]
MIB = 1 << 20
SIZE = 48 * MIB


class SmallDisk:
    """
    A folder on a disk of its own, of which little is left.

    Attributes:
        folder: For data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def leave(self, size: int) -> None:
        """Fills the disk up to so many bytes."""
        with self._filler.open("ab") as file:
            while self.free() > size:
                file.write(bytes(min(MIB, max(4096, self.free() - size))))
                file.flush()

    def empty(self) -> None:
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system in memory: a mounted one, or a container's own /dev/shm, which is small."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield SmallDisk(tmp_path)
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
        return
    shared = Path("/dev/shm")
    assert shutil.disk_usage(shared).free <= 256 * MIB, "this test needs the right to mount a small file system"
    folder = shared / f"memphis-sync-{tmp_path.name}"
    folder.mkdir()
    try:
        yield SmallDisk(folder)
    finally:
        shutil.rmtree(folder)


def store(client: ControlClient, subject: str, size: int) -> Optional[str]:
    """Publishes a message; gives the error, None when it was stored, "" when there was no answer."""
    assert client.connection is not None
    try:
        reply = client.run(client.connection.request(subject, bytes(size), timeout=2))
    except NatsTimeoutError:
        return ""
    return None if b'"error"' not in reply.data else reply.data.decode()


def fill(client: ControlClient, subject: str) -> str:
    while True:
        error = store(client, subject, MIB)
        if error is not None:
            return error


def test_a_disk_that_was_full_is_told_and_its_streams_live_again_without_a_restart(
    fresh_broker: StartBroker, small_disk: SmallDisk, until: Callable[..., Any]
) -> None:
    broker = fresh_broker(data_dir=small_disk.folder / "data")
    with ControlClient(broker) as client:
        assert client.station("st") == ""
        assert store(client, "st$1.final", 1000) is None
        small_disk.leave(6 * MIB)  # less than the store's limit: another program's doing
        fill(client, "st$1.final")
        until(lambda: "is full; stations accept no messages until there is space" in broker.output())
        begin = time.monotonic()
        errors = [client.station("large", partitions_number=20), client.consumer("st", "c", consumers_group="g")]
        errors = [error for error in errors if error and not error.startswith("{")]
        assert all("the broker's disk is full" in error for error in errors), errors
        assert time.monotonic() - begin < 60
    pid, first = broker.pid, broker.nats_pid
    small_disk.empty()
    until(lambda: broker.nats_pid not in (0, first), 60)

    def lives() -> bool:
        with ControlClient(broker) as again:
            return store(again, "st$1.final", MIB) is None

    until(lambda: "connected to the NATS server again" in broker.output(), 60)
    until(lives, 60)
    assert broker.pid == pid
    with memphis_sync.connect(broker.url) as memphis:
        memphis.station("after").destroy()
        consumer = memphis.consumer("st", "c", "g")
        assert len(consumer.fetch(1, timeout_s=20)[0].data) == 1000
    assert "restarting nats-server to bring its streams back" in broker.output()


def test_groups_are_joined_and_drained_while_the_store_is_at_its_limit(
    fresh_broker: StartBroker, small_disk: SmallDisk, until: Callable[..., Any]
) -> None:
    broker = fresh_broker(data_dir=small_disk.folder / "data")
    with ControlClient(broker) as client, memphis_sync.connect(broker.url) as memphis:
        memphis.station("st", memphis_sync.Retention.ACK_BASED)
        memphis.station("memory", storage_type=memphis_sync.Storage.MEMORY)
        first = memphis.consumer("st", "c", "g")
        error = fill(client, "st$1.final")
        assert "insufficient resources" in error
        until(lambda: "the broker's store has reached its limit" in broker.output())
        second = memphis.consumer("st", "d", "g")
        with pytest.raises(memphis_sync.MemphisError, match="the broker's store is full: there is no room for the new"):
            memphis.consumer("st", "e", "new")
        with pytest.raises(memphis_sync.MemphisError, match=r"insufficient resources.* store has reached its limit"):
            memphis.create_schema("s", "json", schema_content='{"type": "object"}')
        with pytest.raises(memphis_sync.MemphisError, match="insufficient resources"):
            memphis.produce("st", "p", b"x" * MIB, ack_wait_sec=20)
        assert memphis.produce("memory", "p", b"x").sequence == 1, "what is in memory needs no room on the disk"
        first.destroy()
        drained = 0
        while drained < 10:
            for message in second.fetch(5, timeout_s=20):
                message.ack(wait=True)
                drained += 1
        until(lambda: store(client, "st$1.final", MIB) is None, 60)
        second.destroy()
        with ControlClient(broker) as other:
            assert other.station("room.again") == ""


def test_a_store_with_more_room_than_before_takes_more_without_a_restart(
    fresh_broker: StartBroker, small_disk: SmallDisk, until: Callable[..., Any]
) -> None:
    small_disk.leave(24 * MIB)
    broker = fresh_broker(data_dir=small_disk.folder / "data")
    nats_pid = broker.nats_pid
    with ControlClient(broker) as client:
        assert client.station("st") == ""
        fill(client, "st$1.final")
        small_disk.empty()
        until(lambda: store(client, "st$1.final", MIB) is None, 60)
    assert broker.nats_pid == nats_pid


def test_a_store_that_is_half_full_takes_messages_after_a_restart(
    fresh_broker: StartBroker, small_disk: SmallDisk
) -> None:
    broker = fresh_broker(data_dir=small_disk.folder / "data")
    with ControlClient(broker) as client:
        assert client.station("st") == ""
        for _ in range(22):
            assert store(client, "st$1.final", MIB) is None
    broker.kill()
    broker.start()
    with ControlClient(broker) as client:
        assert store(client, "st$1.final", MIB) is None
        assert client.station("new") == ""


def test_a_server_that_is_killed_while_its_disk_is_full_is_back_when_there_is_room(
    fresh_broker: StartBroker, small_disk: SmallDisk, until: Callable[..., Any]
) -> None:
    broker = fresh_broker(data_dir=small_disk.folder / "data")
    with ControlClient(broker) as client:
        assert client.station("st") == ""
        assert store(client, "st$1.final", 1000) is None
    pid, port = broker.pid, broker.port
    small_disk.leave(0)
    os.kill(broker.nats_pid, signal.SIGKILL)
    until(lambda: "ended with code -9" in broker.output())
    time.sleep(3)  # for whatever it does without room
    small_disk.empty()

    def lives() -> bool:
        try:
            with ControlClient(broker) as again:
                info = again.jetstream("STREAM.INFO.st$1")
                return again.station("st") == "" and store(again, "st$1.final", MIB) is None and "state" in info
        except (OSError, NatsError):
            return False

    until(lives, 60)
    assert (broker.pid, broker.port) == (pid, port)
    assert broker.output().count("ended with code -9; restarting it") == 1


def test_a_server_that_prints_more_than_a_pipe_holds_goes_on(fresh_broker: StartBroker) -> None:
    broker = fresh_broker()
    for _ in range(400):
        with socket.create_connection((broker.host, broker.port), 30) as connection:
            connection.sendall(b'CONNECT {"user": "nobody", "pass": "' + b"x" * 100 + b'"}\r\nPING\r\n')
            while connection.recv(4096):
                pass
    with ControlClient(broker) as client:
        assert client.station("st") == ""
    assert broker.data_dir is not None
    assert (broker.data_dir / "nats-server.log").read_text().count("authentication error") == 400
