"""
Programs whose main thread only runs a handler, and signals from outside: the first ends them after the message at hand,
with nothing in hand, a second one at once.
"""

from __future__ import annotations

import signal

import pytest

PROGRAM = """
import os, signal, sys, time
import memphis_sync

how, names = sys.argv[1], sys.argv[2].split(",")
signals = tuple(getattr(signal, name) for name in names if name)

def pause():
    if sys.stdin.readline() == "":
        time.sleep(60)  # the end comes by a signal

def function(message):
    print(message.data.decode(), flush=True)
    if message.data == b"2":
        if how == "twice":
            os.kill(os.getpid(), signals[0])
            time.sleep(0)
            print("told", flush=True)
        pause()
        print("handled", flush=True)

def callback(messages, error, context):
    for message in messages:
        function(message)
        message.ack()

@memphis_sync.handler(os.environ["TEST_STATION"], group="g")
def on_message(message):
    function(message)

with memphis_sync.connect(os.environ["TEST_URL"]) as client:
    if how in ("run_handler", "twice"):
        print("ran", memphis_sync.run_handler(client, on_message, stop_signals=signals), flush=True)
    else:
        consumer = client.consumer(os.environ["TEST_STATION"], "g", batch_size=1)
        if how == "run":
            print("ran", consumer.run(function, stop_signals=signals), flush=True)
        else:
            consumer.consume(callback)
            print("waited", consumer.wait(stop_signals=signals), flush=True)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print("over", flush=True)
"""


@pytest.fixture
def program(start_python, broker, memphis, station_name):
    """Starts the program on a station with the messages 0 to 9, and waits until it has 2 in hand."""

    def start(how, signals="SIGTERM", messages=range(10), first=""):
        memphis.producer(station_name, "p").produce_many(str(message) for message in messages)
        child = start_python(
            "-c", first + PROGRAM, how, signals, env={"TEST_URL": broker.url, "TEST_STATION": station_name}
        )
        for message in messages[:3]:
            assert child.line() == f"{message}\n".encode()
        return child

    return start


def release(child):
    """Lets the handler go on."""
    child.process.stdin.write(b"go on\n")
    child.process.stdin.flush()


def left(memphis, station):
    return [int(message.data) for message in memphis.consumer(station, "another", "g").read_all()]


@pytest.mark.parametrize("how", ["run_handler", "wait"])
def test_the_message_at_hand_is_finished_and_the_others_go_back(program, memphis, station_name, how):
    child = program(how)
    child.process.send_signal(signal.SIGTERM)
    release(child)
    assert child.line() == b"handled\n"
    assert child.line() == (b"waited True\n" if how == "wait" else b"ran 3\n")
    assert child.line() == b"over\n"
    assert child.wait(60) == 0
    assert left(memphis, station_name) == list(range(3, 10))


def test_a_second_signal_ends_it_at_once(program, memphis, station_name):
    child = program("twice")
    assert child.line() == b"told\n"
    child.process.send_signal(signal.SIGTERM)
    assert child.wait(60) == 128 + signal.SIGTERM
    assert sorted(left(memphis, station_name)) == list(range(2, 10))


@pytest.mark.parametrize("first", ["", "from gevent import monkey; monkey.patch_all()"], ids=["threads", "gevent"])
def test_it_ends_while_it_waits_for_messages(program, memphis, station_name, first):
    child = program("run", "SIGTERM,SIGINT", messages=[0, 1, 3], first=first)
    child.process.send_signal(signal.SIGINT)
    assert child.line() == b"ran 3\n"
    assert child.line() == b"over\n"
    assert child.wait(60) == 0
    assert left(memphis, station_name) == []


def test_without_stop_signals_ctrl_c_gives_the_message_back(program, memphis, station_name):
    child = program("run", "")
    child.process.send_signal(signal.SIGINT)
    assert child.wait(60) == -signal.SIGINT
    assert sorted(left(memphis, station_name)) == list(range(2, 10))
