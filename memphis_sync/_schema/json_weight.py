"""What one part of a JSON schema costs: the lists that it compares a value with, its names and its expressions."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from memphis_sync._schema import bounds
from memphis_sync._schema.base import members

_NUMBERS = ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NAMES = ("properties", "dependentRequired", "dependencies")  # searched in each object, one by one
_SHOWN = ("enum", "const", "not", "pattern")  # copied into each error of the library
MARKED = ("unevaluatedProperties", "unevaluatedItems")  # run the parts beside them again
# To compare a float takes four microseconds, any other value a quarter of one, a name a hundredth.
_STEPS_OF_FLOAT, _PARTS_OF_FLOAT = 2, 60
_ITEMS_A_STEP, _PARTS_OF_ITEM = 4, 3
_SHOWN_AN_ERROR = 64  # characters
_MATCHES_OF_BACKTRACKING = bounds.BACKTRACK_STEPS * bounds.MATCHES_A_STEP
_NAMES_A_STEP, _NAMES_A_PART = 64, 2
_GOES_BACK = re.compile(r"\\[1-9k]|\(\?(?:[=!>]|<[=!])")
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})


class Weight(NamedTuple):
    """
    What a part costs without the parts that it leads to: the library searches its lists for each value.

    Attributes:
        steps: Steps of a counted check.
        parts: How many more parts it counts for in an uncounted check.
        patterns: How many regular expressions each key of an object is matched with.
        errors: How many errors there may be for one value.
        is_marked: Whether it has unevaluatedProperties or unevaluatedItems, for which older libraries run all parts in
            place again.
    """

    steps: int
    parts: int
    patterns: int
    errors: int
    is_marked: bool


def weight_of(node: dict[str, Any]) -> Weight:
    """What a part costs without the parts that it leads to."""
    listed = node.get("enum")
    floats, items = _compared(listed) if isinstance(listed, list) else (0, 0)
    if "const" in node:
        one, more = _compared([node["const"]])
        floats, items = floats + one, items + more
    floats += sum(isinstance(node.get(key), float) for key in _NUMBERS)
    names = sum(len(node[key]) for key in _NAMES if isinstance(node.get(key), dict))
    items += sum(isinstance(one, bool) for key in LISTS if isinstance(node.get(key), list) for one in node[key])
    patterns = node.get("patternProperties")
    by_name = patterns if isinstance(patterns, dict) else ()
    required = [node.get("required"), *_values(node.get("dependentRequired")), *_values(node.get("dependencies"))]
    shown = len(json.dumps([node[key] for key in _SHOWN if key in node]))
    steps = bounds.BACKTRACK_STEPS if goes_back(node) else 1
    return Weight(
        steps + _STEPS_OF_FLOAT * floats + items // _ITEMS_A_STEP + names // _NAMES_A_STEP,
        _PARTS_OF_FLOAT * floats + _PARTS_OF_ITEM * items + names // _NAMES_A_PART,
        sum(_MATCHES_OF_BACKTRACKING if _GOES_BACK.search(pattern) else 1 for pattern in by_name),
        1 + len(node) + sum(len(one) for one in required if isinstance(one, list)) + shown // _SHOWN_AN_ERROR,
        any(key in node for key in MARKED),
    )


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _compared(values: list[Any]) -> tuple[int, int]:
    """With how many floats, and with how many values, a value is compared. Strings, or integers, alone are a set."""
    if all(type(value) is str for value in values) or all(type(value) is int for value in values):
        return 0, 0
    floats = items = 0
    level = values
    while level:
        floats += sum(isinstance(value, float) for value in level)
        items += len(level)
        level = [inner for value in level for inner in members(value)]
    return floats, items


def goes_back(node: dict[str, Any]) -> bool:
    """Whether a regular expression in a part can backtrack; the time of others depends on the text's length only."""
    by_name = node.get("patternProperties")
    patterns = [node.get("pattern"), *(by_name if isinstance(by_name, dict) else ())]
    return any(isinstance(pattern, str) and _GOES_BACK.search(pattern) for pattern in patterns)
