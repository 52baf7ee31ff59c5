"""
Checks Avro schemas by the specification: fastavro accepts names, unions and defaults that it forbids, and that other
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
_RULE = "letters, digits and '_', not beginning with a digit"
_ORDERS = ("ascending", "descending", "ignore")


class AvroSource:
    """
    A parsed schema, with every name in full.

    Args:
        definition: The schema as JSON.

    Attributes:
        root: The schema; a name refers to a type in *named*.
        named: Records, enums and fixed types by full name.

    Raises:
        SourceError: It breaks a rule; the reason names the place, as a JSON pointer.
    """

    def __init__(self, definition: Any) -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self._defaults: list[tuple[Any, Any, str]] = []  # type, value and place; checked when all names are known
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
            raise refused(f"a type must be a name, an object or a list of types, not {_json_type(node)}", path)
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
            raise refused("a type inside a type must not be wrapped in an object", f"{path}/type")
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
        raise refused(f"the type {name!r} is not defined before this place", path)

    def _union(self, node: list[Any], path: str, namespace: str) -> list[Any]:
        if not node:
            raise refused("a union needs at least one type", path)
        types: list[Any] = []
        seen: set[str] = set()
        for place, inner in enumerate(node):
            if isinstance(inner, list):
                raise refused("a union must not contain another union", f"{path}/{place}")
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
            raise refused(f"the name {full!r} is already that of another type", f"{path}/name")
        if full in PRIMITIVES:
            raise refused(f"the name {full!r} is that of a built-in type", f"{path}/name")
        _check_aliases(node, _FULL_NAME, path)
        made = {**node, "name": full}
        made.pop("namespace", None)
        self.named[full] = made  # before its contents, which may refer to it
        if kind == "fixed":
            size = node.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise refused("the size of a fixed must be a whole number of bytes", f"{path}/size")
        elif kind == "enum":
            made["symbols"] = self._symbols(node, path)
        else:
            made["fields"] = self._fields(node, path, inside)
        return made

    def _full_name(self, node: dict[str, Any], path: str, namespace: str) -> tuple[str, str]:
        """The full name of a type, and the namespace for its contents."""
        name, own = _checked_name(node, _FULL_NAME, path), node.get("namespace", namespace)
        if not isinstance(own, str) or (own and not _FULL_NAME.match(own)):
            raise refused(
                f"the namespace {own!r} is not valid: names with dots between; each has {_RULE}", f"{path}/namespace"
            )
        full = name if "." in name or not own else f"{own}.{name}"
        return full, full.rpartition(".")[0]

    def _symbols(self, node: dict[str, Any], path: str) -> dict[str, None]:
        """An enum's symbols in order; a dict, since there may be many, and each value is searched among them."""
        symbols = node.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise refused("an enum needs a list of symbols", f"{path}/symbols")
        made: dict[str, None] = {}
        for place, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not _NAME.match(symbol):
                raise refused(f"the symbol {symbol!r} is not valid: {_RULE}", f"{path}/symbols/{place}")
            if symbol in made:
                raise refused(f"the symbol {symbol!r} occurs twice", f"{path}/symbols/{place}")
            made[symbol] = None
        if "default" in node and node["default"] not in symbols:
            raise refused("the default is not one of the symbols", f"{path}/default")
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
                raise refused(f"a field must be an object, not {_json_type(field)}", where)
            name = _checked_name(field, _NAME, where)
            if name in seen:
                raise refused(f"the record has the field {name!r} twice", f"{where}/name")
            seen.add(name)
            if field.get("order", "ascending") not in _ORDERS:
                raise refused(f"the order of a field must be one of {', '.join(_ORDERS)}", f"{where}/order")
            _check_aliases(field, _NAME, where)
            kind = self._inner(field, "type", where, namespace)
            if "default" in field:
                self._defaults.append((kind, field["default"], f"{where}/default"))
            made.append({**field, "type": kind})
        return made


def _checked_name(node: dict[str, Any], rule: re.Pattern[str], path: str) -> str:
    name = node.get("name")
    if not isinstance(name, str) or not rule.match(name):
        reason = "it has no name" if name is None else f"the name {name!r} is not valid: {_RULE}"
        raise refused(reason, f"{path}/name")
    return name


def _check_aliases(node: dict[str, Any], rule: re.Pattern[str], path: str) -> None:
    aliases = node.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(each, str) and rule.match(each) for each in aliases):
        raise refused(f"aliases must be a list of names: {_RULE}", f"{path}/aliases")


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
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
