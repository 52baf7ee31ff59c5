"""What the pages show: the figures of the public client, and other people's text as nothing but text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

import pytest
from fetching import fetch_exactly
from fix_console import ATTACK, SHOWN, Page, Visitor
from limited_server import LIMITED, PASSWORD, LimitedServer

import memphis_sync
from memphis_sync import Retention
from memphis_sync.broker import BrokerOptions, BrokerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from control_client import ControlClient

    from memphis_sync import Memphis


def rows(page: Page) -> str:
    """All text, with one blank between what stands apart."""
    return " ".join(page.words)


# ---- figures --------------------------------------------------------------------------------------------------------


def test_a_station_is_shown_as_the_client_sees_it(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.station(
        station_name,
        partitions_number=2,
        retention_type=Retention.MESSAGES,
        retention_value=50_000,
        idempotency_window_ms=60_000,
    )
    memphis.producer(station_name, "till-7").produce_many([f"m{n}" for n in range(1200)])
    consumer = memphis.consumer(station_name, "worker-7", "ship-group", max_ack_time_ms=45_000)
    fetch_exactly(consumer, 7)
    info = memphis.station(station_name, create_station=False).info()
    text = rows(root.get(f"/stations/{station_name}"))
    assert "Messages 1,200" in text
    assert f"{info.bytes / 1024:,.1f} KiB" in text
    (group,) = info.groups
    assert f"ship-group {group.lag:,} {group.unacknowledged} " in text
    assert "1 connected 45 s" in text
    assert "the newest 50,000" in text
    assert "1 min" in text
    assert "none: every payload is accepted" in text
    assert "till-7 producer" in text
    assert "worker-7 consumer ship-group connected root" in text
    listed = rows(root.get("/stations"))
    assert f"{station_name} 1,200" in listed
    connected = rows(root.get("/connections"))
    assert f"worker-7 consumer {station_name} ship-group connected root" in connected
    consumer.stop()


def test_the_overview_adds_up_all_stations(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.produce(station_name, "p", "one")
    page = root.get("/")
    assert "messages/s" in page.text
    assert station_name in page.text
    values = {given["data-value"] for _, given in page.tags if "data-value" in given}
    assert values >= {"rate in", "rate out", "stations", "messages", "bytes", "connections", "producers", "consumers"}
    assert page.all("body")[0]["data-live"] == "/console/live"


def test_looking_creates_no_station(root: Visitor, memphis: Memphis, station_name: str) -> None:
    for path in ("", "/messages", "/messages/1/1", "/dead-letters", "/dead-letters/1"):
        page = root.get(f"/stations/{station_name}{path}")
        assert (page.status, page.title) == (404, "Not found · Memphis console")
    assert station_name not in {each.name for each in memphis.stations()}


# ---- messages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def peeked(root: Visitor, memphis: Memphis, station_name: str) -> Callable[[Any], Page]:
    """``peeked(payload, **query)``: the page of a message with this payload."""

    def look(payload: Any, **query: str) -> Page:
        ack = memphis.produce(station_name, "p", payload)
        return root.get(f"/stations/{station_name}/messages/{ack.partition}/{ack.sequence}", **query)

    return look


def test_looking_at_messages_uses_up_no_delivery(root: Visitor, memphis: Memphis, station_name: str) -> None:
    consumer = memphis.consumer(station_name, "c", "g", max_msg_deliveries=1)
    memphis.producer(station_name, "p").produce_many([f"payload-{n}" for n in range(45)])
    newest = root.get(f"/stations/{station_name}/messages")
    assert "payload-44" in newest.text
    assert "payload-20" not in newest.text
    first = root.get(f"/stations/{station_name}/messages", **{"from": "1"})
    assert "payload-0" in first.text
    following = [given["href"] for _, given in first.tags if "from=21" in given.get("href", "")]
    assert following
    root.get(f"/stations/{station_name}/messages/1/5")
    (group,) = memphis.station(station_name, create_station=False).info().groups
    assert (group.lag, group.unacknowledged) == (45, 0)
    for message in fetch_exactly(consumer, 45):
        message.ack()


def test_a_message_that_is_gone_leads_to_the_next_one(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, retention_type=Retention.MESSAGES, retention_value=2)
    memphis.producer(station_name, "p").produce_many(["one", "two", "three"])
    page = root.follow(root.answer(f"/stations/{station_name}/messages/1/1"))
    assert "There is no message 1 any more; this is the next one." in page.text
    assert page.by_id["payload-text"] == "two"
    assert root.get(f"/stations/{station_name}/messages/1/4").status == 404
    assert root.get(f"/stations/{station_name}/messages/1/0").status == 404


def test_json_keeps_each_of_its_tokens(peeked: Callable[..., Page]) -> None:
    text = b'{"n":12345678901234567890123,"x":1.0,"x":[1e400,-0.0,"\\u00e9",{}]}'
    shown = peeked(text).by_id["payload-text"]
    assert shown.splitlines()[1:3] == ['  "n": 12345678901234567890123,', '  "x": 1.0,']
    assert "".join(shown.split()) == text.decode()
    assert peeked(text, view="text").by_id["payload-text"] == text.decode()


def test_bytes_are_shown_in_hexadecimal(peeked: Callable[..., Page]) -> None:
    shown = peeked(b"\x00\xff<b>\x80" + b"A" * 20).by_id["payload-text"]
    assert shown.splitlines()[0] == "00000000  00 ff 3c 62 3e 80 41 41 41 41 41 41 41 41 41 41  ..<b>.AAAAAAAAAA"
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize("view", ["json", "text", "hex"])
def test_a_payload_is_text_in_every_view(peeked: Callable[..., Page], view: str) -> None:
    page = peeked(json.dumps({ATTACK: ATTACK}, ensure_ascii=False).encode(), view=view)
    assert page.status == 200
    assert not page.all("x-attack")
    assert len(page.all("script")) == 1
    if view != "hex":
        assert "<script>x-attack()</script>" in page.by_id["payload-text"]
        assert "\\u202e" in page.by_id["payload-text"]


def test_a_large_payload_is_cut_and_the_page_says_so(peeked: Callable[..., Page]) -> None:
    page = peeked(b"\xe2\x82\xac" * 1_000_000)
    assert "The first 64.0 KiB of 2.9 MiB are shown." in page.text
    assert len(page.by_id["payload-text"]) < 70_000
    assert peeked(b"").text.count("The payload is empty.") == 1


def test_headers_and_producers_are_text(
    root: Visitor, memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    memphis.station(station_name)
    plain = ATTACK.replace("\x07", "").replace("\u202e", "")
    headers = {"x-attack": plain, "$memphis_producedBy": plain, "$memphis_connectionId": "c"}
    assert b'"seq":1' in control.raw(f"{station_name}$1.final", ATTACK.encode(), headers=headers)
    for path in ("/messages", "/messages/1/1"):
        page = root.get(f"/stations/{station_name}{path}")
        assert page.status == 200
        assert not page.all("x-attack")
        assert len(page.all("script")) == 1
        assert plain in page.text
    assert SHOWN in root.get(f"/stations/{station_name}/messages").text


def test_names_of_headers_are_text(root: Visitor, memphis: Memphis, station_name: str) -> None:
    headers = memphis_sync.Headers()
    headers.add("x-<x-attack>", "v")
    ack = memphis.produce(station_name, "p", "x", headers=headers)
    page = root.get(f"/stations/{station_name}/messages/1/{ack.sequence}")
    assert ("x-<x-attack> v" in rows(page), page.all("x-attack")) == (True, [])


# ---- dead letters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dead(memphis: Memphis, station_name: str) -> Iterator[memphis_sync.Consumer]:
    """A consumer of a station with two dead letters, whose reasons are attacks."""
    consumer = memphis.consumer(station_name, "c", "g")
    memphis.producer(station_name, "p").produce_many([ATTACK, "two"])
    for message in fetch_exactly(consumer, 2):
        message.dead_letter(ATTACK)
    assert len(memphis.dls(station_name).list()) == 2
    yield consumer
    consumer.stop()


def ids_of(page: Page) -> list[str]:
    return [given["value"] for given in page.all("input", name="id", type="checkbox")]


def test_dead_letters_are_listed_and_shown_as_text(
    root: Visitor, dead: memphis_sync.Consumer, station_name: str
) -> None:
    page = root.get(f"/stations/{station_name}/dead-letters")
    assert len(ids_of(page)) == 2
    assert page.text.count(SHOWN) == 2
    assert not page.all("x-attack")
    one = root.get(f"/stations/{station_name}/dead-letters/{ids_of(page)[0]}")
    assert SHOWN in one.text
    assert one.by_id["payload-text"] == SHOWN
    assert not one.all("x-attack")
    assert "Dead letters 2" in rows(root.get(f"/stations/{station_name}"))
    assert ids_of(root.get(f"/stations/{station_name}/dead-letters", type="poison")) == ids_of(page)
    assert ids_of(root.get(f"/stations/{station_name}/dead-letters", type="schema")) == []
    assert root.get(f"/stations/{station_name}/dead-letters", type=ATTACK).status == 400


def test_a_chosen_dead_letter_is_sent_again(root: Visitor, dead: memphis_sync.Consumer, station_name: str) -> None:
    path = f"/stations/{station_name}/dead-letters"
    first, second = ids_of(root.get(path))
    page = root.follow(root.post(path, {"action": "resend", "id": second}))
    assert "1 sent again." in page.note("done")
    assert "1 sent again." not in root.get(path).text  # once
    (message,) = dead.fetch(batch_size=5, timeout_s=30)
    assert (message.data, message.is_dead_letter) == (b"two", True)
    message.ack()
    assert root.follow(root.post(path, {"action": "resend-all"})).note("done")
    (message,) = dead.fetch(batch_size=5, timeout_s=30)
    message.ack()
    assert first


def test_dropping_asks_once_more(
    root: Visitor, dead: memphis_sync.Consumer, memphis: Memphis, station_name: str
) -> None:
    path = f"/stations/{station_name}/dead-letters"
    first, second = ids_of(root.get(path))
    asked = Page(root.post(path, {"action": "drop", "id": first}))
    assert (asked.status, f"Drop dead letter {first}?" in asked.text) == (200, True)
    assert len(memphis.dls(station_name).list()) == 2
    page = root.follow(root.post(path, {"action": "drop", "id": first, "sure": "yes"}))
    assert "1 dropped." in page.note("done")
    assert ids_of(page) == [second]
    assert "Drop all dead letters?" in Page(root.post(path, {"action": "drop-all"})).text
    assert ids_of(root.follow(root.post(path, {"action": "drop-all", "sure": "yes"}))) == []
    assert memphis.dls(station_name).list() == []


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ([("action", "resend")], 303, "No dead letter was chosen"),
        ([("action", "burn"), ("id", "1")], 400, "does not say what to do"),
        ([("action", "drop-some")], 400, "does not say what to do"),
        ([], 400, "does not say what to do"),
        ([("action", "resend"), ("id", ATTACK)], 400, "must be a whole number"),
        ([("action", "resend"), ("id", "9" * 19)], 400, "must be a whole number"),
        ([("action", "drop-all"), ("type", ATTACK), ("sure", "yes")], 400, "type is"),
        ([("action", "resend"), ("id", "4611686018427387904")], 303, "0 sent again."),
    ],
)
def test_a_form_that_makes_no_sense_changes_nothing(
    root: Visitor, dead: memphis_sync.Consumer, memphis: Memphis, station_name: str, fields: Any, status: int, text: str
) -> None:
    answer = root.post(f"/stations/{station_name}/dead-letters", fields)
    assert answer.status == status
    page = root.follow(answer) if status == 303 else Page(answer)
    assert text in page.text
    assert not page.all("x-attack")
    assert len(memphis.dls(station_name).list()) == 2


def test_a_schema_failure_is_shown_with_its_reason_and_cannot_be_sent_again(
    root: Visitor, memphis: Memphis, station_name: str, until: Any
) -> None:
    memphis.station(station_name)
    memphis.create_schema(station_name, "json", schema_content='{"type": "object", "required": ["<b>id</b>"]}')
    memphis.enforce_schema(station_name, station_name)
    with pytest.raises(memphis_sync.SchemaError):
        memphis.produce(station_name, "p", {"x": ATTACK})
    path = f"/stations/{station_name}/dead-letters"
    page = until(lambda: ids_of(found := root.get(path, type="schema")) and found)  # the report goes its own way
    assert "schema failure" in page.text
    assert "<b>id</b>" in page.text
    assert not page.all("b", **{"class": ""})[1:]
    (only,) = ids_of(page)
    assert root.get(f"{path}/{only}").status == 200
    page = root.follow(root.post(path, {"action": "resend", "id": only}))
    assert "0 sent again. The others are schema failures" in page.note("done")


# ---- schemas --------------------------------------------------------------------------------------------------------


def test_schemas_are_attached_activated_and_detached(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    for required in ("a", "b"):
        memphis.create_schema(station_name, "json", schema_content=json.dumps({"required": [required]}))
    page = root.get("/schemas")
    assert f"{station_name} json" in rows(page)
    done = root.follow(root.post("/schemas", {"action": "attach", "schema": station_name, "station": station_name}))
    assert f"Messages of {station_name} must match the schema {station_name} now." in done.note("done")
    memphis.produce(station_name, "p", {"a": 1})
    done = root.follow(root.post("/schemas", {"action": "activate", "schema": station_name, "version": "2"}))
    assert f"Version 2 of the schema {station_name} is active now." in done.note("done")
    info = memphis.station(station_name, create_station=False).info()
    assert info.schema == memphis_sync.AttachedSchema(station_name, 2)
    assert f"{station_name} , version 2" in rows(root.get(f"/stations/{station_name}"))
    path = f"/stations/{station_name}/schema"
    done = root.follow(root.post(path, {"action": "detach"}))
    assert f"{station_name} accepts every payload now." in done.note("done")
    assert memphis.station(station_name, create_station=False).info().schema is None
    root.follow(root.post(path, {"action": "attach", "schema": station_name}))
    assert memphis.station(station_name, create_station=False).info().schema is not None


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/schemas", {"action": "attach", "schema": "no-such-schema", "station": "no-such-station"}, (404, 409)),
        ("/schemas", {"action": "attach", "schema": ATTACK, "station": ATTACK}, (400,)),
        ("/schemas", {"action": "activate", "schema": "no-such-schema", "version": "1"}, (404, 409)),
        ("/schemas", {"action": "activate", "schema": "x", "version": ATTACK}, (400,)),
        ("/schemas", {"action": "activate", "schema": "x", "version": "0"}, (400,)),
        ("/schemas", {"action": "burn"}, (400,)),
        ("/stations/no-such-station/schema", {"action": "detach"}, (404, 409)),
        ("/stations/no-such-station/schema", {}, (400,)),
    ],
)
def test_what_the_broker_refuses_is_shown_in_words(
    root: Visitor, path: str, fields: dict[str, str], status: tuple[int, ...]
) -> None:
    page = Page(root.post(path, fields))
    assert page.status in status
    assert page.note("failed")
    assert not page.all("x-attack")
    assert "Traceback" not in page.text


# ---- whoever is connected -------------------------------------------------------------------------------------------


def test_what_clients_say_of_themselves_is_text(root: Visitor, control: ControlClient, station_name: str) -> None:
    from memphis_sync._protocol.requests import ConsumerCreate, ProducerCreate

    assert control.station(station_name) == ""
    who = {
        "station_name": station_name,
        "connection_id": ATTACK,
        "username": "root",
        "sdk_lang": ATTACK,
        "app_id": ATTACK,
    }
    control.ask(ProducerCreate(name="p", **who))
    control.ask(ConsumerCreate(name="c", **who))
    for page in (root.get("/connections", show="all"), root.get(f"/stations/{station_name}")):
        assert page.status == 200
        assert SHOWN in page.text
        assert not page.all("x-attack")


def test_a_page_of_somebody_else_than_root(
    fresh_broker: Callable[..., Any], gateway_inside: Callable[..., Any]
) -> None:
    broker = fresh_broker(users={"viewer": "v-password"})
    visitor = Visitor(gateway_inside(broker.url))
    assert visitor.log_in("viewer", "v-password").status == 303
    page = visitor.get("/")
    assert "viewer" in page.text.lower()
    assert "There is no station yet." in page.text


def test_what_a_user_is_not_allowed_is_said_in_words(
    tmp_path: Path, until: Callable[..., Any], gateway_inside: Callable[..., Any]
) -> None:
    server = LimitedServer(BrokerOptions(port=0, users={LIMITED: PASSWORD}), tmp_path / "nats")
    server.prepare()
    server.spawn()
    try:
        until(server.is_up)
        url = f"nats://root:memphis@127.0.0.1:{server.port}"
        with BrokerProcess(BrokerOptions(nats=url), timeout_s=30) as broker:
            with memphis_sync.connect(broker.url) as root:
                root.produce("st", "p", "hello")
            gateway = gateway_inside(f"memphis://127.0.0.1:{server.port}")
            visitor = Visitor(gateway)
            answer = visitor.log_in(LIMITED, PASSWORD)
            assert answer.status == 303
            for path in ("/", "/stations", "/schemas", "/connections", "/stations/st/messages"):
                page = visitor.get(path)
                assert (page.status, page.title) == (403, "Refused · Memphis console"), page.text
                assert "not allowed" in page.note("failed")
            page = visitor.get("/stations/st")
            assert (page.status, "Messages 1" in rows(page)) == (200, True)
            assert "Schemas are not known: " in page.note("warn")
            assert "Producers and consumers are not known: " in page.text
            answer = visitor.post("/stations/st/dead-letters", {"action": "resend-all"})
            assert (answer.status, "not allowed" in Page(answer).note("failed")) == (403, True)
            token, text = gateway.token(LIMITED, PASSWORD), {"Content-Type": "text/plain"}
            answer = gateway.request("POST", "/stations/st/produce/single", "x", text, token=token)
            assert (answer.status, "not allowed to ask" in answer.json["error"]) == (403, True)
    finally:
        server.stop()
