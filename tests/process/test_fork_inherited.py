"""
A client that was opened before a fork works in the child: what the program has made rebinds by itself, and what cannot
cross says so in words. Each test forks in two ways: through Python, and as a C library does, past Python's own hooks.
"""

from __future__ import annotations

import pytest
from programs import LIMIT_S, Program, check_arrived

PRELUDE = """
import ctypes, faulthandler, os, sys, time, traceback, warnings
faulthandler.enable()
warnings.simplefilter("ignore", DeprecationWarning)
import memphis_sync
from memphis_sync import ForkedError
# PyDLL keeps the GIL over the call: the child's only thread has it. Nothing of Python's own fork hooks runs. What they
# would do for the GIL itself is done here: a thread that is about to ask for it would keep the child waiting for ever.
def fork_in_c():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    time.sleep(0.05)
    try:
        return ctypes.PyDLL(None).fork()
    finally:
        sys.setswitchinterval(interval)
fork = os.fork if sys.argv[1] == "os" else fork_in_c
name = os.environ["TEST_STATION"]
tls = {"ca_file": os.environ["TEST_CA"]} if "TEST_CA" in os.environ else {}
client = memphis_sync.connect(os.environ["TEST_URL"], **tls)
def in_child(run, leave=os._exit):
    pid = fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        leave(code)
    return pid
def ended(*pids):
    for pid in pids:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, code
def refused(call, *words):
    try:
        call()
    except ForkedError as exc:
        assert all(word in str(exc) for word in ("before the process was forked", *words)), exc
    else:
        raise AssertionError(f"no ForkedError: {call}")
"""


@pytest.fixture(params=["os", "c"])
def run(request, tmp_path, broker, station_name):
    """Runs a program behind the prelude with the session's broker and this test's station."""

    def run(script, url=broker.url, **env):
        env = {"TEST_URL": url, "TEST_STATION": station_name, **env}
        program = Program(["-c", PRELUDE + script, request.param], tmp_path, env=env)
        try:
            return program.done(LIMIT_S)
        finally:
            program.close()

    return run


def test_objects_from_before_the_fork_work_in_the_child_on_their_own_connection(run, memphis, station_name):
    run("""
station = client.station(name)
producer = client.producer(name, "p")
both = client.producer([name, name + "-2"], "both")
consumer = client.consumer(name, "c", max_ack_time_ms=600_000)  # so long nothing comes again
client.produce(name, "cached", b"parent 1")
producer.produce(b"parent 2")
fetched = 0
while fetched < 2:  # one call may return with the first alone
    fetched += len(consumer.fetch(10, timeout_s=30))
def run():
    mine = client.connection_id
    assert mine != parents_id
    ticket = producer.produce(b"child 1", nonblocking=True)
    assert ticket.result(60).station == name
    assert producer.produce(b"child 2").sequence
    assert producer.produce(b"child 3", msg_id="an-id", headers={"k": "v"}, ack_wait_sec=60).sequence
    assert client.produce(name, "cached", b"child 4", nonblocking=True).result(60)
    assert both.produce(b"child 5").keys() == {name, name + "-2"}
    assert producer.produce_many([b"child 6", b"child 7"]).delivered == 2
    assert client.stats().delivered == 8, client.stats()
    assert len(producer) == 0 and producer.flush(60) == 0 and client.flush(60) == 0
    assert client.ping(60) and client.is_connected()
    assert client.connection_id == mine
    got = [message.data for message in consumer.fetch(10, timeout_s=30)]
    assert got and not [data for data in got if data.startswith(b"parent")], got
    assert client.dls(name).list() == [] and station.dls.list() == []
    producer.destroy(), consumer.destroy(), client.close()
parents_id = client.connection_id
for _ in range(3):  # one after the other: they read with one group
    ended(in_child(run))
assert client.connection_id == parents_id
assert client.ping(60)
producer.produce(b"parent 3")
client.close()
""")
    wanted = [f"parent {n}" for n in (1, 2, 3)] + [f"child {n}" for n in range(1, 8) if n != 3] * 3 + ["child 3"]
    found = check_arrived(memphis, station_name, wanted)
    assert len({message.connection_id for message in found}) == 4


