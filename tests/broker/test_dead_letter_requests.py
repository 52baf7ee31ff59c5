"""Dead letters are listed, sent to their groups again, acknowledged and dropped; copies go to a dead-letter station."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

import pytest
from dead_letter_client import HEADERS, DeadLetterClient

from memphis_sync._protocol.dead_letters import DeadLetterList, DeadLetterListReply, DeadLetterRow
from memphis_sync.broker import BrokerOptions
from memphis_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[DeadLetterClient]:
    with DeadLetterClient(broker) as connected:
        yield connected


def poisoned(
    client: DeadLetterClient, station: str, *, count: int = 1, groups: tuple[str, ...] = ("g",), **settings: Any
) -> list[DeadLetterRow]:
    """A station with dead letters that all of the groups have given up."""
    assert client.station(station, **settings) == ""
    for group in groups:
        assert client.consumer(station, f"c-{group}", consumers_group=group).startswith("{")
    for number in range(count):
        sequence = client.produce(station, b"message %d" % number)
        for group in groups:
            client.nack(station, sequence, group)
    return client.wait_for(station, count, groups=count * len(groups))


# ---- sending again, acknowledging -----------------------------------------------------------------------------------


def test_the_whole_cycle(client: DeadLetterClient, station_name: str) -> None:
    """As recorded with the official SDKs: delivered too often, kept, sent again, acknowledged, gone."""
    station = f"dl.{station_name}"
    assert client.station(station) == ""
    assert client.consumer(station, "g.1", max_ack_time_ms=100, max_msg_deliveries=2).startswith("{")
    headers = {"producedBy": "old", "k": "v", **HEADERS}
    client.produce(station, b"poison", headers=headers)
    client.pull(station, "g.1")
    client.pull(station, "g.1")
    client.knock(station, "g.1")
    (row,) = client.wait_for(station, 1)
    internal = f"dl#{station_name}"
    ((data, resent),) = client.received(f"$memphis_dls_{internal}.g#1", 1, lambda: client.resend(station))
    expected = {"$memphis_producedBy": "$memphis_dls", "$memphis_pm_id": str(row.id), "$memphis_pm_cg_name": "g.1"}
    ours = {name: resent[name] for name in resent if name.startswith("$memphis_sync_")}  # where it lies
    assert (ours["$memphis_sync_partition"], ours["$memphis_sync_sequence"]) == ("1", "1")
    expected = {"$memphis_connectionId": "c-1", "kind": "test", "k": "v", **expected, **ours}
    assert (data, resent) == (b"poison", expected)
    old = client.received(f"$memphis_dls_{internal}_g#1", 1, lambda: client.resend(station, row.id))
    assert old == [(data, resent)]
    client.acknowledge(row.id, "other")
    client.wait_until_idle()
    assert client.letters(station) == [row], "another group's word says nothing about this one; Memphis deletes the row"
    client.acknowledge(row.id, resent["$memphis_pm_cg_name"].upper())
    client.wait_for(station, 0)
    client.acknowledge(row.id, "g.1")
    client.wait_until_idle()


def test_each_group_is_sent_its_own_and_the_last_acknowledgement_ends_it(
    client: DeadLetterClient, station_name: str
) -> None:
    (row,) = poisoned(client, station_name, groups=("a", "b"))
    for group in ("a", "b"):
        subject = f"$memphis_dls_{station_name}.{group}"
        ((_, headers),) = client.received(subject, 1, lambda: client.resend(station_name, row.id))
        assert headers["$memphis_pm_cg_name"] == group
    client.acknowledge(row.id, "a")
    (left,) = client.wait_for(station_name, 1, groups=1)
    assert (left.id, left.groups, left.data) == (row.id, ("b",), row.data)
    client.acknowledge(row.id, "b")
    client.wait_for(station_name, 0)


def test_an_acknowledged_message_that_goes_wrong_again_has_a_new_id(
    client: DeadLetterClient, station_name: str
) -> None:
    (row,) = poisoned(client, station_name)
    client.acknowledge(row.id)
    client.wait_for(station_name, 0)
    client.nack(station_name, 1)
    (again,) = client.wait_for(station_name, 1)
    assert again.id > row.id
    assert (again.sequence, again.data) == (row.sequence, row.data)


def test_what_is_not_sent_again(client: DeadLetterClient, station_name: str) -> None:
    one, two = poisoned(client, station_name, count=2)
    client.schema_failure(station_name)
    schema = client.wait_for(station_name, 3)[-1]
    assert client.resend(station_name, schema.id).count == 0
    assert client.resend(station_name, 2**62).count == 0
    assert client.resend(station_name, two.id, one.id, schema.id, two.id).count == 2
    assert client.resend(station_name).count == 2
    assert len(client.letters(station_name)) == 3


def test_resending_goes_on_page_by_page(client: DeadLetterClient, station_name: str) -> None:
    rows = poisoned(client, station_name, count=120)
    assert [row.id for row in rows] == sorted({row.id for row in rows})
    page = client.resend(station_name)
    assert (page.count, page.after_id) == (100, rows[99].id)


# ---- lists ----------------------------------------------------------------------------------------------------------


def test_pages_by_rows_bytes_type_and_ids(client: DeadLetterClient, station_name: str) -> None:
    rows = poisoned(client, station_name, count=5)
    client.schema_failure(station_name)
    *_, schema = client.wait_for(station_name, 6)
    page = client.page(station_name, limit=2)
    assert (page.rows, page.after_id) == (tuple(rows[:2]), rows[1].id)
    page = client.page(station_name, limit=4, after_id=rows[1].id)
    assert (page.rows, page.after_id) == ((*rows[2:], schema), 0)
    assert client.letters(station_name, type="schema", limit=1) == [schema]
    assert client.letters(station_name, type="Poison") == rows
    assert client.letters(station_name, ids=(rows[3].id, 2**62, rows[1].id)) == [rows[1], rows[3]]
    (bare,) = client.page(station_name, ids=(schema.id,), with_data=False).rows
    assert bare.data is None
    assert bare.size == schema.size


def test_a_reply_never_exceeds_what_a_page_may_have(client: DeadLetterClient, station_name: str) -> None:
    """Payloads of half a megabyte: several pages. One as large as a message may be comes in pieces, complete."""
    assert client.station(station_name) == ""
    assert client.consumer(station_name, "g").startswith("{")
    assert client.connection is not None
    block = len(
        b"NATS/1.0\r\n" + b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in HEADERS.items()) + b"\r\n"
    )
    largest = client.connection.max_payload - block
    for size in (500_000, 500_000, largest):
        client.nack(station_name, client.produce(station_name, b"\xfe" * size))
    client.wait_until_idle()
    first = client.ask(DeadLetterList(station_name, "root", with_data=True, limit=10)).encode()
    assert len(first) < 1_500_000
    assert len(DeadLetterListReply.decode(first).rows) == 1
    rows = client.letters(station_name)
    assert [len(row.data or b"") for row in rows] == [500_000 + block, 500_000 + block, 0]
    assert rows[2].size == client.connection.max_payload
    found = b""
    while len(found) < rows[2].size:
        piece = client.piece(station_name, rows[2].id, len(found))
        assert (piece.total, piece.error) == (rows[2].size, "")
        found += piece.data
    assert found[rows[2].header_bytes :] == b"\xfe" * largest
    resent = client.resend(station_name)
    assert (resent.count, resent.too_large) == (2, (rows[2].id,)), "with the headers of a resend it has no room"


@pytest.mark.parametrize("subject", ["list", "data", "resend", "drop"])
def test_requests_that_cannot_be_served(client: DeadLetterClient, station_name: str, subject: str) -> None:
    def error(**body: Any) -> str:
        reply = json.loads(client.raw(f"$memphis_sync_dls_{subject}", json.dumps(body).encode()))
        return str(reply["error"])

    assert client.station(station_name) == ""
    known = {"station_name": station_name, "username": "root"}
    assert error(station_name="no.such", username="root") == "station no.such does not exist"
    assert error(station_name="a b", username="root").startswith("Only alphanumeric")
    assert error(**{**known, "username": "stranger"}) == "User stranger does not exist"
    assert error(station_name=3).startswith("json: cannot unmarshal number")
    if subject == "data":
        assert error(**known, id=7) == f"station {station_name} has no dead letter 7"
    else:
        assert error(**known, ids=["1"]).startswith("json: cannot unmarshal string")
        assert error(**known, ids=[]) == ""
    if subject in ("list", "drop"):
        assert error(**known, type="functions") == "dead letters are of type poison or schema, not functions"


# ---- dropping, and what goes with its station or group --------------------------------------------------------------


def test_dropping(client: DeadLetterClient, station_name: str) -> None:
    rows = poisoned(client, station_name, count=4)
    client.schema_failure(station_name)
    client.wait_for(station_name, 5)
    assert client.drop(station_name, rows[1].id, 2**62).count == 1
    assert client.drop(station_name, rows[1].id).count == 0
    assert client.drop(station_name, rows[0].id, kind="schema").count == 0
    assert client.drop(station_name, kind="schema").count == 1
    assert client.letters(station_name) == [rows[0], *rows[2:]]
    assert client.drop(station_name).count == 3
    assert client.letters(station_name) == []
    kept = client.jetstream("STREAM.INFO.memphis_dead_letters", {"subjects_filter": f"*.*.{station_name}.>"})
    assert not kept["state"].get("subjects"), "nothing is left of them"


def test_another_stations_ids_are_not_touched(client: DeadLetterClient, station_name: str) -> None:
    (row,) = poisoned(client, station_name)
    assert client.station(f"{station_name}-b") == ""
    assert client.drop(f"{station_name}-b", row.id).count == 0
    assert client.resend(f"{station_name}-b", row.id).count == 0
    assert client.letters(station_name) == [row]


def test_a_destroyed_station_takes_its_dead_letters_with_it(client: DeadLetterClient, station_name: str) -> None:
    (other,) = poisoned(client, f"{station_name}.b")
    (row,) = poisoned(client, station_name)
    assert client.destroy_station(station_name) == ""
    assert client.page(station_name).error == f"station {station_name} does not exist"
    assert client.station(station_name) == ""
    client.acknowledge(row.id)
    client.wait_until_idle()
    assert client.letters(station_name) == []
    assert client.letters(f"{station_name}.b") == [other]


def test_a_group_that_is_gone_is_sent_nothing_and_its_successor_starts_afresh(
    client: DeadLetterClient, station_name: str
) -> None:
    one, two = poisoned(client, station_name, count=2, groups=("a", "b"))
    assert client.destroy_consumer(station_name, "c-a") == ""
    client.wait_until_idle()
    assert [row.groups for row in client.letters(station_name)] == [("b",), ("b",)]
    assert client.consumer(station_name, "c-a", consumers_group="a").startswith("{")
    client.nack(station_name, 2, "a")
    client.wait_for(station_name, 2, groups=3)
    assert client.destroy_consumer(station_name, "c-b") == ""
    client.wait_until_idle()
    rows = client.letters(station_name)
    assert [(row.id, row.groups, row.data) for row in rows] == [(one.id, (), one.data), (two.id, ("a",), two.data)]
    assert client.resend(station_name).count == 1
    assert client.drop(station_name).count == 2


# ---- a station for dead letters -------------------------------------------------------------------------------------


def test_copies_in_a_dead_letter_station(client: DeadLetterClient, station_name: str) -> None:
    """One a message, whatever number of groups; all partitions have some; commands to the first station are off."""
    copies = f"copies.{station_name}"
    assert client.station(copies, partitions_number=3) == ""
    assert client.station(station_name, dls_station=copies) == ""
    for group in ("a", "b"):
        assert client.consumer(station_name, f"c-{group}", consumers_group=group).startswith("{")
    for number in range(30):
        command = {"Nats-Expected-Last-Sequence": str(number), "Nats-Msg-Id": f"id-{number % 30}"}
        sequence = client.produce(station_name, b"%d" % number, headers={**HEADERS, "msg-id": "x", **command})
        client.nack(station_name, sequence, "a")
        client.nack(station_name, sequence, "b")
    client.wait_for(station_name, 30, groups=60)
    client.schema_failure(station_name, "ff")
    client.wait_until_idle()
    internal = f"copies#{station_name}"
    partitions = [client.stored(f"{internal}${partition}") for partition in (1, 2, 3)]
    assert all(partitions), "Memphis never uses the last one"
    found = sorted(message for partition in partitions for message in partition)
    assert [data for data, _ in found] == sorted([b"%d" % number for number in range(30)] + [b"\xff"])
    for data, headers in found:
        kind = "failed_schema" if data == b"\xff" else "unacked"
        assert (headers.pop("station"), headers.pop("type")) == (station_name, kind)
        assert headers.pop("Nats-Msg-Id").startswith("memphis-dead-letter-")
        assert headers == {**HEADERS, **({} if data == b"\xff" else {"msg-id": "x"})}


def test_a_dead_letter_station_that_is_gone_hinders_nothing(client: DeadLetterClient, station_name: str) -> None:
    assert client.station(station_name, dls_station=f"{station_name}-dls") == ""
    assert client.destroy_station(f"{station_name}-dls") == ""
    poisoned(client, station_name)


def test_the_retention_is_an_option(fresh_broker: Callable[..., BrokerProcess], tmp_path: Path) -> None:
    hour_ns = 3600 * 1_000_000_000
    broker = fresh_broker(data_dir=tmp_path)
    with DeadLetterClient(broker) as client:
        rows = poisoned(client, "kept")
        assert 3 * hour_ns <= client.stream("memphis_dead_letters")["max_age"] < 4 * hour_ns
    broker.stop()
    with DeadLetterClient(fresh_broker(data_dir=tmp_path, dls_retention_hours=30)) as client:
        assert 30 * hour_ns <= client.stream("memphis_dead_letters")["max_age"] < 31 * hour_ns
        assert client.letters("kept") == rows


@pytest.mark.parametrize("hours", [0, -1, 721])
def test_a_retention_out_of_its_bounds(hours: int) -> None:
    with pytest.raises(ConfigurationError, match=f"dls_retention_hours is {hours}"):
        BrokerOptions(dls_retention_hours=hours)
