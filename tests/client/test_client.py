"""Stations, producers and consumers of the public client, against a real broker."""

from __future__ import annotations

import json
import time

import pytest

import memphis_sync
from memphis_sync import (
    ClosedError,
    ConfigurationError,
    Retention,
    ServerError,
    StationNotFoundError,
    Storage,
)
from memphis_sync._protocol import subjects

# ---- stations
# ----------------------------------------------------------------------------------------------------------


def test_all_options_reach_the_broker(memphis, station_name, control):
    station = memphis.station(
        station_name.upper(),
        Retention.MESSAGES,
        77,
        Storage.MEMORY,
        idempotency_window_ms=5000,
        partitions_number=3,
    )
    assert station.name == station_name
    for partition in (1, 2, 3):
        config = control.jetstream(f"STREAM.INFO.{station_name}${partition}")["config"]
        assert (config["max_msgs"], config["storage"], config["duplicate_window"]) == (77, "memory", 5_000_000_000)


def test_creating_it_again_is_fine_and_changes_nothing(memphis, station_name, control):
    memphis.station(station_name, partitions_number=2)
    memphis.station(station_name, partitions_number=5)
    assert control.stream(f"{station_name}$2")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$3")


def test_dotted_names(memphis, station_name, read_all):
    name = f"{station_name}.eu"
    with memphis.station(name) as station:
        assert (station.name, station.internal_name) == (name, f"{station_name}#eu")
    producer = memphis.producer(name, "p.q")
    ack = producer.produce(b"x")
    assert (ack.station, ack.stream) == (name, f"{station_name}#eu$1")
    (message,) = read_all(memphis.consumer(name, "c.d"), 1)
    assert (message.station, message.partition, message.sequence) == (name, 1, 1)


def test_destroy_is_idempotent_and_forgets_only_its_own(memphis, station_name, control):
    for name in (station_name, f"{station_name}b"):
        memphis.produce(name, "p", b"x")
    station = memphis.station(station_name)
    station.destroy()
    station.destroy()
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")
    assert [p.stations for p in memphis._producers.values()] == [(f"{station_name}b",)]
    assert memphis.produce(station_name, "p", b"again").sequence == 1, "made anew by the next produce"


def test_a_station_is_destroyed_by_its_name_alone(memphis, station_name, control):
    memphis.produce(station_name, "p", b"x")
    memphis.destroy_station(station_name.upper())
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")
    assert not memphis._producers.values()
    memphis.destroy_station(station_name)  # not there: fine
    memphis.destroy_station("never-there")
    with pytest.raises(ConfigurationError, match="no/name"):
        memphis.destroy_station("no/name")
    with pytest.raises(ConfigurationError, match="timeout_retries"):
        memphis.destroy_station(station_name, timeout_retries=-1)


def test_a_station_that_somebody_else_destroyed_is_made_anew(broker, memphis, station_name, monkeypatch):
    monkeypatch.setattr(memphis._session, "_forget_station", lambda: None)  # as if the broker announced nothing
    memphis.produce(station_name, "p", b"x")
    memphis.fetch_messages(station_name, "c")
    with memphis_sync.connect(broker.url) as other:
        other.station(station_name).destroy()
    with pytest.raises(StationNotFoundError):
        memphis.produce(station_name, "p", b"y")
    with pytest.raises(StationNotFoundError):
        memphis.fetch_messages(station_name, "c", timeout_s=2)
    assert memphis.produce(station_name, "p", b"z").sequence == 1
    assert [m.data for m in memphis.fetch_messages(station_name, "c", timeout_s=2)] == [b"z"]


def test_a_schema_that_does_not_exist_is_no_silent_success(memphis, station_name):
    with pytest.raises(ServerError, match="schema"):
        memphis.station(station_name, schema_name="no-such-schema")


def test_an_unknown_user_is_no_silent_success(broker, station_name, monkeypatch):
    with memphis_sync.connect(broker.url) as client:
        monkeypatch.setitem(client._session.requests._own, "username", "nobody")
        with pytest.raises(ServerError, match="nobody"):
            client.station(station_name)
        with pytest.raises(ServerError, match="nobody"):
            client.producer(station_name, "p")


def test_two_hundred_stations_from_eight_threads(memphis, station_name, in_threads, control):
    def make(number):
        for index in range(25):
            memphis.station(f"{station_name}-{number}-{index}", storage_type=Storage.MEMORY)

    in_threads(8, make)
    for number in range(8):
        for index in range(25):
            assert control.stream(f"{station_name}-{number}-{index}$1")


# ---- producers
# ---------------------------------------------------------------------------------------------------------