def test_what_cannot_cross_says_so_in_words_and_reads_all_the_same(run):
    run("""
producer = client.producer(name, "p")
both = client.producer([name, name + "-2"], "both")
consumer = client.consumer(name, "c")
called = []
known = producer.produce(b"one", nonblocking=True)
known.result(60)
(message,) = consumer.fetch(1, timeout_s=30)
iterating = iter(consumer)
producer.produce_many([b"two", b"three"])
pending = both.produce(b"four", nonblocking=True)
pending.add_done_callback(called.append)
next(iterating)
def run():
    assert known.done() and known.station == name and known.message_id
    assert not known.running()
    for each in (client, producer, both, consumer, message, known, pending, iterating, client.dls(name)):
        assert repr(each)
    assert "delivered" in repr(known), repr(known)
    assert "not used" in repr(client), repr(client)
    assert client.stats() == memphis_sync.Stats() and client.flush() == 0
    assert producer.flush() == 0 and len(producer) == 0
    assert not client.is_connected()
    assert message.data == b"one" and message.sequence == 1 and message.station == name and len(message) == 3
    for delivery in (known, pending):
        for call in (delivery.result, delivery.exception):
            refused(call, "outcome")
        refused(lambda: delivery.add_done_callback(called.append), "outcome")
        refused(lambda: memphis_sync.wait([delivery]), "outcome")
        refused(lambda: list(memphis_sync.as_completed([delivery])), "outcome")
        assert delivery.done() in (False, True)
    for call in (
        message.ack, message.nack, lambda: message.delay(1), message.in_progress, lambda: message.ack(wait=True),
        lambda: message.dead_letter("reason"),
    ):
        refused(call, "fetched", "acknowledge")
    refused(lambda: next(iterating), "iteration")
    try:
        with message:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert consumer.dls_messages == [] and consumer.stop_consume()
    client.close()
    assert client.produce(name, "q", b"five").sequence
    assert not called or client.stats().callback_errors == 0
    before = len(called)
    time.sleep(0.2)
    assert len(called) == before, "a callback of the parent's ran"
ended(in_child(run))
message.ack()
assert pending.result(60)
client.close()
""")


def test_a_child_that_uses_nothing_ends_at_once_and_in_silence(run):
    out = run("""
producer = client.producer(name, "p")
consumer = client.consumer(name, "c")
consumer.consume(lambda *_: None)
tickets = [producer.produce(b"x", nonblocking=True) for _ in range(1000)]
def run():
    with client:
        repr(client)
    del globals()["client"], globals()["producer"], globals()["consumer"], globals()["tickets"]
    import gc
    gc.collect()
os.dup2(1, 2)
warnings.simplefilter("always", ResourceWarning)
ended(*[in_child(run, sys.exit) for _ in range(3)])
warnings.simplefilter("ignore")
assert memphis_sync.wait(tickets, 60).not_done == set()
assert client.ping(60)
client.close()
""")
    assert out == ""


def test_a_child_drains_what_it_has_queued_itself_and_nothing_of_its_parents(run, memphis, station_name):
    run("""
producer = client.producer(name, "p")
for n in range(3000):
    producer.produce(b"parent %d" % n, nonblocking=True)
def run():
    for n in range(100):
        producer.produce(b"child %d" % n, nonblocking=True)
pids = [in_child(run, sys.exit) for _ in range(2)]
for n in range(3000, 6000):
    producer.produce(b"parent %d" % n, nonblocking=True)
ended(*pids)
client.close(60)
""")
    check_arrived(memphis, station_name, [f"parent {n}" for n in range(6000)] + [f"child {n}" for n in range(100)] * 2)


def test_a_callback_that_forks_has_a_child_that_runs_no_other_callback(run, memphis, station_name):
    out = run("""
import threading
producer = client.producer(name, "p")
consumer = client.consumer(name, "c")
pids, seen, both = [], [], threading.Event()
def in_two(what):
    seen.append(what)
    if not [pid for each, pid in pids if each == what[0]]:
        pid = os.fork()  # from C, other threads that want the GIL would keep the child waiting for ever
        if pid == 0:
            return
        pids.append((what[0], pid))
    elif pid_of_parent != os.getpid():
        print("the child goes on with", what)
def on_delivery(delivery):
    in_two(("delivery", delivery.result().sequence))
def handler(messages, error, _):
    for message in messages[:1]:
        in_two(("message", message.sequence))
    for message in messages:
        message.ack()
    if len(pids) == 2:
        both.set()
pid_of_parent = os.getpid()
tickets = [producer.produce(b"%d" % n, nonblocking=True, on_delivery=on_delivery) for n in range(50)]
client.flush(60)
consumer.consume(handler)
assert both.wait(60)
for _, pid in pids:
    os.waitpid(pid, 0)
assert pid_of_parent == os.getpid()
client.close(60)
os._exit(0)
""")
    assert out == ""


