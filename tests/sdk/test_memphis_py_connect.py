"""memphis-py 1.3.1, unchanged from PyPI, against our broker: connections, stations, and taking them down."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable

import fix_memphis_py
import pytest
from control_client import ControlClient
from fix_memphis_py import MemphisPy
from fix_sdk import Name, SdkClient, SdkError, make_once
from fix_tls import Authority

from memphis_sync.broker import BrokerProcess

S_NS, MS_NS = 1_000_000_000, 1_000_000


def test_it_is_the_official_sdk_in_an_environment_of_its_own() -> None:
    command = "import importlib.metadata as m; print(m.version('memphis-py'), m.version('protobuf').split('.')[0])"
    said = subprocess.check_output([str(fix_memphis_py.interpreter()), "-c", command], text=True)
    version, protobuf = said.split()
    assert version == "1.3.1"
    assert int(protobuf) < 6


def test_what_was_not_finished_is_made_anew_and_once(tmp_path: Path) -> None:
    """Two runs at once: one makes it, the other waits and takes it."""
    made: list[str] = []

    def make(here: Path) -> None:
        assert not here.exists(), "the half-made one is still there"
        here.mkdir()
        made.append(here.name)

    def ask(contents: str = "one") -> None:
        assert make_once(tmp_path, "env", contents, make) == tmp_path / "env"

    (tmp_path / "env").mkdir()  # left by a run that was killed
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    ask()
    assert len(made) == 1
    ask("two")  # other requirements, another interpreter
    assert len(made) == 2
    shutil.rmtree(tmp_path / "env")
    ask("two")
    assert len(made) == 3


def test_a_wrong_password_is_refused_and_the_right_one_is_not(memphis_py: SdkClient) -> None:
    with pytest.raises(SdkError, match="MemphisError: memphis: 'Authorization Violation'"):
        memphis_py.connect(password="no")
    with pytest.raises(SdkError, match="one of the following methods: connection token / password"):
        memphis_py.connect(password="")
    assert memphis_py.is_connected() is True


def test_an_application_user(fresh_broker: Callable[..., BrokerProcess], memphis_py: SdkClient) -> None:
    broker = fresh_broker(users={"app": "Passw0rd!"})
    app = memphis_py.connect(broker, username="app", password="Passw0rd!", max_reconnect=3, reconnect_interval_ms=100)
    app.produce("st", "p", "hello")
    assert [bytes(message.get_data()) for message in app.fetch_messages("st", "c")] == [b"hello"]


def test_token_mode(fresh_broker: Callable[..., BrokerProcess], memphis_py: SdkClient) -> None:
    broker = fresh_broker(token="s3cret")
    app = memphis_py.connect(broker, username="root")
    app.produce("st", "p", "hello")
    assert [bytes(message.get_data()) for message in app.fetch_messages("st", "c")] == [b"hello"]
    with pytest.raises(SdkError, match="MemphisError"):  # with reconnect left on it would try for ever
        memphis_py.connect(broker, username="root", connection_token="wrong", reconnect=False)


def test_tls_with_a_token_and_not_with_a_password(
    broker_with: Callable[..., BrokerProcess], authority: Authority, memphis_py: SdkClient
) -> None:
    """
    With a password it copies its options for a first connection, and a TLS context cannot be copied.

    Source: protocol reference D-py-18.
    """
    mine, made = authority.issue("me@example.org"), authority.issue("127.0.0.1")
    files = {"cert_file": str(mine.cert), "key_file": str(mine.key), "ca_file": authority.file}
    broker = broker_with(made, token="s3cret", tls_ca=Path(authority.file))
    app = memphis_py.connect(broker, username="root", **files)
    app.produce("st", "p", "hello")
    assert [bytes(message.get_data()) for message in app.fetch_messages("st", "c")] == [b"hello"]
    with pytest.raises(SdkError, match="cannot pickle 'SSLContext' object"):
        memphis_py.connect(broker, username="root", connection_token="", password="x", **files)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"max_age": 3600 * S_NS, "max_msgs": -1, "storage": "file", "duplicate_window": 120_000 * MS_NS}),
        ({"retention_type": Name("Retention.MESSAGES"), "retention_value": 7}, {"max_msgs": 7, "max_age": 0}),
        ({"retention_type": Name("Retention.BYTES"), "retention_value": 2**30}, {"max_bytes": 2**30, "max_age": 0}),
        ({"retention_type": Name("Retention.ACK_BASED")}, {"retention": "interest", "max_age": 0}),
        ({"retention_value": 600}, {"max_age": 600 * S_NS}),
        ({"storage_type": Name("Storage.MEMORY"), "replicas": 1}, {"storage": "memory", "num_replicas": 1}),
        ({"idempotency_window_ms": 5000}, {"duplicate_window": 5000 * MS_NS}),
        ({"partitions_number": 0}, {"storage": "file"}),  # 0 means 1
    ],
)
def test_station_options(
    memphis_py: SdkClient,
    control: ControlClient,
    station_name: str,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    station = memphis_py.station(name=station_name.upper(), **options)
    assert station.kind == "Station"
    config = control.stream(f"{station_name}$1")
    assert {key: config[key] for key in expected} == expected
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$2")


def test_a_station_that_exists_is_no_error_and_keeps_its_settings(
    memphis_py: SdkClient, control: ControlClient, station_name: str
) -> None:
    memphis_py.station(station_name, partitions_number=2)
    memphis_py.station(station_name, partitions_number=5)
    control.stream(f"{station_name}$2")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$3")


def test_what_the_broker_refuses_is_raised_with_its_text(memphis_py: SdkClient, station_name: str) -> None:
    with pytest.raises(SdkError, match=r"Only alphanumeric and the .* are allowed in Station"):
        memphis_py.station("bad name")
    with pytest.raises(SdkError, match="idempotency window cannot be greater than the station retention"):
        memphis_py.station(station_name, retention_value=1)
    with pytest.raises(SdkError, match="does not exist"):
        memphis_py.station(station_name, schema_name="there-is-none")


def test_a_destroyed_station_is_empty_when_it_is_made_again(memphis_py: SdkClient, station_name: str) -> None:
    station = memphis_py.station(station_name)
    memphis_py.produce(station_name, "p", "old")
    station.destroy()
    station.destroy()  # not there any more: fine
    memphis_py.station(station_name)
    memphis_py.produce(station_name, "q", "new")
    assert [bytes(message.get_data()) for message in memphis_py.fetch_messages(station_name, "c")] == [b"new"]


def test_a_destroyed_station_is_told_to_other_clients(
    memphis_py: SdkClient, station_name: str, until: Callable[..., Any]
) -> None:
    """``remove_station`` on the update subject: the other client forgets its cached producer, and makes a new one."""
    other = memphis_py.connect()
    station = memphis_py.station(station_name, partitions_number=2)
    other.produce(station_name, "p", "old")
    assert list(other.read("producers_map")) == [f"{station_name}_p"]
    station.destroy()
    until(lambda: not other.read("producers_map"))
    other.produce(station_name, "p", "new")
    assert [bytes(message.get_data()) for message in other.fetch_messages(station_name, "c")] == [b"new"]


def test_close_is_seen_by_the_broker(memphis_py: SdkClient, control: ControlClient, station_name: str) -> None:
    other = memphis_py.connect()
    other.consumer(station_name, "c", consumer_group="g")
    connection_id = other.read("connection_id")
    other.close()
    control.wait_until_gone(connection_id)
    assert other.is_connected() is False


def test_a_crash_of_the_sdks_process_takes_nothing_with_it(
    memphis_py: SdkClient, memphis_py_python: Path, broker: BrokerProcess, station_name: str
) -> None:
    """Killed between fetch and ack: the message comes again, to the next member of the group."""
    with MemphisPy(memphis_py_python) as process:
        other = process.connect(broker)
        other.produce(station_name, "p", "precious")
        consumer = other.consumer(station_name, "c", consumer_group="g", max_ack_time_ms=500)
        assert len(consumer.fetch(1)) == 1
        process.kill()
    again = memphis_py.consumer(station_name, "d", consumer_group="g", max_ack_time_ms=500).fetch(1)
    assert [bytes(message.get_data()) for message in again] == [b"precious"]
