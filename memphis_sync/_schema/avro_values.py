"""
Checks values against an Avro schema, and finds where and why one does not match: the deepest place in a union.

fastavro decides on most values, and is several times faster. But it names no place in a union, and tries every type of
a union at every level, which takes for ever when several of them contain each other. Here each record is checked once
for each place in a value.
"""

from __future__ import annotations

import enum
import itertools
import re
from typing import Any, NamedTuple, Optional

from memphis_sync._schema import bounds
from memphis_sync._schema.base import MismatchError

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_RANGES = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
_DAY = {"time-millis": 86_400_000, "time-micros": 86_400_000_000}
_CONTAINERS = frozenset({"record", "error", "map"})  # what a JSON object can be
_MAX_PRECISION = 10_000  # digits of a decimal; a larger one is not checked
_MAX_LISTED = 1000  # symbols of an enum that fastavro searches
_MAX_SHOWN = 20  # symbols that a reason shows
_MAX_UNROLLED = 10_000  # types that are reached when every name is followed
_CHARACTERS = "a string, one character for each byte"
# How logical types are written in JSON.
_MEANT = {
    ("int", "date"): "int: days since 1970-01-01",
    ("int", "time-millis"): "int: milliseconds since midnight",
    ("long", "time-micros"): "long: microseconds since midnight",
    **{
        ("long", f"{prefix}timestamp-{unit}"): f"long: {word} since 1970-01-01"
        for prefix in ("", "local-")
        for unit, word in (("millis", "milliseconds"), ("micros", "microseconds"), ("nanos", "nanoseconds"))
    },
    ("string", "uuid"): "string",
    ("fixed", "uuid"): _CHARACTERS,
    ("fixed", "duration"): _CHARACTERS,
    ("fixed", "decimal"): f"its unscaled value as {_CHARACTERS}",
    ("bytes", "decimal"): f"its unscaled value as {_CHARACTERS}",
}


class Form(enum.Enum):
    """How unions and bytes are written in JSON."""

    PLAIN = "values as they are; no bytes"
    EXPLAINED = "values as they are; bytes as a string, one character for each"
    AVRO_JSON = "Avro's own encoding: a union's value with the name of its type, bytes as a string"
    DEFAULT = "a default in a schema: of a union's first type, bytes as a string"


class Fault(NamedTuple):
    """
    Why a value does not match.

    Attributes:
        depth: How deep in the value.
        path: Full name of the record, and the field; "" outside of records.
        found: What the value is: "of type str".
        wanted: What was expected.
        out_of_range: What is wrong with a value of the right type; "" when the type is wrong.
    """

    depth: int
    path: str
    found: str
    wanted: str
    out_of_range: str = ""

    @property
    def reason(self) -> str:
        """The text for the user."""
        return f"it is {self.out_of_range}" if self.out_of_range else f"it is {self.found}, expected {self.wanted}"


class AvroValues:
    """
    Checks the values of one schema.

    Args:
        root: See AvroSource.
        named: See AvroSource.
    """

    def __init__(self, root: Any, named: dict[str, dict[str, Any]]) -> None:
        self._root = root
        self._named = named
        self.most_fields = max((len(_inner(node)) for node in named.values()), default=0)

    def fault(self, kind: Any, value: Any, form: Form = Form.PLAIN) -> Optional[Fault]:
        """
        The deepest fault of a value; None when it matches.

        Args:
            kind: The type.
            value: What JSON says.
            form: How unions and bytes are written.
        """
        return _Check(self._named, form).at(kind, value, "", 0)

    def of_root(self, value: Any, form: Form = Form.PLAIN) -> Optional[Fault]:
        """The same for the schema itself."""
        return self.fault(self._root, value, form)

    def is_branching(self) -> bool:
        """Whether fastavro could take for ever: the types to try multiply with depth, or an enum is very long."""
        count = _Count(self._named)
        if any(node["type"] == "enum" and len(node["symbols"]) > _MAX_LISTED for node in self._named.values()):
            return True  # it searches a list for each symbol
        return count.of(self._root, frozenset()) > _MAX_UNROLLED or (count.is_recursive and count.forks)

    def has_rules_of_its_own(self) -> bool:
        """Whether a logical type restricts values more than its type does."""
        pending, seen = [self._root, *self._named.values()], set()
        while pending:
            node = pending.pop()
            if isinstance(node, str) or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, list):
                pending += node
                continue
            if node.get("logicalType") in ("uuid", "decimal", *_DAY):
                return True
            pending += _inner(node)
        return False


