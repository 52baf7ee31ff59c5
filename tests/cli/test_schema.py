"""``memphis-sync schema``: files and stdin to the broker, and what that does to ``memphis-sync pub``."""

from __future__ import annotations

import json
from typing import Any

import pytest


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
