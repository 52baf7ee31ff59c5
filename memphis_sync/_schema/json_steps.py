"""
Counts how many steps it takes at most to check a value against a JSON schema: before the check, and in Python, so that
other threads run meanwhile.

A check may reach the same part of a value by the same part of the schema in many ways. So the ways are counted instead
of followed: from the top of the value down, once for each part that checks a value. What a library may skip (the rest
of an anyOf after a match) is counted as well, so the count is an upper bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

from memphis_sync._schema import bounds
from memphis_sync._schema.json_source import Edge, JsonSource
from memphis_sync._schema.json_weight import weight_of

_PARTS_A_STEP = 16  # see Weight.parts
_CHARACTERS_A_STEP = 256
_MOST_KEPT = 60_000  # results of one value that are kept for others
_UNBOUNDED = 100  # how much more an older library lets an expression backtrack when it checks which names are evaluated


class Count(NamedTuple):
    """
    Attributes:
        steps: Steps of the check.
        errors: Errors that a library may collect for the value; 0 where it stops at the first.
    """

    steps: int
    errors: int


class Ways(NamedTuple):
    """
    In how many ways a part comes to check a value.

    Attributes:
        checks: All of them.
        marks: Further ones that only find out what is evaluated; see ``Weight.is_marked``.
        errors: The checks whose errors a library collects, because they are below an anyOf or oneOf.
    """

    checks: int
    marks: int = 0
    errors: int = 0


_Parts = dict[int, Ways]


class _Onward:
    """The edges of one part, by the members or items that they lead to, and what the part costs."""

    def __init__(self, source: JsonSource, key: int) -> None:
        node = source.node(key)
        self.order = source.order(key)
        self.weight = weight_of(node)
        self.steps = self.weight.steps + self.weight.parts // _PARTS_A_STEP
        self.in_place: list[Edge] = []
        properties = node.get("properties")
        self.named: dict[str, Optional[Edge]] = dict.fromkeys(properties if isinstance(properties, dict) else ())
        self.others: list[Edge] = []
        self.members: list[Edge] = []
        self.names: list[Edge] = []
        self.placed: list[Edge] = []
        self.items: list[Edge] = []
        through = {
            "additionalProperties": self.others,
            "patternProperties": self.members,
            "unevaluatedProperties": self.members,
            "propertyNames": self.names,
            "prefixItems": self.placed,
        }
        for edge in source.edges(key):
            if edge.is_in_place:
                self.in_place.append(edge)
            elif edge.keyword == "properties":
                self.named[edge.step] = edge
            else:
                through.get(edge.keyword, self.items).append(edge)


class _Reached:
    """The parts that check a value, with all that follow in place, and what they cost together."""

    __slots__ = (
        *("parts", "steps", "errors", "checks", "patterns"),
        *("named", "by_name", "by_others", "by_names", "by_items", "is_ready"),
    )

    def __init__(self, parts: _Parts, onward: dict[int, _Onward]) -> None:
        self.parts = [(onward[key], ways) for key, ways in parts.items()]
        self.steps = sum(one.steps * ways.checks + ways.marks for one, ways in self.parts)
        self.errors = sum(one.weight.errors * ways.errors for one, ways in self.parts)
        self.checks = sum(ways.checks for _, ways in self.parts)
        self.patterns = sum(one.weight.patterns * (ways.checks + _UNBOUNDED * ways.marks) for one, ways in self.parts)

        self.named = [one for one, _ in self.parts if one.named]
        self.by_name: dict[str, Optional[_Reached]] = {}  # what members of these names reach, as far as known
        self.by_others: Optional[_Reached] = None
        self.by_names: Optional[_Reached] = None
        self.by_items: Optional[_Reached] = None
        self.is_ready = False

    def of_each(self, through: Callable[[_Onward], list[Edge]]) -> _Parts:
        """The parts that these lead to."""
        found: _Parts = {}
        for one, ways in self.parts:
            for edge in through(one):
                _add(found, edge, ways)
        return found

    def of_names(self, names: set[str]) -> dict[str, _Parts]:
        """The parts that these lead to for members that at least one of them names."""
        found: dict[str, _Parts] = {name: {} for name in names}
        for one, ways in self.parts:
            for name in names & one.named.keys() if one.named else ():
                edge = one.named[name]
                if edge is not None:
                    _add(found[name], edge, ways)
            for edge in one.others:
                for name in names - one.named.keys():
                    _add(found[name], edge, ways)
            for edge in one.members:
                for name in names:
                    _add(found[name], edge, ways)
        return found

    def of_places(self, value: list[Any]) -> dict[int, _Parts]:
        """The parts that these lead to for items whose index at least one of them names."""
        found: dict[int, _Parts] = {}
        for one, ways in self.parts:
            for edge in one.placed:
                if edge.step < len(value):
                    _add(found.setdefault(edge.step, {}), edge, ways)
        items = self.of_each(lambda one: one.items) if found else {}
        for parts in found.values():
            for key, ways in items.items():
                _join(parts, key, ways)
        return found


class StepCounter:
    """
    Counts the steps of checks by one schema.

    Args:
        source: The schema.
    """

    def __init__(self, source: JsonSource) -> None:
        self._source = source
        self._onward: dict[int, _Onward] = {}
        self._kept: dict[tuple[int, Ways], _Reached] = {}
        self._room = _MOST_KEPT

    def count(self, value: Any, most: int) -> Count:
        """
        Counts, and stops beyond *most* steps; the result is then too low.

        Args:
            value: As ``json.loads`` makes it.
        """
        root = self._source.root
        if root is None:
            return Count(1, 0)
        if self._room <= 0:
            self._kept, self._room = {}, _MOST_KEPT
        steps = errors = 0
        stack = [iter([(value, self._reached({root: Ways(1)}))])]
        while stack:
            for item, reached in stack[-1]:
                steps += reached.steps
                errors += reached.errors
                if isinstance(item, str):
                    steps += reached.checks * (len(item) // _CHARACTERS_A_STEP)
                elif isinstance(item, dict):
                    steps += reached.patterns * len(item) // bounds.MATCHES_A_STEP
                    stack.append(self._in_object(item, reached))
                elif isinstance(item, list):
                    stack.append(self._in_array(item, reached))
                if steps > most:
                    return Count(steps, errors)
                if isinstance(item, (dict, list)):
                    break
            else:
                stack.pop()
        return Count(steps, errors)

    def _in_object(self, value: dict[str, Any], reached: _Reached) -> Iterator[tuple[Any, _Reached]]:
        self._make_ready(reached)
        known: set[str] = set()
        for one in reached.named:
            known |= value.keys() & one.named.keys()
        by_name = reached.by_name
        asked = known - by_name.keys()
        if asked:
            found_now = {
                name: self._reached(parts) if parts else None for name, parts in reached.of_names(asked).items()
            }
            if len(asked) <= self._room:
                self._room -= len(asked)
                by_name.update(found_now)
            else:
                by_name = {**by_name, **found_now}
        for name in known:
            found = by_name[name]
            if found is not None:
                yield value[name], found
        if reached.by_others is not None:
            for name, item in value.items():
                if name not in known:
                    yield item, reached.by_others
        if reached.by_names is not None:
            for name in value:
                yield name, reached.by_names

    def _in_array(self, value: list[Any], reached: _Reached) -> Iterator[tuple[Any, _Reached]]:
        self._make_ready(reached)
        placed = reached.of_places(value)
        for place, parts in placed.items():
            yield value[place], self._reached(parts)
        if reached.by_items is not None:
            for place, item in enumerate(value):
                if place not in placed:
                    yield item, reached.by_items

    def _make_ready(self, reached: _Reached) -> None:
        """Finds where the parts of an object or array lead to, once, and only when needed: most values are scalars."""
        if not reached.is_ready:
            others = reached.of_each(lambda one: one.others + one.members)
            names = reached.of_each(lambda one: one.names)
            items = reached.of_each(lambda one: one.items)
            reached.by_others = self._reached(others) if others else None
            reached.by_names = self._reached(names) if names else None
            reached.by_items = self._reached(items) if items else None
            reached.is_ready = True

    def _reached(self, parts: _Parts) -> _Reached:
        """The parts with all that follow in place; each after those that lead to it, so that its count is complete."""
        start = next(iter(parts.items())) if len(parts) == 1 else None
        if start is not None:
            kept = self._kept.get(start)
            if kept is not None:
                return kept
        pending = [(self._of(key).order, key) for key in parts]
        heapq.heapify(pending)
        while pending:
            _, key = heapq.heappop(pending)
            one, ways = self._of(key), parts[key]
            if one.weight.is_marked:
                parts[key] = ways = ways._replace(marks=ways.marks + ways.checks)
            for edge in one.in_place:
                if edge.target not in parts:
                    heapq.heappush(pending, (self._of(edge.target).order, edge.target))
                _add(parts, edge, ways)
        made = _Reached(parts, self._onward)
        if start is not None and len(parts) <= self._room:
            self._room -= len(parts)
            self._kept[start] = made
        return made

    def _of(self, key: int) -> _Onward:
        found = self._onward.get(key)
        if found is None:
            found = self._onward[key] = _Onward(self._source, key)
        return found


def _add(parts: _Parts, edge: Edge, ways: Ways) -> None:
    """Adds the ways of a part to the part that an edge leads to."""
    checks, marks, errors = ways
    again = marks if edge.is_in_place or edge.is_asked_again else 0
    if edge.keyword in ("not", "if", "contains"):  # the library only asks whether these match
        errors = 0
    elif edge.is_alternative:
        errors = checks
    _join(parts, edge.target, Ways(checks + again, again if edge.is_in_place else 0, errors))


def _join(parts: _Parts, key: int, ways: Ways) -> None:
    known = parts.get(key)
    if known is not None:
        ways = Ways(*(one + other for one, other in zip(known, ways)))
    parts[key] = ways
