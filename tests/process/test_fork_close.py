"""A child has a copy of each socket, so what its parent ends must be ended for the broker too, and at once."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from programs import LIMIT_S, Program

PRELUDE = """
import faulthandler, os, sys, threading, time, warnings
from pathlib import Path
faulthandler.enable()
warnings.simplefilter("ignore", DeprecationWarning)
import memphis_sync
def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.02)
def fork_a_child_that_stays():
    if os.fork() == 0:
        wait_for("end")
        os._exit(0)
"""

CLOSE = """
client = memphis_sync.connect(sys.argv[1])
client.produce(sys.argv[2], "p", b"x")
fork_a_child_that_stays()
client.close()
Path("closed").touch()
wait_for("end")
"""

LOSE = """
back = threading.Event()
client = memphis_sync.connect(sys.argv[1], on_reconnect=lambda _: back.set())
client.produce(sys.argv[2], "p", b"x")
fork_a_child_that_stays()
Path("ready").touch()
wait_for("cut")
client.produce(sys.argv[2], "p", b"y", ack_wait_sec=60)
client.station(sys.argv[2] + "-2")  # goes over the control connection, the other one
Path("closed").touch()
wait_for("end")
"""

FAIL = """
def connect():
    try:
        memphis_sync.connect(sys.argv[1], timeout_ms=2000)
    except memphis_sync.ConnectError:
        Path("closed").touch()
thread = threading.Thread(target=connect)
thread.start()
wait_for("ready")
fork_a_child_that_stays()
thread.join()
wait_for("end")
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program whose children stay until the test is over."""
    programs = []

    def start(script, *args):
        programs.append(Program(["-c", PRELUDE + script, *args], tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        (tmp_path / "end").touch()
        try:
            program.done(LIMIT_S)
        finally:
            program.close()


def has_ended(pair):
    return pair.near.fileno() == -1


def test_the_broker_sees_close_while_children_live(start, broker, proxy_to, station_name, tmp_path):
    proxy = proxy_to(broker.host, broker.port)
    program = start(CLOSE, f"memphis://root:memphis@127.0.0.1:{proxy.port}", station_name)
    program.until((tmp_path / "closed").exists)
    program.until(lambda: len(proxy.pairs) == 2 and all(map(has_ended, proxy.pairs)))


def test_the_broker_sees_the_end_of_a_lost_connection_while_children_live(
    start, broker, proxy_to, station_name, tmp_path
):
    proxy = proxy_to(broker.host, broker.port)
    program = start(LOSE, f"memphis://root:memphis@127.0.0.1:{proxy.port}", station_name)
    program.until((tmp_path / "ready").exists)
    old = list(proxy.pairs)
    proxy.half_close()
    (tmp_path / "cut").touch()
    program.until((tmp_path / "closed").exists)
    assert len(old) == 2
    program.until(lambda: all(map(has_ended, old)))


def test_a_peer_sees_the_end_of_a_failed_connect_while_children_live(start, tmp_path):
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        program = start(FAIL, f"memphis://root:memphis@127.0.0.1:{listener.getsockname()[1]}")
        peer, _ = listener.accept()

        def read() -> None:
            with contextlib.suppress(OSError):
                while peer.recv(4096):
                    pass
            ended.set()

        with peer:
            peer.settimeout(2 * LIMIT_S)
            reader = threading.Thread(target=read, name="test-peer")
            reader.start()
            (tmp_path / "ready").touch()
            program.until(ended.is_set)
            program.until((tmp_path / "closed").exists)
            reader.join()
