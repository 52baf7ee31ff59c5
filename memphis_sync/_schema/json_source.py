"""
The parts of a JSON schema and the edges between them: finds a ``$ref`` without a target, and what a check may cost.

jsonschema-rs compiles any schema at once and follows it however long that takes, holding the GIL: sixty lines of allOf
and $ref are enough for years. So the parts are counted first.

Words: a part is an object or boolean that is a schema. An edge leads from a part to another that checks the same value
(allOf, $ref: in place), or something in it (properties, items).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote, urljoin

from memphis_sync._schema import bounds
from memphis_sync._schema.base import refused
from memphis_sync._schema.json_weight import LISTS, MARKED, goes_back, weight_of

# Keywords whose value is a schema, a list of them, or an object of them.
_ONE = frozenset(
    {
        *("not", "if", "then", "else", "items", "additionalItems", "additionalProperties", "contains"),
        *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    }
)
_OBJECT = frozenset({"dependentSchemas", "dependencies", "properties", "patternProperties"})
_ANY_TARGET = ("$dynamicRef", "$recursiveRef")  # lead to one of several parts, depending on the path to them
# Those that check the same value.
_IN_PLACE = frozenset(
    {
        *("$ref", *_ANY_TARGET),
        *("not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies"),
    }
)
_KEPT = ("$defs", "definitions")  # targets for $ref, which do not check anything here
_ALTERNATIVES = ("anyOf", "oneOf")  # for each of which the library collects errors
COUNTER = "x-memphis-sync-steps"  # the keyword that counts, see counted()
_INTO_ALL_OF = re.compile(r"/allOf/([0-9]{1,9})")
_HEAVIEST = 1 << 40
_MOST_DYNAMIC = 10 * bounds.MAX_PARTS


class Part(NamedTuple):
    """A schema in a schema, with its place and the base URI of its references."""

    node: Any
    path: str
    base: str


class Edge(NamedTuple):
    """
    Leads from a part to another.

    Attributes:
        target: The id() of the other's node.
        keyword: The keyword that leads there; prefixItems also for a list in "items".
        step: The name in an object of schemas, or the index in a list of them.
    """

    target: int
    keyword: str
    step: Any = None

    @property
    def is_in_place(self) -> bool:
        """Whether the other checks the same value."""
        return self.keyword in _IN_PLACE

    @property
    def is_alternative(self) -> bool:
        """Whether the library collects the other's errors and continues."""
        return self.keyword in _ALTERNATIVES

    @property
    def is_asked_again(self) -> bool:
        """Whether older libraries run the other again to find out what is evaluated; see ``Weight.is_marked``."""
        return self.keyword in MARKED or self.keyword == "contains"


class Cost(NamedTuple):
    """
    What a check of one value costs at most.

    Attributes:
        parts: How many parts check a value and its contents, counted once for each way to reach them.
        patterns: With how many regular expressions a part matches the keys of an object.
        is_branching: Whether a part can be reached again in several ways, so that the cost grows with each level.
        has_alternatives: Whether several errors may be collected for a value, not only the first one.
    """

    parts: int
    patterns: int
    is_branching: bool
    has_alternatives: bool