class _Count:
    """Counts the types that are reached when every name is followed; recursive ones count once."""

    def __init__(self, named: dict[str, dict[str, Any]]) -> None:
        self._named = named
        self._known: dict[str, int] = {}
        self.is_recursive = False
        self.forks = False  # a union has several types that an object may be

    def of(self, kind: Any, inside: frozenset[str]) -> int:
        node = self._named.get(kind) if isinstance(kind, str) else kind
        if node is None:
            return 1
        if isinstance(node, list):
            self.forks = self.forks or sum(_takes_objects(inner, self._named) for inner in node) > 1
            return sum(self.of(inner, inside) for inner in node)
        name = node.get("name", "")
        if name in inside:
            self.is_recursive = True
            return 1
        if name in self._known:
            return self._known[name]
        if name:
            inside = inside | {name}
        total = 1 + sum(self.of(part, inside) for part in _inner(node))
        if name:
            self._known[name] = total
        return total


class _Check:
    """One check of a value."""

    def __init__(self, named: dict[str, dict[str, Any]], form: Form) -> None:
        self._named = named
        self._form = form
        self._takes_text_for_bytes = form is not Form.PLAIN
        self._left = bounds.MAX_ABSENT
        self._known: dict[tuple[str, int, int], Optional[Fault]] = {}  # a record's, by name, depth and place in memory

    def at(self, kind: Any, value: Any, path: str, depth: int) -> Optional[Fault]:
        if isinstance(kind, list):
            if self._form is Form.DEFAULT:
                return self.at(kind[0], value, path, depth)
            if self._form is Form.AVRO_JSON and value is not None:
                return self._tagged(kind, value, path, depth)
            return self._union(kind, value, path, depth)
        node = self._node(kind)
        name = node["type"]
        if name in ("record", "error"):
            return self._record(node, value, path, depth)
        if name == "array" and isinstance(value, list):
            return _first(self.at(node["items"], item, path, depth + 1) for item in value)
        if name == "map" and isinstance(value, dict):
            return _first(self.at(node["values"], item, path, depth + 1) for item in value.values())
        return self._scalar(node, name, value, path, depth)

    def _record(self, node: dict[str, Any], value: Any, path: str, depth: int) -> Optional[Fault]:
        if not isinstance(value, dict):
            return Fault(depth, path, _found(value), _wanted(node))
        key = (node["name"], depth, id(value))
        if key not in self._known:
            self._left -= max(len(node["fields"]) - len(value), 0)
            if self._left < 0:
                raise MismatchError(f"more than {bounds.MAX_ABSENT} fields are missing from it: too many to check")
            self._known[key] = _first(self._field(node["name"], field, value, depth + 1) for field in node["fields"])
        return self._known[key]

    def _field(self, record: str, field: dict[str, Any], value: dict[str, Any], depth: int) -> Optional[Fault]:
        kind = field["type"]
        if field["name"] not in value:  # a missing field counts as null, as in fastavro
            may_be_null = isinstance(kind, list) and "null" in kind and self._form is not Form.DEFAULT
            if may_be_null or "default" in field:
                return None
        return self.at(kind, value.get(field["name"]), f"{record}.{field['name']}", depth)

    def _node(self, kind: Any) -> dict[str, Any]:
        node: dict[str, Any] = self._named.get(kind, {"type": kind}) if isinstance(kind, str) else kind
        return node

    def _tagged(self, kinds: list[Any], value: Any, path: str, depth: int) -> Optional[Fault]:
        """A union's value with the name of its type: ``{"string": "x"}``."""
        if isinstance(value, dict) and len(value) == 1:
            ((tag, inner),) = value.items()
            for kind in kinds:
                node = self._node(kind)
                if tag in (node.get("name", node["type"]), node.get("name", "").rpartition(".")[2]) and tag != "null":
                    return self.at(kind, inner, path, depth + 1)
        return Fault(depth, path, _found(value), " or ".join(_wanted(self._node(kind)) for kind in kinds))

    def _union(self, kinds: list[Any], value: Any, path: str, depth: int) -> Optional[Fault]:
        faults: list[Fault] = []
        for kind in kinds:
            fault = self.at(kind, value, path, depth)
            if fault is None:
                return None
            faults.append(fault)
        deepest = max(faults, key=lambda fault: fault.depth)
        if deepest.depth > depth:
            return deepest
        for fault in faults:
            if fault.out_of_range:
                return fault
        wanted = " or ".join(dict.fromkeys(fault.wanted for fault in faults))
        return Fault(depth, path, faults[0].found, wanted)

    def _scalar(self, node: dict[str, Any], name: str, value: Any, path: str, depth: int) -> Optional[Fault]:
        fault = Fault(depth, path, _found(value), _wanted(node))
        if not self._has_type(name, value):
            return fault
        wrong = _out_of_range(node, name, value)
        return fault._replace(out_of_range=wrong) if wrong else None

    def _has_type(self, name: str, value: Any) -> bool:
        if name == "null":
            return value is None
        if name == "boolean":
            return isinstance(value, bool)
        if name in _RANGES:
            return isinstance(value, int) and not isinstance(value, bool)
        if name in ("float", "double"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in ("bytes", "fixed"):
            return self._takes_text_for_bytes and isinstance(value, str)
        return name in ("string", "enum") and isinstance(value, str)


def _out_of_range(node: dict[str, Any], name: str, value: Any) -> str:
    """What is wrong with a value of the right type; empty when nothing is."""
    logical = node.get("logicalType")
    if name in _RANGES:
        low, high = _RANGES[name]
        if logical in _DAY and name == ("int" if logical == "time-millis" else "long"):
            low, high, name = 0, _DAY[logical] - 1, logical
        return "" if low <= value <= high else f"out of range: {_a(name)} is from {low} to {high}"
    if name == "enum":
        return "" if value in node["symbols"] else f"a string that is not {_wanted(node)}"
    if name == "string":
        return "a string that is not a UUID" if logical == "uuid" and not _UUID.match(value) else ""
    if name in ("bytes", "fixed"):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return "a string with characters beyond U+00FF; each character is one byte"
        if name == "fixed" and len(value) != node["size"]:
            return f"out of range: it has {len(value)} bytes; {node['name']} has {node['size']}"
        precision = node.get("precision")
        if logical == "decimal" and isinstance(precision, int) and 0 < precision <= _MAX_PRECISION:
            is_within = abs(int.from_bytes(value, "big", signed=True)) < 10**precision
            return "" if is_within else f"out of range: this decimal has at most {precision} digits"
    return ""


def _inner(node: dict[str, Any]) -> list[Any]:
    """The types in a type. Attributes that its kind does not have are metadata, whatever their names."""
    if node["type"] in ("array", "map"):
        return [node["items" if node["type"] == "array" else "values"]]
    return [field["type"] for field in node["fields"]] if node["type"] in ("record", "error") else []


def _first(faults: Any) -> Optional[Fault]:
    return next((fault for fault in faults if fault is not None), None)


def _takes_objects(kind: Any, named: dict[str, dict[str, Any]]) -> bool:
    node = named.get(kind, {"type": kind}) if isinstance(kind, str) else kind
    return node["type"] in _CONTAINERS


def _found(value: Any) -> str:
    return "missing or null" if value is None else f"of type {type(value).__name__}"


def _wanted(node: dict[str, Any]) -> str:
    if node["type"] == "enum":
        more = "" if len(node["symbols"]) <= _MAX_SHOWN else f" and {len(node['symbols']) - _MAX_SHOWN} more"
        return f"one of {', '.join(itertools.islice(node['symbols'], _MAX_SHOWN))}{more}"
    logical = node.get("logicalType")
    meant = _MEANT.get((node["type"], logical)) if isinstance(logical, str) else None
    kind = str(node["type"]) if meant is None else str(logical)
    named = f"{kind} {node['name']}" if "name" in node else kind
    return f"{named} ({meant})" if meant else named


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