def test_twenty_at_once_create_one_station(memphis, station_name, in_threads, read_all, control):
    def produce(number):
        if number % 4 == 3:
            return memphis.consumer(station_name, "group")
        return memphis.producer(station_name, f"p{number}").produce(b"%d" % number)

    in_threads(20, produce)
    assert control.jetstream(f"STREAM.INFO.{station_name}$1")["state"]["messages"] == 15
    assert len(read_all(memphis.consumer(station_name, "group"), 15)) == 15


def test_several_stations_are_requested_at_once_and_each_once(memphis, station_name):
    names = [f"{station_name}-{n}" for n in range(6)]
    producer = memphis.producer([*names, names[0].upper()], "p")
    assert producer.stations == tuple(names)
    acks = producer.produce(b"x")
    assert sorted(acks) == names
    assert all(ack.sequence == 1 for ack in acks.values())


def test_one_bad_station_of_several_takes_the_others_back(memphis, station_name, control):
    with pytest.raises(ConfigurationError, match="station_name is 'a b'"):
        memphis.producer([station_name, "a b"], "p")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")


def test_produce_makes_one_producer_for_many_threads(memphis, station_name, in_threads):
    made = []
    original = memphis.producer

    def producer(*args, **given):
        made.append(args)
        return original(*args, **given)

    memphis.producer = producer
    in_threads(20, lambda n: memphis.produce(station_name, "p", b"%d" % n))
    assert len(made) == 1
    memphis.produce(station_name, "p", b"x", idempotent=False)
    memphis.produce(station_name.upper(), "P", b"x")
    assert len(made) == 2, "another option makes another producer, another spelling does not"


def test_a_destroyed_producer_is_not_handed_out_again(memphis, station_name):
    memphis.produce(station_name, "p", b"x")
    (producer,) = memphis._producers.values()
    producer.destroy()
    assert memphis.produce(station_name, "p", b"y").sequence == 2
    with pytest.raises(ClosedError):
        producer.produce(b"z")


def test_of_two_producers_of_a_name_one_survives_the_other(memphis, station_name):
    first, second = (memphis.producer(station_name, "twin") for _ in range(2))
    first.destroy()
    assert second.produce(b"x").sequence == 1
    second.destroy()
    assert memphis._session.requests._producers == {}


def test_a_random_suffix(memphis, station_name):
    first, second = (memphis.producer(station_name, "p", generate_random_suffix=True) for _ in range(2))
    assert first.name != second.name
    assert first.name.startswith("p_")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.producer([], "p"), "station_name is an empty list"),
        (lambda c: c.producer("s", ""), "producer_name is '': Producer name can not be empty"),
        (lambda c: c.producer("s", "p", timeout_retries=-1), "timeout_retries is -1"),
        (lambda c: c.producer("s", "p", idempotent=1), "idempotent is 1; it must be True or False"),
        (lambda c: c.consumer("s", "c", batch_size=0), "batch_size is 0; it must be a whole number from 1 to 5000"),
        (lambda c: c.consumer("s", "c", batch_size=5001), "batch_size is 5001"),
        (lambda c: c.consumer("s", "c", pull_interval_ms=-1), "pull_interval_ms is -1"),
        (lambda c: c.station("s", partitions_number=-1), "partitions_number is -1"),
        (lambda c: c.station("a b"), "name is 'a b': Only alphanumeric"),
        (lambda c: c.create_schema("s", "xml", __file__), "schema_type is 'xml'; it must be one of json, graphql"),
        (lambda c: c.create_schema("s", "json", "/nowhere"), "schema_path is '/nowhere', which cannot be read"),
        (lambda c: c.enforce_schema("", "s"), "name is '': Schema name can not be empty"),
        (lambda c: c.detach_schema(""), "station_name is '': Station name can not be empty"),
        (lambda c: c.close(timeout_s=-1), "timeout_s is -1; it must be a number of seconds from 0"),
    ],
)
def test_bad_arguments_are_refused_before_any_io(broker, call, words):
    """The link is closed first: whatever needs it would say so."""
    with memphis_sync.connect(broker.url) as client:
        client._session.loop.call(client._session.control.close, 5)
        with pytest.raises(ConfigurationError) as caught:
            call(client)
        assert words in str(caught.value)


# ---- consumers
# ---------------------------------------------------------------------------------------------------------


def test_fetch_messages_keeps_one_consumer_for_each_set_of_options(memphis, station_name):
    for number in range(4):
        memphis.produce(station_name, "p", b"%d" % number)
    first = memphis.fetch_messages(station_name, "c", batch_size=1)
    second = memphis.fetch_messages(station_name, "c", batch_size=3)
    assert [m.data for m in first + second] == [b"0", b"1", b"2", b"3"]
    assert len(memphis._consumers.values()) == 1
    assert len(memphis.fetch_messages(station_name, "c", consumer_group="other", batch_size=10)) == 4
    assert len(memphis._consumers.values()) == 2


