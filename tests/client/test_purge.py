"""Station.purge(): what it removes, what stays, and how groups go on."""

from __future__ import annotations

import pytest
from fix_proxy import AsMemphis

import memphis_sync
from memphis_sync import ConfigurationError, ServerError, StationNotFoundError


@pytest.fixture
def filled(memphis, station_name):
    """A station of three partitions with the messages 0 to 29."""
    station = memphis.station(station_name, partitions_number=3)
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(30))
    return station


def test_nothing_is_left_in_any_partition_and_sequences_go_on(memphis, filled):
    before = {each.number: each.last_sequence for each in filled.info().partitions}
    assert filled.purge() == 30
    info = filled.info()
    assert info.messages == 0
    assert {each.number: each.last_sequence for each in info.partitions} == before
    assert filled.purge() == 0
    ack = memphis.produce(filled.name, "p", b"next")
    assert ack.sequence == before[ack.partition] + 1


def test_groups_go_on_with_the_next_message(memphis, filled):
    ahead, behind = memphis.consumer(filled.name, "ahead"), memphis.consumer(filled.name, "behind", max_ack_time_ms=500)
    for message in ahead.read_all():
        message.ack()
    in_hand = behind.fetch(3)
    assert filled.purge() == 30
    for group in filled.info().groups:
        assert (group.lag, group.unacknowledged) == (0, 0)
    in_hand[0].ack()
    in_hand[1].nack()
    memphis.produce(filled.name, "p", b"next")
    for consumer in (ahead, behind):
        [message] = consumer.fetch(timeout_s=30)
        assert message.data == b"next"
        message.ack()
    assert behind.fetch(timeout_s=1) == [], "what was in hand is not delivered again"


def test_one_partition_alone(filled):
    held = {each.number: each.messages for each in filled.info().partitions}
    assert filled.purge(partition=2) == held[2]
    assert {each.number: each.messages for each in filled.info().partitions} == {**held, 2: 0}
    with pytest.raises(ConfigurationError, match=r"partition is 4; station .* has 1, 2, 3"):
        filled.purge(partition=4)


def test_dead_letters_stay(memphis, filled):
    [message] = memphis.consumer(filled.name, "c").fetch(1, timeout_s=30)
    message.dead_letter("bad")
    filled.purge()
    assert [letter.data for letter in filled.dls] == [message.data]


def test_a_station_that_is_gone_is_an_error(memphis, filled):
    memphis.destroy_station(filled.name)
    with pytest.raises(StationNotFoundError):
        filled.purge()


def test_a_memphis_broker_says_where_it_does_that(broker, filled, request):
    proxy = AsMemphis(("127.0.0.1", broker.port))
    request.addfinalizer(proxy.close)
    with memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port))) as client:
        station = client.station(filled.name, create_station=False)
        with pytest.raises(ServerError, match="in its REST API and its web console only") as caught:
            station.purge()
    assert caught.value.code == 503
    assert filled.info().messages == 30


def test_a_wrong_argument_is_named_before_any_io():
    station = memphis_sync.Station(memphis_sync.Memphis(), "never")
    with pytest.raises(ConfigurationError, match="timeout_s is 0"):
        station.purge(timeout_s=0)
    with pytest.raises(TypeError, match="did you mean 'partition'"):
        station.purge(partitions=1)