class JsonSource:
    """
    The parts and edges of one schema.

    Args:
        definition: The schema as JSON.

    Raises:
        SourceError: A $ref has no target in the schema, or leads back to itself on the same value; or too many parts
            check one value.
    """

    def __init__(self, definition: Any) -> None:
        self._root = definition
        self._resources: dict[str, Any] = {"": definition}
        self._anchors: dict[str, Any] = {}
        self._dynamic: dict[str, list[Any]] = {}  # by name; by "" those with $recursiveAnchor
        self._dynamic_edges = 0
        self._parts: dict[int, Part] = {}  # by the node's id(); booleans are not in it
        self._find_parts()
        self._edges = {key: list(self._edges_of(part)) for key, part in list(self._parts.items())}
        self._check_in_place()

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _find_parts(self) -> None:
        pending = [Part(self._root, "", "")]
        while pending:
            part = pending.pop()
            if not isinstance(part.node, dict) or id(part.node) in self._parts:
                continue
            part = self._with_base(part)
            self._parts[id(part.node)] = part
            pending += [Part(node, path, part.base) for node, path, *_ in _inside(part, kept=True)]

    def _with_base(self, part: Part) -> Part:
        node, base = part.node, part.base
        for key in ("$id", "id"):
            own = node.get(key)
            if isinstance(own, str) and not own.startswith("#"):
                base = urljoin(base, own).rstrip("#")
                self._resources.setdefault(base, node)
        for key, prefix in (("$anchor", ""), ("$dynamicAnchor", ""), ("$id", "#"), ("id", "#")):
            name = node.get(key)
            if isinstance(name, str) and name.startswith(prefix) and (prefix or name):
                self._anchors.setdefault(f"{base}#{name.removeprefix('#')}", node)
        dynamic = "" if node.get("$recursiveAnchor") is True else node.get("$dynamicAnchor")
        if isinstance(dynamic, str):
            self._dynamic.setdefault(dynamic, []).append(node)
        return part._replace(base=base)

    def _edges_of(self, part: Part) -> Iterator[Edge]:
        """The edges of a part."""
        for node, _, keyword, step in _inside(part, kept=False):
            if isinstance(node, dict):
                yield Edge(id(node), keyword, step)
        for keyword in _ANY_TARGET:
            target = part.node.get(keyword)
            if isinstance(target, str):
                yield from (Edge(key, keyword) for key in self._any_targets(part, keyword, target))
        target = part.node.get("$ref")
        if isinstance(target, str):
            node = self._target(part, target)
            if isinstance(node, dict):
                if id(node) not in self._parts:  # in a place where no keyword expects a schema
                    found = self._parts[id(node)] = Part(node, target, part.base)
                    self._late(found)
                yield Edge(id(node), "$ref")

    def _any_targets(self, part: Part, keyword: str, reference: str) -> set[int]:
        """All possible targets of a reference: the parts with that anchor in any document, and the target of a $ref."""
        uri, _, fragment = urljoin(part.base, reference).partition("#")
        root = self._resources.get(uri)
        is_pointer = fragment[:1] in ("", "/")
        found = [at_pointer(root, unquote(fragment)) if is_pointer else self._anchors.get(f"{uri}#{fragment}")]
        found += self._dynamic.get(fragment, []) if fragment or keyword == "$recursiveRef" else []
        self._dynamic_edges += len(found)
        if self._dynamic_edges > _MOST_DYNAMIC:
            path = f"{part.path}/{keyword}"
            raise refused(f"references like this one may lead to parts in more than {_MOST_DYNAMIC} ways", path)
        return {id(node) for node in found if isinstance(node, dict) and id(node) in self._parts}

    def _late(self, part: Part) -> None:
        """Adds a part that only a $ref leads to, with its contents."""
        pending = [part]
        while pending:
            item = pending.pop()
            self._parts[id(item.node)] = item
            pending += [
                Part(node, path, item.base)
                for node, path, *_ in _inside(item, kept=True)
                if isinstance(node, dict) and id(node) not in self._parts
            ]

    def _target(self, part: Part, reference: str) -> Any:
        """The target of a $ref; None for another document, which the library refuses."""
        uri, _, fragment = urljoin(part.base, reference).partition("#")
        root = self._resources.get(uri)
        if root is None:
            return None
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found = self._anchors.get(f"{uri}#{fragment}")
        else:
            found = at_pointer(root, fragment)
        if found is None:
            raise refused(f"there is nothing at {reference!r}", f"{part.path}/$ref")
        return found

    # ---- costs ------------------------------------------------------------------------------------------------------

    def _check_in_place(self) -> None:
        """Counts how many parts check one value, and how long their chains are."""
        counts: dict[int, int] = {}
        chains: dict[int, int] = {}
        walked = 0
        while walked < len(self._parts):  # some are found late
            for start in list(self._parts)[walked:]:
                self._count_in_place(start, counts, chains)
                walked += 1
        self._order = {key: -place for place, key in enumerate(counts)}

    def _count_in_place(self, start: int, counts: dict[int, int], chains: dict[int, int]) -> None:
        for key in self._after_targets(start, counts, in_place=True):
            onward = [edge.target for edge in self.edges(key) if edge.is_in_place]
            counts[key] = 1 + sum(counts[target] for target in onward)
            chains[key] = 1 + max((chains[target] for target in onward), default=0)
            path = self._parts[key].path
            if counts[key] > bounds.MAX_PARTS:
                raise refused(f"a value would be checked by more than {bounds.MAX_PARTS} parts", path)
            if chains[key] > bounds.MAX_CHAIN:
                raise refused(f"more than {bounds.MAX_CHAIN} parts refer to each other in a row", path)

    def _after_targets(self, start: int, done: Container[int], *, in_place: bool) -> Iterator[int]:
        """
        Yields a part and all that it leads to, each after its targets. The caller adds each to *done*. Without
        recursion, which a chain of references could exhaust; only edges in place must not lead back.
        """
        stack: list[tuple[int, Iterator[Edge]]] = []
        inside: set[int] = set()

        def enter(key: int) -> None:
            inside.add(key)
            stack.append((key, iter(self.edges(key))))

        if start not in done:
            enter(start)
        while stack:
            key, edges = stack[-1]
            for edge in edges:
                if in_place and not edge.is_in_place:
                    continue
                if in_place and edge.target in inside:
                    raise refused("it leads back to itself without going into the value", self._parts[key].path)
                if edge.target not in done and edge.target not in inside:
                    enter(edge.target)
                    break
            else:
                stack.pop()
                yield key
                inside.discard(key)

    # ---- for a walk through a value ---------------------------------------------------------------------------------

    @property
    def root(self) -> Optional[int]:
        """The part that checks a whole value; None if that is a boolean."""
        return id(self._root) if id(self._root) in self._parts else None

    def node(self, key: int) -> dict[str, Any]:
        """The JSON object of a part."""
        node: dict[str, Any] = self._parts[key].node
        return node

    def order(self, key: int) -> int:
        """A number that is less than that of each part that this one leads to in place."""
        return self._order[key]

    def edges(self, key: int) -> list[Edge]:
        """The edges of a part."""
        if key not in self._edges:  # found late
            self._edges[key] = list(self._edges_of(self._parts[key]))
        return self._edges[key]

    def cost(self) -> Cost:
        """What a check costs at most; parts are counted up to ten times the limit for one value."""
        root = self.root
        if root is None:
            return Cost(1, 0, is_branching=False, has_alternatives=False)
        nodes = [part.node for part in self._parts.values()]
        limit = 10 * bounds.MAX_PARTS
        totals: dict[int, int] = {}
        marks: dict[int, int] = {}  # the cost of running it again, see Weight.is_marked
        returns: dict[int, int] = {}  # how many ways lead back to a part above
        for key in self._after_targets(root, totals, in_place=False):
            edges, node = self.edges(key), self.node(key)
            weight = weight_of(node)
            own = bounds.BACKTRACK_PARTS if goes_back(node) else 1
            again = [edge for edge in edges if edge.is_in_place or edge.is_asked_again]
            marks[key] = 1 + sum(totals.get(edge.target, 1) + marks.get(edge.target, 0) for edge in again)
            marks[key] = min(_HEAVIEST, marks[key])
            onward = sum(totals.get(edge.target, 1) for edge in edges)
            totals[key] = own + weight.parts + onward + (marks[key] if weight.is_marked else 0)
            totals[key] = min(_HEAVIEST, totals[key])
            returns[key] = min(limit, _ways_back(edges, returns, is_marked=weight.is_marked))
        return Cost(
            totals[root],
            max(weight_of(node).patterns for node in nodes),
            is_branching=returns[root] > 1 or any(key in node for node in nodes for key in _ANY_TARGET),
            has_alternatives=any(key in node for node in nodes for key in _ALTERNATIVES),
        )

    def counted(self) -> Any:
        """
        The schema with a keyword that counts in each part. It is the first in the part's allOf, because the library
        evaluates a custom keyword after all others, and the count must come before them.
        """
        return self._copied(self._root)

    def _copied(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._copied(item) for item in node]
        if not isinstance(node, dict):
            return node
        made = {key: self._copied(value) for key, value in node.items()}
        reference = node.get("$ref")
        if isinstance(reference, str):
            made["$ref"] = _INTO_ALL_OF.sub(lambda match: f"/allOf/{int(match[1]) + 1}", reference)
        elif id(node) in self._parts:
            weight = weight_of(node)
            made["allOf"] = [{COUNTER: [weight.steps, weight.patterns]}, *made.get("allOf", [])]
        return made


