"""station.dls: dead letters read, sent again and dropped by a program."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from control_client import ControlClient
from dead_letter_client import HEADERS, DeadLetterClient
from fix_proxy import AsMemphis

import memphis_sync
from memphis_sync import ConfigurationError, DeadLetter, DeadlineError, Headers, ServerError, StationNotFoundError
from memphis_sync._control.dead_letters import tell
from memphis_sync._protocol.dead_letters import DeadLetterAck, DeadLetterReport, NackedDeadLetter
from memphis_sync.broker import BrokerOptions
from memphis_sync.broker.server.nats_server import NatsServer

if TYPE_CHECKING:
    from pathlib import Path

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[DeadLetterClient]:
    with DeadLetterClient(broker) as connected:
        yield connected


@pytest.fixture
def station(memphis: Memphis, client: DeadLetterClient, station_name: str) -> memphis_sync.Station:
    """A station with a group ``g`` that has given up three messages, and a fourth that broke the schema."""
    made = memphis.station(station_name, partitions_number=2)
    consumer = memphis.consumer(station_name, "c", "g")
    headers = Headers({"kind": "ü"})
    for number in range(3):
        memphis.produce(station_name, "Maker", b"\xff%d" % number, headers=headers, producer_partition_number=2)
    messages = sorted(consumer.fetch(3, timeout_s=10), key=lambda message: message.sequence)
    for message in messages:
        message.dead_letter(f"reason {message.sequence}")
    client.wait_for(station_name, 3)
    client.schema_failure(station_name, "7b7d", validation_error="secret payload")
    client.wait_for(station_name, 4)
    return made


def test_what_a_dead_letter_says(station: memphis_sync.Station) -> None:
    first, *_, last = station.dls.list()
    assert isinstance(first, DeadLetter)
    assert (first.station, first.type, first.partition, first.sequence) == (station.name, "poison", 2, 1)
    assert (first.producer, first.groups, first.reason) == ("maker", ("g",), "reason 1")
    assert (first.data, first.headers) == (b"\xff0", {"kind": "ü"})
    assert abs((datetime.now(timezone.utc) - first.time).total_seconds()) < 60
    assert first.size > len(first.data)
    assert (last.type, last.partition, last.sequence, last.groups) == ("schema", 0, 0, ())
    assert (last.producer, last.reason, last.data) == ("p", "secret payload", b"{}")
    assert last.headers == {"kind": "test"}, "what is the client's own is left out"
    assert HEADERS.keys() > last.headers.keys()
    assert pickle.loads(pickle.dumps(first)) == first


def test_no_repr_shows_a_payload(station: memphis_sync.Station) -> None:
    letters = station.dls.list()
    assert repr(letters[0]).startswith(f"<DeadLetter {letters[0].id} poison {station.name}[2] seq=1 groups=g ")
    for text in (repr(letters), str(letters[-1]), f"{station.dls!r}"):
        assert "secret" not in text
        assert "xff" not in text
        assert "ü" not in text


def test_lists_and_iteration(station: memphis_sync.Station, memphis: Memphis, monkeypatch: pytest.MonkeyPatch) -> None:
    dls = memphis.dls(station.name.upper())
    letters = dls.list()
    assert [letter.id for letter in letters] == sorted({letter.id for letter in letters})
    assert dls.list("schema") == letters[3:]
    assert dls.list(limit=2) == letters[:2]
    assert dls.list(after_id=letters[1].id) == letters[2:]
    assert dls.list(ids=letters[2]) == [letters[2]]
    assert dls.list(ids=(letter.id for letter in letters[:2])) == letters[:2]
    assert dls.list(ids=[]) == []
    assert dls.list(ids=2**62) == []
    monkeypatch.setattr("memphis_sync.dead_letters.PAGE_SIZE", 1)
    assert list(dls) == letters
    assert list(dls.iterate("poison", after_id=letters[0].id)) == letters[1:3]
    for letter in dls:
        assert dls.drop(letter) == 1, "a page that was read before is no reason to stop"
    assert dls.list() == []


def test_a_payload_as_large_as_a_message_may_be(memphis: Memphis, client: DeadLetterClient, station_name: str) -> None:
    memphis.consumer(station_name, "g")
    assert client.connection is not None
    payload = bytes(range(256)) * (client.connection.max_payload // 256)
    client.nack(station_name, client.produce(station_name, payload, headers=None))
    client.wait_for(station_name, 1)
    (letter,) = memphis.dls(station_name).list()
    assert letter.data == payload
    assert letter.producer == "unknown"


def test_what_does_not_fit_a_resend_is_said(
    memphis: Memphis, client: DeadLetterClient, station_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    memphis.consumer(station_name, "g")
    assert client.connection is not None
    client.nack(station_name, client.produce(station_name, b"x" * client.connection.max_payload, headers=None))
    (row,) = client.wait_for(station_name, 1)
    with caplog.at_level(logging.WARNING, "memphis_sync.control"):
        assert memphis.dls(station_name).resend() == 0
    assert f"dead letters {row.id} of station {station_name!r} were not sent" in caplog.text


def test_resend_reaches_the_group_and_its_word_ends_it(station: memphis_sync.Station, client: DeadLetterClient) -> None:
    letters = station.dls.list()
    subject = f"$memphis_dls_{station.internal_name}.g"
    sent = client.received(subject, 2, lambda: station.dls.resend([letters[0].id, letters[1], letters[3]]))
    assert [data for data, _ in sent] == [b"\xff0", b"\xff1"]
    assert [headers["$memphis_pm_id"] for _, headers in sent] == [str(letters[0].id), str(letters[1].id)]
    for _, headers in sent:
        client.acknowledge(int(headers["$memphis_pm_id"]), headers["$memphis_pm_cg_name"])
    client.wait_for(station.name, 2)
    assert station.dls.resend() == 1
    assert station.dls.resend([]) == 0


def test_drop(station: memphis_sync.Station) -> None:
    letters = station.dls.list()
    assert station.dls.drop([]) == 0, "no ids are not all of them"
    assert station.dls.drop(letters[:2]) == 2
    assert station.dls.drop(letters[:2]) == 0
    assert station.dls.drop(type="schema") == 1
    assert station.dls.list() == [letters[2]]
    assert station.dls.drop() == 1


def test_from_many_threads_each_is_dropped_once(station: memphis_sync.Station, in_threads: Any) -> None:
    assert sum(in_threads(8, lambda _: station.dls.drop())) == 4
    assert station.dls.list() == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda dls: dls.list("functions"), "type is 'functions'; it must be poison or schema"),
        (lambda dls: dls.list(3), "type is 3"),
        (lambda dls: dls.list(limit=0), "limit is 0"),
        (lambda dls: dls.list(after_id=-1), "after_id is -1"),
        (lambda dls: dls.list(ids="12"), "ids is '12'"),
        (lambda dls: dls.list(ids=[0]), "ids is 0"),
        (lambda dls: dls.iterate("functions"), "type is 'functions'"),
        (lambda dls: dls.resend([True]), "ids is True"),
        (lambda dls: dls.resend(1.5), "ids is 1.5"),
        (lambda dls: dls.drop(["1"]), "ids is a str"),
        (lambda dls: dls.drop(type="x"), "type is 'x'"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_sent(memphis: Memphis, call: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call(memphis.dls("no-such-station"))
    assert said in str(caught.value)


def test_a_station_that_is_not_there(memphis: Memphis, station_name: str) -> None:
    dls = memphis.dls(station_name.upper())
    assert repr(dls) == f"<DeadLetters of station {station_name!r}>"
    for call in (dls.list, dls.resend, dls.drop, lambda: list(dls)):
        with pytest.raises(StationNotFoundError, match="does not exist"):
            call()
    with pytest.raises(ConfigurationError, match="station_name"):
        memphis.dls("no blanks")


@pytest.fixture
def bare_server(tmp_path: Path, until: Any) -> Iterator[NatsServer]:
    """A NATS server on which nothing answers our requests."""
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    try:
        until(server.is_up)
        yield server
    finally:
        server.stop()


def test_a_memphis_broker_has_them_in_its_rest_api_only(bare_server: NatsServer, until: Any) -> None:
    proxy = AsMemphis(("127.0.0.1", bare_server.port))
    try:
        with memphis_sync.connect(f"memphis://root:memphis@127.0.0.1:{proxy.port}") as memphis:
            for call in (memphis.dls("st").list, memphis.dls("st").resend, memphis.dls("st").drop):
                with pytest.raises(ServerError, match="REST API") as caught:
                    call()
                assert caught.value.code == 503
            # What a consumer says of a message goes where a Memphis broker listens, which answers nothing.
            session = memphis._session
            for report in (NackedDeadLetter("st", "no", 1, "g", 7), DeadLetterAck(3, "g")):
                heard: list[bytes] = []
                session.call(
                    lambda report=report, heard=heard: session.control.subscribe(report.SUBJECT, heard.append),
                    5,
                    "subscribe",
                )
                is_memphis = session.data_link().is_memphis
                assert is_memphis
                session.call(
                    lambda report=report, is_memphis=is_memphis: tell(
                        session.control, report, 5, "tell", is_memphis=is_memphis
                    ),
                    10,
                    "tell",
                )
                until(lambda heard=heard, report=report: heard == [report.encode()])
    finally:
        proxy.close()


@pytest.mark.slow
def test_silence_of_any_other_broker_is_no_success(bare_server: NatsServer) -> None:
    """Nobody keeps what nobody answers for; and it is not said to be a Memphis broker."""
    with memphis_sync.connect(f"memphis://root:memphis@127.0.0.1:{bare_server.port}") as memphis:
        session = memphis._session
        for subject, report in (
            (NackedDeadLetter.SUBJECT, DeadLetterReport("st", "no", 1, "g", 7)),
            (DeadLetterAck.SUBJECT, DeadLetterAck(3, "g")),
        ):
            heard: list[bytes] = []
            session.call(
                lambda subject=subject, heard=heard: session.control.subscribe(subject, heard.append), 5, "subscribe"
            )
            with pytest.raises(DeadlineError, match=r"did not confirm within 0\.5 s that it has stored it"):
                session.call(
                    lambda report=report: tell(session.control, report, 0.5, "tell", is_memphis=False), 10, "tell"
                )
            assert subject == report.SUBJECT or heard == []
        with pytest.raises(ServerError, match="no Memphis broker behind it") as caught:
            memphis.dls("st").list()
        assert caught.value.code == 503


def test_where_messages_are_kept_until_they_are_acknowledged_dead_letters_are_kept_all_the_same(
    memphis: Memphis, station_name: str
) -> None:
    """The end of a message removes it from such a station at once: the broker must have it before."""
    station = memphis.station(station_name, retention_type=memphis_sync.Retention.ACK_BASED)
    consumer = memphis.consumer(station_name, "c")  # without a group nothing is kept
    assert memphis.producer(station_name, "p").produce_many(b"%d" % n for n in range(20)).delivered == 20
    found = []
    while len(found) < 20:
        for message in consumer.fetch(20, timeout_s=10):
            message.dead_letter("no use")
            found.append(message.data)
    letters = station.dls.list()
    assert sorted(letter.data for letter in letters) == sorted(found)
    assert {letter.reason for letter in letters} == {"no use"}


def test_a_dead_letter_that_the_broker_cannot_keep_leaves_its_message_open(
    memphis: Memphis, broker: BrokerProcess, station_name: str
) -> None:
    memphis.station(station_name)
    consumer = memphis.consumer(station_name, "c")
    memphis.producer(station_name, "p").produce(b"m")
    (message,) = consumer.fetch(timeout_s=10)
    with ControlClient(broker) as raw:
        assert raw.jetstream(f"STREAM.PURGE.{station_name}$1")["success"]
    with pytest.raises(memphis_sync.ServerError):
        message.dead_letter("no use")
    assert not message.is_answered
