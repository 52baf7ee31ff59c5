"""A schema of each kind in two versions, with a message that matches only the first, and one only the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

JSON = """{"type": "object", "properties": {"id": {"type": "%s"}}, "required": ["id"]}"""
AVRO = """{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "%s"}]}"""
PROTOBUF = """syntax = "proto3"; package shop; message Order { %s id = 1; }"""
GRAPHQL = """type Query { %s: Int }"""


class Schema(NamedTuple):
    """
    A schema.

    Attributes:
        first: Source of the first version.
        second: Source of the second version.
        one: A message of the first version that the second refuses.
        two: The reverse.
        stored: Payload of *one*, with and without blanks in JSON.
        decoded: What *one* is after it was read back.
    """

    first: str
    second: str
    one: Any
    two: Any
    stored: tuple[bytes, ...]
    decoded: Any

    def write(self, folder: Path) -> str:
        """The first version in a file."""
        return self._write(folder / "first", self.first)

    def write_second(self, folder: Path) -> str:
        """The second version in a file."""
        return self._write(folder / "second", self.second)

    @staticmethod
    def _write(path: Path, source: str) -> str:
        path.write_text(source)
        return str(path)


_TEXT = (b'{"id": 7}', b'{"id":7}')
SCHEMAS = {
    "json": Schema(JSON % "integer", JSON % "string", {"id": 7}, {"id": "x"}, _TEXT, {"id": 7}),
    "avro": Schema(AVRO % "int", AVRO % "string", {"id": 7}, {"id": "x"}, _TEXT, {"id": 7}),
    "protobuf": Schema(PROTOBUF % "int32", PROTOBUF % "string", {"id": 7}, {"id": "x"}, (b"\x08\x07",), {"id": 7}),
    "graphql": Schema(
        GRAPHQL % "id", GRAPHQL % "name", "query { id }", "query { name }", (b"query { id }",), "query { id }"
    ),
}
KINDS = list(SCHEMAS)