def _inside(part: Part, *, kept: bool) -> Iterator[tuple[Any, str, str, Any]]:
    """The schemas directly in a part: node, place, keyword, and the name or index that follows the keyword."""
    node, path = part.node, part.path
    for key, value in node.items():
        if isinstance(value, (dict, bool)) and key in _ONE:
            yield value, f"{path}/{key}", key, None
        elif isinstance(value, list) and key in LISTS:
            for place, item in enumerate(value):
                yield item, f"{path}/{key}/{place}", "prefixItems" if key == "items" else key, place
        elif isinstance(value, dict) and (key in _OBJECT or (kept and key in _KEPT)):
            for name, item in value.items():
                if isinstance(item, (dict, bool)):  # a list in "dependencies" contains names
                    yield item, f"{path}/{key}/{escaped(name)}", key, name


def _ways_back(edges: list[Edge], returns: dict[int, int], *, is_marked: bool) -> int:
    """
    In how many ways a part above can be reached again with the same value in this part's. A part above is one way
    itself; properties of different names, objects and arrays have different values.
    """
    ways: dict[str, int] = {}
    for edge in edges:
        keyword, count = edge.keyword, returns.get(edge.target, 1)
        if is_marked and (edge.is_in_place or edge.is_asked_again):
            count *= 2
        apart = keyword in ("properties", "prefixItems")
        ways[keyword] = max(ways.get(keyword, 0), count) if apart else ways.get(keyword, 0) + count

    def of(*keywords: str) -> int:
        return sum(ways.get(keyword, 0) for keyword in keywords)

    objects = max(of("properties"), of("additionalProperties"))
    objects += of("patternProperties", "unevaluatedProperties", "propertyNames")
    arrays = max(of("prefixItems"), of("items", "additionalItems")) + of("contains", "unevaluatedItems")
    return of(*_IN_PLACE) + max(objects, arrays)


def at_pointer(root: Any, pointer: str) -> Any:
    """What a JSON pointer refers to; None when there is nothing."""
    node = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdigit() and len(name) < 10 and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def escaped(name: str) -> str:
    """A name as a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
