"""What holds for all kinds: unknown ones, missing libraries, imports on first use, threads."""

from __future__ import annotations

import threading

import pytest
from fix_process import run_python

from memphis_sync._schema import KINDS, SourceError, compile_schema
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo


@pytest.mark.parametrize("kind", ["", "xml", "JSON", "base", "__init__"])
def test_an_unknown_kind_says_which_are_known(kind) -> None:
    with pytest.raises(SchemaError, match=r"it knows avro, graphql, json, protobuf$") as caught:
        compile_schema(SchemaInfo("s", kind, 1, "{}"))
    assert not isinstance(caught.value, SourceError)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_missing_library_is_one_sentence_with_the_extra(kind) -> None:
    package = {"json": "jsonschema_rs", "protobuf": "google.protobuf", "avro": "fastavro", "graphql": "graphql"}[kind]
    program = f"""
import sys
sys.modules[{package!r}] = None
import memphis_sync
from memphis_sync._schema import compile_schema
from memphis_sync.types import SchemaInfo
try:
    compile_schema(SchemaInfo("s", {kind!r}, 2, "{{}}"))
except memphis_sync.MemphisSchemaError as exc:
    print(exc)
"""
    text = run_python("-c", program).stdout.decode()
    start = f"schema 's' (version 2, {kind}) cannot be used: it needs {KINDS[kind][1]}, which is not installed: "
    assert text.startswith(f"{start}pip install 'memphis-sync[schemas]' (")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "kind", "text"),
    [
        ("grpc_tools", "protobuf", "this broker has no protoc: grpcio-tools is not installed: pip install"),
        ("fastavro", "avro", "schema 's' (version 1, avro) cannot be used: it needs fastavro, which is not installed"),
    ],
)
def test_a_broker_without_a_library_says_which(missing, kind, text) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.schema_sources import compiled
try:
    compiled("s", {kind!r}, 1, "x")
except RequestError as exc:
    print(exc)
"""
    assert run_python("-c", program).stdout.decode().startswith(text)


def test_nothing_is_imported_with_the_package() -> None:
    program = """
import sys, memphis_sync
optional = {"jsonschema_rs", "google.protobuf", "fastavro", "graphql", "memphis_sync._schema.json_schema"}
print(sorted(optional & set(sys.modules)))
"""
    assert run_python("-c", program).stdout.strip() == b"[]"


SOURCES = {
    "json": ('{"type": "object", "required": ["a"]}', {"a": 1}, {}),
    "protobuf": ('syntax = "proto3"; message M { int32 a = 1; }', {"a": 1}, {"a": "x"}),
    "avro": ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}', {"a": 1}, {}),
    "graphql": ("type Query { a: Int }", "{ a }", "{ b }"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_threads_share_one_schema(schema_of, kind) -> None:
    source, good, bad = SOURCES[kind]
    schema = schema_of(kind, source)
    sent = schema.encode(good)
    wrong: list[object] = []
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(50):
            try:
                assert schema.encode(good) == sent
                schema.decode(sent)
                with pytest.raises(SchemaError):
                    schema.encode(bad)
            except BaseException as exc:
                wrong.append(exc)
                return

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
