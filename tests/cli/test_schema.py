"""``memphis-sync schema``: files and stdin to the broker, and what that does to ``memphis-sync pub``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fix_proxy import AsMemphis


@pytest.mark.slow
def test_a_schema_from_creation_to_detachment(memphis_sync: Any, station_name: str, tmp_path: Any) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text('{"type": "object", "required": ["a"]}')
    second.write_text('{"type": "object", "required": ["b"]}')

    def run(*args: str, **options: Any) -> Any:
        done = memphis_sync(*args, **options)
        assert done.returncode == 0, done.stderr
        return done

    assert run("schema", "create", "cli-s", str(first)).stderr == b"schema cli-s is stored\n"
    run("pub", station_name, "anything")
    run("schema", "enforce", "cli-s", station_name)
    run("pub", station_name, '{"a": 1}')
    refused = memphis_sync("pub", station_name, '{"b": 1}')
    assert refused.returncode == 4
    assert b'not stored: Schema validation has failed: "a" is a required property' in refused.stderr
    run("schema", "create", "cli-s", str(second))
    run("pub", station_name, '{"a": 2}')
    assert run("schema", "activate", "cli-s").stderr == b"schema cli-s: version 2 is active\n"
    run("pub", station_name, '{"b": 2}')
    report = json.loads(run("--json", "schema", "activate", "cli-s", "1").stdout)
    assert report == {"schema": "cli-s", "active_version": 1}
    mixed = memphis_sync("pub", station_name, input=b'{"a": 3}\n{"b": 3}\n{"a": 4}\n')
    assert mixed.returncode == 4
    assert mixed.stderr.startswith(b"2 stored in ")
    done = run("--json", "schema", "create", "cli-s", "--type", "json", "--activate", input=b'{"required": ["c"]}')
    assert json.loads(done.stdout) == {"schema": "cli-s", "type": "json", "active_version": 3}
    run("schema", "detach", station_name)
    run("pub", station_name, "anything")


def test_the_kind_by_the_files_ending(memphis_sync: Any, tmp_path: Any) -> None:
    source = tmp_path / "order.AVSC"
    source.write_text('{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "int"}]}')
    done = memphis_sync("--json", "schema", "create", "cli-avro", str(source))
    assert json.loads(done.stdout) == {"schema": "cli-avro", "type": "avro", "active_version": None}


@pytest.mark.parametrize(
    ("args", "input", "code", "said"),
    [
        (["create", "s"], b"{}", 2, b"give --type"),
        (["create", "s", "--type", "json"], b"\xff", 2, b"not UTF-8 text"),
        (["create", "s", "--type", "json"], b"{", 1, b"your json schema is invalid"),
        (["create", "s", "--type", "json"], b"", 2, b"schema_content is empty"),
        (["enforce", "no-such-schema", "no-such-station"], b"", 1, b"does not exist"),
        (["activate", "no-such-schema"], b"", 1, b"does not exist"),
    ],
)
def test_errors_are_one_sentence(memphis_sync: Any, args: list[str], input: bytes, code: int, said: bytes) -> None:  # noqa: A002
    done = memphis_sync("schema", *args, input=input)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_byte_order_mark_is_left_out_and_a_message_may_be_named(memphis_sync: Any, tmp_path: Any) -> None:
    source = tmp_path / "order.proto"
    source.write_text('syntax = "proto3"; message Item {} message Order { Item item = 1; }', encoding="utf-8-sig")
    done = memphis_sync("schema", "create", "cli-order", str(source), "--message", "Order")
    assert (done.returncode, done.stderr) == (0, b"schema cli-order is stored\n")
    done = memphis_sync("schema", "create", "cli-order", str(source), "--message", "Basket")
    assert done.returncode == 1
    assert b"it contains no message 'Basket'; it has Item, Order" in done.stderr
    done = memphis_sync("schema", "create", "cli-s16", "--type", "json", input="{}".encode("utf-16"))
    assert done.returncode == 2
    assert b"<stdin> cannot be read: it is UTF-16 text; save it as UTF-8" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_broker_that_activates_nothing_is_told_of_beside_what_is_stored(
    broker: Any, station_name: str, tmp_path: Any, monkeypatch: Any, capfd: Any, request: Any, as_json: bool
) -> None:
    """A Memphis broker activates through its REST interface only: nobody answers such a request."""
    from memphis_sync._protocol.requests import SchemaActivate
    from memphis_sync.cli._app import run

    proxy = AsMemphis((broker.host, broker.port))
    request.addfinalizer(proxy.close)
    monkeypatch.setenv("MEMPHIS_URL", broker.url.replace(str(broker.port), str(proxy.port)))
    monkeypatch.setattr(SchemaActivate, "SUBJECT", "$memphis_nobody_answers_here")
    source = tmp_path / "s.json"
    source.write_text("{}")
    args = ["--json"] if as_json else []
    assert run([*args, "schema", "create", f"s-{station_name}", str(source), "--activate"]) == 1
    out, err = capfd.readouterr()
    assert err.startswith(
        f"error: schema s-{station_name} is stored, but its newest version was not made active: this broker activates"
    )
    if as_json:
        report = json.loads(out)
        assert (report["schema"], report["active_version"]) == (f"s-{station_name}", None)
        assert report["error"].startswith("this broker activates schema versions through its REST interface only")
    monkeypatch.undo()
    with memphis_connected(broker) as client:
        assert client.activate_schema_version(f"s-{station_name}") == 1, "it is stored"


def memphis_connected(broker: Any) -> Any:
    import memphis_sync

    return memphis_sync.connect(broker.url)