def test_groups_are_independent_and_members_share(memphis, station_name, read_all):
    producer = memphis.producer(station_name, "p")
    for number in range(40):
        producer.produce(b"%d" % number)
    assert len(read_all(memphis.consumer(station_name, "a", "g1"), 40)) == 40
    one, two = memphis.consumer(station_name, "a", "g2"), memphis.consumer(station_name, "b", "g2")
    got = [m.data for m in one.fetch(15) + two.fetch(100)]
    assert sorted(map(int, got)) == list(range(40))


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 10), ({"start_consume_from_sequence": 8}, 3), ({"last_messages": 4}, 4), ({"last_messages": 0}, 0)],
)
def test_where_a_group_starts(memphis, station_name, partitions, given, expected):
    memphis.station(station_name, partitions_number=partitions)
    producer = memphis.producer(station_name, "p")
    for number in range(10):
        for partition in range(1, partitions + 1):
            producer.produce(b"%d" % number, producer_partition_number=partition)
    consumer = memphis.consumer(station_name, "c", **given)
    found = []
    while batch := consumer.fetch(100, timeout_s=0.3):
        found += batch
    assert len(found) == expected * partitions


def test_one_partition_by_number_and_key(memphis, station_name):
    memphis.station(station_name, partitions_number=3)
    producer = memphis.producer(station_name, "p")
    for partition in (1, 2, 3):
        producer.produce(b"%d" % partition, producer_partition_number=partition)
    producer.produce(b"keyed", producer_partition_key="a")
    consumer = memphis.consumer(station_name, "c")
    assert [m.data for m in consumer.fetch(10, consumer_partition_number=3)] == [b"3"]
    assert [m.data for m in consumer.fetch(10, consumer_partition_key="a")] == [b"1", b"keyed"]
    assert [m.data for m in consumer.fetch(10)] == [b"2"]
    for number in (4, 99):
        with pytest.raises(ConfigurationError, match=str(number)):
            consumer.fetch(consumer_partition_number=number)
    with pytest.raises(ConfigurationError, match="both partition number and partition key"):
        consumer.fetch(consumer_partition_number=1, consumer_partition_key="a")
    with pytest.raises(ConfigurationError, match="consumer_partition_key is of type int"):
        consumer.fetch(consumer_partition_key=7)
    for size in (0, 5001, 1.0):
        with pytest.raises(ConfigurationError, match=f"batch_size is {size}"):
            consumer.fetch(size)


def test_a_message_in_any_partition_is_found_at_once(memphis, station_name):
    """The official clients look at one partition a fetch and wait it out."""
    memphis.station(station_name, partitions_number=5)
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c", batch_max_time_to_wait_ms=5000)
    start = time.monotonic()
    for partition in (4, 2, 5, 1, 3):
        producer.produce(b"x", producer_partition_number=partition)
        assert len(consumer.fetch(10)) == 1
    assert time.monotonic() - start < 5


@pytest.mark.timing
def test_how_long_an_empty_fetch_waits(memphis, station_name):
    consumer = memphis.consumer(station_name, "c", batch_max_time_to_wait_ms=400)
    for given, seconds in (({}, 0.4), ({"timeout_s": 0.2}, 0.2), ({"timeout_s": 0}, 0.0)):
        start = time.monotonic()
        assert consumer.fetch(**given) == []
        assert seconds - 0.05 <= time.monotonic() - start < seconds + 3


def test_fetching_from_what_was_destroyed(memphis, station_name):
    consumer = memphis.consumer(station_name, "c")
    memphis.station(station_name).destroy()
    with pytest.raises(StationNotFoundError):
        consumer.fetch(timeout_s=2)


def test_a_destroyed_consumer_takes_no_calls(memphis, station_name, control):
    consumer = memphis.consumer(station_name, "c")
    consumer.destroy()
    consumer.destroy()
    assert "error" in control.jetstream(f"CONSUMER.INFO.{station_name}$1.c")
    for call in (consumer.fetch, lambda: consumer.consume(print), lambda: next(iter(consumer))):
        with pytest.raises(ClosedError, match="can no longer be used"):
            call()
    assert "destroyed" in repr(consumer)


def test_leaving_the_block_keeps_the_group(memphis, station_name):
    memphis.produce(station_name, "p", b"1")
    memphis.produce(station_name, "p", b"2")
    with memphis.consumer(station_name, "c") as consumer:
        consumer.fetch(1)[0].ack()
    again = memphis.consumer(station_name, "c")
    assert [m.data for m in again.fetch()] == [b"2"], "the position is kept"


