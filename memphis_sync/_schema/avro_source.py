"""
Avro schemas by the rules of the specification: fastavro takes names, unions and defaults that it forbids, which other
languages refuse.

Source: Apache Avro specification 1.11, "Schema Declaration", "Names", "Logical Types".
"""

from __future__ import annotations

import re
from typing import Any

from memphis_sync._schema.avro_values import AvroValues, Form
from memphis_sync._schema.base import refused

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAMED = frozenset({"record", "error", "enum", "fixed"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_RULE = "letters, digits and '_', with no digit in front"
_ORDERS = ("ascending", "descending", "ignore")


class AvroSource:
    """
    A schema that was read, with every name in full.

    Args:
        definition: The schema as its JSON says it.

    Attributes:
        root: The schema; a name stands for a type that *named* has.
        named: Records, enums and fixed types by full name.

    Raises:
        SourceError: It breaks a rule; the reason names the place, as a JSON pointer.
    """

    def __init__(self, definition: Any) -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self._defaults: list[tuple[Any, Any, str]] = []  # type, value and place, looked at when all names are known
        self.root = self._type(definition, "", "")
        values = AvroValues(self.root, self.named)
        for kind, value, path in self._defaults:
            first = kind[0] if isinstance(kind, list) else kind
            fault = values.fault(first, value, Form.DEFAULT)
            if fault is not None:
                of_union = "; a union's default is of its first type" if isinstance(kind, list) else ""
                raise refused(f"the default does not match: {fault.reason}{of_union}", path)

    def _type(self, node: Any, path: str, namespace: str) -> Any:
        if isinstance(node, str):
            return self._reference(node, path, namespace)
        if isinstance(node, list):
            return self._union(node, path, namespace)
        if not isinstance(node, dict):
            raise refused(f"a type is a name, an object or a list of types, not {_json_type(node)}", path)
        if "type" not in node:
            raise refused("it has no type", path)
        kind = node["type"]
        if kind == "array":
            return {**node, "items": self._inner(node, "items", path, namespace)}
        if kind == "map":
            return {**node, "values": self._inner(node, "values", path, namespace)}
        if isinstance(kind, str) and kind in _NAMED:
            return self._named_type(node, kind, path, namespace)
        if not isinstance(kind, str):
            raise refused("a type in a type is written without an object around it", f"{path}/type")
        found = self._reference(kind, f"{path}/type", namespace)
        return {**node, "type": found} if found in PRIMITIVES else found

    def _inner(self, node: dict[str, Any], key: str, path: str, namespace: str) -> Any:
        if key not in node:
            raise refused(f"it has no {key}", path)
        return self._type(node[key], f"{path}/{key}", namespace)

    def _reference(self, name: str, path: str, namespace: str) -> str:
        if name in PRIMITIVES:
            return name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for known in (full, name):
            if known in self.named:
                return known
        raise refused(f"there is no type {name!r} up to here", path)

    def _union(self, node: list[Any], path: str, namespace: str) -> list[Any]:
        if not node:
            raise refused("a union needs at least one type", path)
        types: list[Any] = []
        seen: set[str] = set()
        for place, inner in enumerate(node):
            if isinstance(inner, list):
                raise refused("a union does not hold another union", f"{path}/{place}")
            found = self._type(inner, f"{path}/{place}", namespace)
            name = found if isinstance(found, str) else str(found.get("name") or found["type"])
            if name in seen:
                raise refused(f"the union has {name} twice", f"{path}/{place}")
            seen.add(name)
            types.append(found)
        return types

    def _named_type(self, node: dict[str, Any], kind: str, path: str, namespace: str) -> dict[str, Any]:
        full, inside = self._full_name(node, path, namespace)
        if full in self.named:
            raise refused(f"the name {full!r} stands for another type already", f"{path}/name")
        if full in PRIMITIVES:
            raise refused(f"the name {full!r} is that of a type of Avro's own", f"{path}/name")
        aliases = node.get("aliases", [])
        if not isinstance(aliases, list) or not all(
            isinstance(each, str) and _FULL_NAME.match(each) for each in aliases
        ):
            raise refused(f"aliases are a list of names of {_RULE}", f"{path}/aliases")
        made = {**node, "name": full}
        made.pop("namespace", None)
        self.named[full] = made  # before what is inside, which may name it
        if kind == "fixed":
            size = node.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise refused("the size of a fixed is a whole number of bytes", f"{path}/size")
        elif kind == "enum":
            made["symbols"] = self._symbols(node, path)
        else:
            made["fields"] = self._fields(node, path, inside)
        return made

    def _full_name(self, node: dict[str, Any], path: str, namespace: str) -> tuple[str, str]:
        """The full name of a type, and the namespace of what is inside of it."""
        name, own = node.get("name"), node.get("namespace", namespace)
        if not isinstance(name, str) or not _FULL_NAME.match(name):
            raise refused(
                f"the name {name!r} is not one: {_RULE}" if name is not None else "it has no name", f"{path}/name"
            )
        if not isinstance(own, str) or (own and not _FULL_NAME.match(own)):
            raise refused(f"the namespace {own!r} is not one: names of {_RULE}, with dots between", f"{path}/namespace")
        full = name if "." in name or not own else f"{own}.{name}"
        return full, full.rpartition(".")[0]

    def _symbols(self, node: dict[str, Any], path: str) -> dict[str, None]:
        """An enum's symbols in their order; a dict, for there may be many, and each value is looked for among them."""
        symbols = node.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise refused("an enum needs a list of symbols", f"{path}/symbols")
        made: dict[str, None] = {}
        for place, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not _NAME.match(symbol):
                raise refused(f"the symbol {symbol!r} is not one: {_RULE}", f"{path}/symbols/{place}")
            if symbol in made:
                raise refused(f"the symbol {symbol!r} stands there twice", f"{path}/symbols/{place}")
            made[symbol] = None
        if "default" in node and node["default"] not in symbols:
            raise refused("the default is none of the symbols", f"{path}/default")
        return made

    def _fields(self, node: dict[str, Any], path: str, namespace: str) -> list[dict[str, Any]]:
        fields = node.get("fields")
        if not isinstance(fields, list):
            raise refused("a record needs a list of fields", f"{path}/fields")
        made: list[dict[str, Any]] = []
        seen: set[str] = set()
        for place, field in enumerate(fields):
            where = f"{path}/fields/{place}"
            if not isinstance(field, dict):
                raise refused(f"a field is an object, not {_json_type(field)}", where)
            name = field.get("name")
            if not isinstance(name, str) or not _NAME.match(name):
                wrong = "it has no name" if name is None else f"the name {name!r} is not one: {_RULE}"
                raise refused(wrong, f"{where}/name")
            if name in seen:
                raise refused(f"the record has the field {name!r} twice", f"{where}/name")
            seen.add(name)
            if field.get("order", "ascending") not in _ORDERS:
                raise refused(f"the order of a field is one of {', '.join(_ORDERS)}", f"{where}/order")
            aliases = field.get("aliases", [])
            if not isinstance(aliases, list) or not all(
                isinstance(each, str) and _NAME.match(each) for each in aliases
            ):
                raise refused(f"aliases are a list of names of {_RULE}", f"{where}/aliases")
            kind = self._inner(field, "type", where, namespace)
            if "default" in field:
                self._defaults.append((kind, field["default"], f"{where}/default"))
            made.append({**field, "type": kind})
        return made


def plain(node: Any) -> Any:
    """A schema without its logical types: messages are JSON, which has none, so a date is a number."""
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return [plain(inner) for inner in node]
    made = {key: value for key, value in node.items() if key not in ("logicalType", "precision", "scale")}
    for key in ("items", "values"):
        if key in made and made["type"] in ("array", "map"):
            made[key] = plain(made[key])
    if made["type"] == "enum":
        made["symbols"] = list(made["symbols"])
    if made["type"] in ("record", "error"):
        made["fields"] = [{**field, "type": plain(field["type"])} for field in made["fields"]]
    return made


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
