"""
What does checking a message by its station's schema cost, beside the bare call of the library that does it?

For each kind of schema, and for each form in which programs hand messages over, it times our encode() as a producer
calls it, and the library's own calls for the same work: check, and make bytes of what isn't bytes yet. Both do --count
messages in turn, --pairs times; the medians of a message and their ratio are printed. No broker, no network.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from typing import Any, Callable

import _common
import fastavro
import graphql
import jsonschema_rs
from google.protobuf import json_format

from memphis_sync._schema.live import StationCodec
from memphis_sync.broker.service.schema_sources import compiled

LINE = {
    "type": "object",
    "required": ["sku", "count"],
    "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
}
JSON_SOURCE = {
    "type": "object",
    "required": ["id", "lines"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "customer": {"type": "integer", "minimum": 1},
        "note": {"type": "string"},
        "paid": {"type": "boolean"},
        "lines": {"type": "array", "items": LINE},
    },
}
PROTO_SOURCE = """
syntax = "proto3";
package shop;
message Order { string id = 1; int32 customer = 2; string note = 3; bool paid = 4; repeated Line lines = 5; }
message Line { string sku = 1; int32 count = 2; }
"""
AVRO_SOURCE = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "customer", "type": "int"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "paid", "type": "boolean"},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
                },
            },
        },
    ],
}
GRAPHQL_SOURCE = (
    "type Query { order(id: ID!): Order } type Order { id: ID! note: String lines: [Line!] } type Line { sku: ID! }"
)
ORDER = {
    "id": "order-4711",
    "customer": 90210,
    "note": "leave it at the neighbour's door, please",
    "paid": True,
    "lines": [{"sku": f"article-{number}", "count": number} for number in range(1, 11)],
}
DOCUMENT = 'query Read { order(id: "order-4711") { id note lines { sku } } }'

Call = Callable[[], object]


def codec(kind: str, source: Any) -> StationCodec:
    """A schema as a producer has it."""
    text = source if isinstance(source, str) else json.dumps(source)
    made = StationCodec(compiled("order", kind, 1, text), "bench")
    made.prepare()
    return made


def cases() -> dict[str, tuple[Call, Call]]:
    """Our call and the library's, by kind and form."""
    text = json.dumps(ORDER).encode()
    by_json, by_proto = codec("json", JSON_SOURCE), codec("protobuf", PROTO_SOURCE)
    by_avro, by_graphql = codec("avro", AVRO_SOURCE), codec("graphql", GRAPHQL_SOURCE)
    validate = jsonschema_rs.validator_for(JSON_SOURCE).validate
    avro = fastavro.parse_schema(AVRO_SOURCE)
    schema = graphql.build_schema(GRAPHQL_SOURCE)
    wire = by_proto.encode(ORDER)
    message = by_proto.decode(wire)
    order = type(message)
    query = DOCUMENT.encode()
    return {
        "json.dict": (lambda: by_json.encode(ORDER), lambda: (validate(ORDER), json.dumps(ORDER).encode())),
        "json.bytes": (lambda: by_json.encode(text), lambda: validate(json.loads(text))),
        "protobuf.dict": (
            lambda: by_proto.encode(ORDER),
            lambda: json_format.ParseDict(ORDER, order()).SerializeToString(),
        ),
        "protobuf.message": (
            lambda: by_proto.encode(message),
            lambda: order.FromString(message.SerializeToString()).IsInitialized(),
        ),
        "protobuf.bytes": (lambda: by_proto.encode(wire), lambda: order.FromString(wire).IsInitialized()),
        "avro.dict": (
            lambda: by_avro.encode(ORDER),
            lambda: (fastavro.validate(ORDER, avro), json.dumps(ORDER).encode()),
        ),
        "avro.bytes": (lambda: by_avro.encode(text), lambda: fastavro.validate(json.loads(text), avro)),
        "graphql.str": (
            lambda: by_graphql.encode(DOCUMENT),
            lambda: (graphql.validate(schema, graphql.parse(DOCUMENT)), DOCUMENT.encode()),
        ),
        "graphql.bytes": (
            lambda: by_graphql.encode(query),
            lambda: graphql.validate(schema, graphql.parse(query.decode())),
        ),
    }


def microseconds(call: Call, count: int) -> float:
    """Processor time of one call, over *count* of them: other programs take none of that."""
    turns = range(count)
    start = time.thread_time_ns()
    for _ in turns:
        call()
    return (time.thread_time_ns() - start) / count / 1000


def main() -> None:
    """Prints a line for each kind and form, and one JSON line."""
    args = _common.parser(__doc__, count=2000).parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, (ours, bare) in cases().items():
        kind, form = name.split(".")
        count = max(1, args.count // 10) if kind == "graphql" else args.count  # a document takes a millisecond
        ours(), bare()
        runs = _common.in_turn(
            args.pairs, functools.partial(microseconds, ours, count), functools.partial(microseconds, bare, count)
        )
        ours_us, bare_us = map(statistics.median, runs)
        ratio = statistics.median(one / other for one, other in zip(*runs))
        figures.setdefault(kind, {})[form] = {
            "us": round(ours_us, 3),
            "bare_us": round(bare_us, 3),
            "ratio": round(ratio, 3),
        }
        if not args.json:
            sentence = f"{name}: {ours_us:.2f} us a message, the library alone {bare_us:.2f} us: {ratio:.2f} times"
            print(sentence, file=sys.stderr)
    worst = max(form["ratio"] for forms in figures.values() for form in forms.values())
    facts = {"count": args.count, "pairs": args.pairs, **_common.machine()}
    print(json.dumps({"question": "schema_cost", "worst_ratio": worst, **figures, **facts}))


if __name__ == "__main__":
    main()