# ---- updates
# -----------------------------------------------------------------------------------------------------------


def test_schema_updates_are_followed_and_a_bad_one_is_survived(memphis, station_name, until, caplog, control):
    producer = memphis.producer(station_name, "p")
    (view,) = producer._views
    assert view.live.schema is None
    subject = subjects.schema_updates(station_name)
    version = {"version_number": 3, "descriptor": "", "schema_content": "{}", "message_struct_name": ""}
    init = {"UpdateType": 1, "init": {"schema_name": "s", "type": "json", "active_version": version}}
    odd = (b'{"UpdateType": 1, "init": 5}', b'{"UpdateType": 1, "init": {"schema_name": 5}}')
    for bad in (b"", b"no json", b"[]", b'{"UpdateType": 7}', b"\xff", *odd):
        control.tell(subject, bad)
    control.tell(subject, json.dumps(init).encode())
    schema = until(lambda: view.live.schema)
    assert (schema.name, schema.type, schema.version, schema.content) == ("s", "json", 3, "{}")
    until(lambda: caplog.text.count("could not be used") == 7)
    control.tell(subject, json.dumps({"UpdateType": 2, "init": {}}).encode())
    until(lambda: view.live.schema is None)


def test_removal_of_a_station_empties_the_caches(memphis, station_name, until, control):
    memphis.produce(station_name, "p", b"x")
    memphis.fetch_messages(station_name, "c")
    for bad in (b"{}", b"null"):
        control.tell(subjects.CLIENT_UPDATES, bad)
    update = {"station_name": f"{station_name}x", "type": "remove_station", "update": None}
    control.tell(subjects.CLIENT_UPDATES, json.dumps(update).encode())
    update["station_name"] = station_name
    assert memphis._producers.values()
    control.tell(subjects.CLIENT_UPDATES, json.dumps(update).encode())
    until(lambda: not memphis._producers.values() and not memphis._consumers.values())


def test_switches_are_followed(memphis, station_name, until, control):
    producer = memphis.producer(station_name, "p")
    (view,) = producer._views
    assert view.live.schemaverse_to_dls is True
    for kind, station in (("schemaverse_to_dls", station_name), ("send_notification", "")):
        body = {"station_name": station, "type": kind, "update": kind == "send_notification"}
        control.tell(subjects.CLIENT_UPDATES, json.dumps(body).encode())
    until(lambda: memphis._session.stations.send_notification and not view.live.schemaverse_to_dls)


def test_functions_are_followed(memphis, station_name, until, control):
    producer = memphis.producer(station_name, "p")
    (view,) = producer._views
    assert view.functions == {}

    control.tell(subjects.functions_updates(station_name), b'{"functions": {"1": 17}}')
    until(lambda: view.functions == {1: 17})
    control.tell(subjects.functions_updates(station_name), b'{"functions": {}}')
    until(lambda: view.functions == {})


def test_subscriptions_end_with_the_last_producer(memphis, station_name):
    producers = [memphis.producer(station_name, f"p{n}") for n in range(3)]
    registry = memphis._session.stations
    assert registry._entries[station_name].references == 3
    for producer in producers:
        producer.destroy()
    assert station_name not in registry._entries


def test_a_nats_server_without_a_memphis_broker_behind_it(memphis):
    """The same answer that every control subject gives there: no responders."""
    session = memphis._session
    with pytest.raises(ServerError, match="no Memphis broker behind it") as caught:
        session.call(lambda: session.control.request("nobody.listens.here", b"", 5), 5, "request")
    assert caught.value.code == 503


def test_a_consumer_that_may_not_create_its_station_names_it(memphis, station_name):
    for _ in range(2):  # the first call has created nothing
        with pytest.raises(memphis_sync.StationNotFoundError, match=f"there is no station '{station_name}'"):
            memphis.consumer(station_name, "c", create_station=False)
    memphis.station(station_name)
    assert memphis.consumer(station_name, "c", create_station=False).station_name == station_name


@pytest.mark.parametrize(
    ("station", "producer"),
    [("a b", "p"), ([], "p"), (["a", 7], "p"), ({}, "p"), (7, "p"), ("a", "-p"), ("a", []), ("a", None), (["a"], {})],
)
def test_produce_refuses_a_wrong_name_each_time(memphis, station, producer):
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"^(station|producer)_name is "):
            memphis.produce(station, producer, b"x")
    assert not memphis._producers


def test_names_in_any_case_share_one_producer(memphis, station_name):
    for station in (station_name, station_name.upper(), [station_name], (station_name.title(),)):
        memphis.produce(station, "P1", b"x")
    assert len(memphis._producers) == 1