def test_a_child_has_tls_connections_of_its_own(run, tls_broker, authority, station_name):
    run(
        """
producer = client.producer(name, "p")
consumer = client.consumer(name, "c")
for n in range(100):
    producer.produce(b"parent %d" % n, nonblocking=True)
def run():
    tickets = [producer.produce(b"child %d" % n, nonblocking=True) for n in range(20)]
    producer.produce(b"child")
    assert all(ticket.result(60) for ticket in tickets)
    assert consumer.fetch(5, timeout_s=30)
    client.close(60)
client.flush(60)
ended(in_child(run), in_child(run))
assert client.ping(60)
assert client.station(name)
client.close(60)
read = memphis_sync.connect(os.environ["TEST_URL"], **tls)
got = sorted(message.data for message in read.consumer(name, "all").read_all())
assert got == sorted([b"parent %d" % n for n in range(100)] + [b"child %d" % n for n in (*range(20), *range(20))]
                     + [b"child"] * 2), got
read.close()
""",
        url=tls_broker.url,
        TEST_CA=authority.file,
    )


def test_grandchildren_have_sessions_of_their_own(run, memphis, station_name):
    run("""
producer = client.producer(name, "p")
def generation(left):
    def run():
        assert client.connection_id not in ids, "a session was shared"
        ids.append(client.connection_id)
        producer.produce(b"%d" % left)
        ticket = producer.produce(b"%d too" % left, nonblocking=True)
        if left:
            ended(in_child(generation(left - 1)))
        assert producer.produce(b"%d again" % left).sequence
        ticket.result(60)
        client.close()
    return run
ids = [client.connection_id]
ended(in_child(generation(3)))
assert client.ping(60)
client.close()
""")
    wanted = [f"{n}{more}" for n in range(4) for more in ("", " too", " again")]
    assert len({message.connection_id for message in check_arrived(memphis, station_name, wanted)}) == 4


def test_threads_of_a_child_that_all_notice_at_once_share_one_session(run, memphis, station_name):
    run("""
import threading
producer = client.producer(name, "p")
consumer = client.consumer(name, "c")
def run():
    barrier = threading.Barrier(12)
    failed = []
    def work(number):
        barrier.wait(60)
        try:
            if number % 4 == 3:
                consumer.fetch(1, timeout_s=0)
            else:
                tickets = [producer.produce(b"%d-%d" % (number, n), nonblocking=True) for n in range(20)]
                producer.produce(b"%d-last" % number, nonblocking=number % 4 == 2)
                client.produce(name, "cached", b"%d-cached" % number)
        except BaseException as exc:
            failed.append(exc)
            raise
    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    client.close(60)
ended(in_child(run))
client.close()
""")
    senders = [number for number in range(12) if number % 4 != 3]
    wanted = [f"{number}-{n}" for number in senders for n in (*range(20), "last", "cached")]
    assert len({message.connection_id for message in check_arrived(memphis, station_name, wanted)}) == 1


def test_a_child_that_cannot_connect_says_so_and_tries_again(run, fresh_broker, tmp_path):
    away = fresh_broker()
    run(
        """
from pathlib import Path
producer = client.producer(name, "p", ack_timeout_s=0.5)
consumer = client.consumer(name, "c")
def run():
    while not Path(os.environ["TEST_GONE"]).exists():
        time.sleep(0.02)
    for call in (lambda: client.station("other"), lambda: consumer.fetch(1), lambda: producer.produce_many([b"x"])):
        for _ in range(2):
            try:
                call()
            except memphis_sync.ConnectError as exc:
                assert "refused" in str(exc), exc
            else:
                raise AssertionError("it worked")
    for _ in range(2):
        try:
            producer.produce(b"lost")
        except memphis_sync.ProduceError as exc:
            assert exc.outcome == "not_sent", exc
        else:
            raise AssertionError("it worked")
    assert "not connected" in repr(client), repr(client)
    client.close(0)
pid = in_child(run)
assert sys.stdin.readline() == ""
client.close(0)
for each in os.environ["TEST_PIDS"].split():
    os.kill(int(each), 9)
Path(os.environ["TEST_GONE"]).touch()
ended(pid)
""",
        url=f"{away.url}?timeout_ms=2000",
        TEST_GONE=str(tmp_path / "gone"),
        TEST_PIDS=f"{away.pid} {away.nats_pid}",
    )
