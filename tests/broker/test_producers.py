"""Producer requests: replies byte for byte, versions, auto-creation."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerProcess

NO_SCHEMA = (
    '{"schema_update":{"schema_name":"","active_version":{"version_number":0,"descriptor":"","schema_content":"",'
    '"message_struct_name":""},"type":""},'
)


@pytest.mark.parametrize("version", [2, 3, 4, 99])
def test_the_reply_has_every_key(control: ControlClient, station_name: str, version: int) -> None:
    assert control.station(station_name, partitions_number=3, dls_schemaverse=False) == ""
    body = {"name": "P", "station_name": station_name, "connection_id": "x", "producer_type": "application"}
    request = json.dumps({**body, "username": "root", "req_version": version})
    assert control.raw("$memphis_producer_creations", request.encode()).decode() == (
        NO_SCHEMA + '"partitions_update":{"partitions_list":[1,2,3]},"schemaverse_to_dls":false,'
        '"send_notification":false,"station_version":2,"station_partitions_first_functions":{},"error":""}'
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"station_name": "a b"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"name": ""}, "Producer name can not be empty"),
        ({"name": "x" * 129}, "Producer should be under 128 characters"),
        ({"name": "a$b"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Producer"),
        ({"name": ".a"}, "Producer name can not start or end with non alphanumeric character"),
        ({"producer_type": "x"}, "producer type has to be one of the following application/connector"),
        ({"username": "nobody"}, "User nobody does not exist"),
        ({"username": "ROOT"}, "User ROOT does not exist"),
        ({"username": "root$1"}, "User root$1 does not exist"),
        (
            {"req_version": 1},
            (
                "this station does not exist, a default station can not be created automatically, "
                "please upgrade your SDK version"
            ),
        ),
    ],
)
def test_refusals(control: ControlClient, station_name: str, settings: dict[str, Any], text: str) -> None:
    settings.setdefault("station_name", station_name)
    reply = control.producer("replaced", **settings)
    assert reply["error"] == text
    assert reply["partitions_update"] == {"partitions_list": None}
    assert reply["station_partitions_first_functions"] is None
    assert list(reply) == [
        "schema_update",
        "partitions_update",
        "schemaverse_to_dls",
        "send_notification",
        "station_version",
        "station_partitions_first_functions",
        "error",
    ]
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")


@pytest.mark.parametrize("version", [0, 1])
def test_a_client_from_before_partitions_is_told_to_upgrade(
    control: ControlClient, station_name: str, version: int
) -> None:
    assert control.station(station_name) == ""
    assert control.producer(station_name, req_version=version)["error"] == (
        "to produce to this station please upgrade your SDK version"
    )


def test_a_missing_station_is_made_with_default_settings(control: ControlClient, station_name: str) -> None:
    reply = control.producer(f"{station_name}.NEW")
    assert (reply["partitions_update"]["partitions_list"], reply["schemaverse_to_dls"]) == ([1], True)
    config = control.stream(f"{station_name}#new$1")
    assert (config["max_age"], config["duplicate_window"]) == (3_600_000_000_000, 120_000_000_000)


def test_20_producers_and_consumers_that_name_a_missing_station_at_once(
    broker: BrokerProcess, station_name: str
) -> None:
    errors: list[str] = []

    def join(at: int, start: threading.Barrier) -> None:
        with ControlClient(broker, connection_id=f"id-{at}") as client:
            start.wait(20)
            if at % 2:
                errors.append(client.producer(station_name, name=f"p{at}")["error"])
            else:
                errors.append(json.loads(client.consumer(station_name, name=f"c{at}"))["error"])

    start = threading.Barrier(20)
    threads = [threading.Thread(target=join, args=(at, start)) for at in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == [""] * 20


def test_destruction_is_always_empty_but_for_a_bad_station_name(control: ControlClient, station_name: str) -> None:
    assert control.destroy_producer(station_name, "never-made") == ""
    assert control.producer(station_name, name="P.1")["error"] == ""
    assert control.producer(station_name, name="P.1")["error"] == ""  # not unique: no error
    assert control.destroy_producer(station_name, "p.1") == ""
    assert control.destroy_producer(station_name, "p.1") == ""
    assert control.destroy_producer(station_name, "*") == ""
    assert control.destroy_producer(station_name, "p.1", req_version=0) == ""
    assert (
        control.destroy_producer("a b") == "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"
    )


def test_any_connection_id_is_taken(control: ControlClient, station_name: str) -> None:
    for connection_id in ("", "a.b", "*", ">", "x" * 5000, "\u0000", "ключ", "two words"):
        assert control.producer(station_name, connection_id=connection_id)["error"] == ""
        assert control.destroy_producer(station_name, connection_id=connection_id) == ""
