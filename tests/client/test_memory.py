"""``memory://``: the real client up to the wire, and a recorder of this process in place of a broker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fix_process import run_python

import memphis_sync
from memphis_sync.memory import Sent, SentMessages, sent as recorded

BIG = 1024 * 1024


@pytest.fixture
def sent() -> SentMessages:
    recorded.clear()
    return recorded


@pytest.fixture
def memory() -> Iterator[memphis_sync.Memphis]:
    with memphis_sync.connect("memory://?name=shop") as client:
        yield client


def test_what_was_produced_is_there_with_all_that_it_was_given(memory: Any, sent: SentMessages) -> None:
    ack = memory.produce(
        "Orders.New", "web", {"id": 7}, headers={"kind": "new"}, msg_id="7", producer_partition_key="é"
    )
    assert ack == memphis_sync.PubAck("orders.new", 1, 1, False, "orders#new$1")
    assert sent == [Sent("orders.new", b'{"id": 7}', {"kind": "new"}, "7", "é")]
    assert sent[0].json() == {"id": 7}


def test_a_look_waits_for_what_was_produced_without_waiting(memory: Any, sent: SentMessages) -> None:
    deliveries = [memory.produce("orders", "web", f"{n}", nonblocking=True) for n in range(500)]
    assert len(sent) == 500
    assert [message.data for message in sent[:2]] == [b"0", b"1"]
    assert all(delivery.done() for delivery in deliveries)


def test_it_waits_in_a_callback_too_and_each_delivery_settles_once(memory: Any, sent: SentMessages) -> None:
    seen: list[Any] = []
    called = threading.Event()

    def on_delivery(delivery: memphis_sync.Delivery) -> None:
        seen.append((delivery.result().sequence, len(sent)))
        called.set()

    memory.produce("orders", "web", b"x", nonblocking=True, on_delivery=on_delivery)
    assert called.wait(60)
    assert seen == [(1, 1)]


def test_partitions_keys_and_several_stations_are_those_of_produce(memory: Any, sent: SentMessages) -> None:
    memory.station("many", partitions_number=3)
    producer = memory.producer(["many", "one"], "web")
    assert {memory.produce("many", "web", b"x").partition for _ in range(3)} == {1, 2, 3}
    assert memory.produce("many", "web", b"x", producer_partition_number=2).stream == "many$2"
    acks = producer.produce(b"both", producer_partition_key="k")
    assert acks["one"].partition == 1
    assert [(message.station, message.partition_key) for message in sent[-2:]] == [("many", "k"), ("one", "k")]
    assert sent[0].partition_key is None


def test_an_id_that_comes_again_is_a_duplicate_until_the_list_is_cleared(memory: Any, sent: SentMessages) -> None:
    assert not memory.produce("orders", "web", b"x", msg_id="7").duplicate
    assert memory.produce("orders", "web", b"x", msg_id="7") == memphis_sync.PubAck("orders", 1, 1, True, "orders$1")
    assert len(sent) == 1
    sent.clear()
    assert not memory.produce("orders", "web", b"x", msg_id="7").duplicate


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"message": 7}, memphis_sync.ConfigurationError),
        ({"message": b"x" * 2 * BIG}, memphis_sync.PayloadTooLargeError),
        ({"message": b"", "headers": {"$memphis_x": "1"}}, memphis_sync.HeaderError),
        ({"message": b"", "producer_partition_number": 2.5}, memphis_sync.ConfigurationError),
        ({"message": b"", "ack_wait_sec": 0}, memphis_sync.ConfigurationError),
    ],
)
def test_a_bad_argument_is_refused_as_with_a_broker(
    memory: Any, sent: SentMessages, arguments: Any, error: Any
) -> None:
    producer = memory.producer("orders", "web")
    with pytest.raises(error):
        producer.produce(**arguments)
    assert not sent


def test_large_messages_and_many_come_whole(memory: Any, sent: SentMessages) -> None:
    large = os.urandom(BIG - 1000)
    result = memory.producer("orders", "web").produce_many([large, *(b"%d\r\n" % n for n in range(5000)), large])
    assert (result.delivered, len(sent)) == (5002, 5002)
    assert sent[0].data == sent[-1].data == large
    assert sent[5000].data == b"4999\r\n"


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.consumer("orders", "reader"),
        lambda client: client.consumer("orders", "reader", last_messages=3),
        lambda client: client.fetch_messages("orders", "reader"),
        lambda client: client.fetch_messages("orders", "reader", until_end=True),
        lambda client: client.create_schema("order", "json", schema_content="{}"),
        lambda client: client.enforce_schema("order", "orders"),
        lambda client: client.detach_schema("orders"),
        lambda client: client.station("orders", schema_name="order"),
        lambda client: client.stations(),
        lambda client: client.station("orders").info(),
        lambda client: client.station("orders").peek(),
        lambda client: client.connections(),
        lambda client: client.schemas(),
        lambda client: client.dls("orders").list(),
    ],
)
def test_what_needs_a_broker_says_which_fixture_gives_one(memory: Any, use: Any) -> None:
    with pytest.raises(memphis_sync.UsageError, match="memphis_broker"):
        use(memory)


def test_the_client_is_one_in_every_other_respect(memory: Any) -> None:
    assert memory.is_connected()
    assert repr(memory) == "<Memphis 'shop' connected memory:// user=memory queued=0 in_flight=0>"
    memory.produce("orders", "web", b"x", nonblocking=True)
    assert memory.flush() == 0
    assert memory.ping() >= 0
    assert memory.stats().delivered == 1
    memory.station("orders", create_station=False).destroy()
    memory.close()
    assert not memory.is_connected()
    with pytest.raises(memphis_sync.ClosedError):
        memory.produce("orders", "web", b"x")


def test_all_clients_of_a_process_fill_one_list_also_after_their_end(sent: SentMessages) -> None:
    for name in ("one", "two"):
        with memphis_sync.connect("memory://", name=name) as client:
            client.produce("orders", name, name, nonblocking=True)
    assert [message.data for message in sent] == [b"one", b"two"]


def test_the_login_of_other_settings_is_checked_and_not_used(sent: SentMessages) -> None:
    with memphis_sync.connect("memory://", username="shop", password="secret", outbox="/nowhere/file") as client:
        client.produce("orders", "web", b"x")
    with pytest.raises(memphis_sync.ConfigurationError, match="username"):
        memphis_sync.connect("memory://", username="a b")
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("memory://host", "names a host"),
        ("memory://user:secret@", "names a host or a user"),
        ("memory:///path", "has a path"),
        ("memory://?namex=web", "did you mean 'name'"),
        ("memory://?auth=token", "has no login"),
        ("memori://", "is not one of memphis, memphis\\+tls, tls, memory"),
    ],
)
def test_a_wrong_url_is_named(url: str, text: str) -> None:
    with pytest.raises(memphis_sync.ConfigurationError, match=text) as caught:
        memphis_sync.connect(url)
    assert "secret" not in str(caught.value)


def test_no_message_shows_its_payload(memory: Any, sent: SentMessages) -> None:
    memory.produce("orders", "web", b"canary", headers={"canary": "canary"}, producer_partition_key="canary")
    assert repr(sent) == "<1 sent messages: [<Sent orders 6 bytes>]>"


FORKED = """
import os, memphis_sync
from memphis_sync.memory import sent

client = memphis_sync.connect("memory://")
client.produce("orders", "web", b"parent", nonblocking=True)
before = len(sent)
pid = os.fork()
if pid == 0:
    open_files = len(os.listdir("/proc/self/fd"))
    client.produce("orders", "web", b"child")
    assert [message.data for message in sent] == [b"parent", b"child"], list(sent)
    sent.clear()
    assert len(sent) == 0
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
client.produce("orders", "web", b"after")
print([message.data for message in sent])
"""


def test_a_forked_child_has_a_list_of_its_own() -> None:
    assert run_python("-W", "ignore", "-c", FORKED, timeout_s=60).stdout == b"[b'parent', b'after']\n"


ENDS = """
import memphis_sync
client = memphis_sync.connect("memory://")
for number in range(1000):
    client.produce("orders", "web", b"x", nonblocking=True)
print(len(__import__("memphis_sync.memory").memory.sent))
"""


def test_a_process_with_a_client_that_is_open_ends_in_order() -> None:
    done = run_python("-c", ENDS, timeout_s=60)
    assert (done.stdout, done.stderr) == (b"1000\n", b"")
