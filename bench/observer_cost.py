"""
What does it cost that a client can be observed: without an observer, and with each kind?

``unset_instructions``: how many of the interpreter's instructions a non-blocking produce takes more than the same code
without each line that asks for an observer; counted, so it is the same on each machine. ``unset_ratio``: its processor
time over that of the other. The lines are taken out of the source of Producer.produce(), and the producer is bound past
the one question that its client was asked when it was made. Both are timed in turn, --pairs times, and the least of
each counts: what else the machine does only ever adds to it.

``kinds``: microseconds of the caller for a non-blocking message inside a span, with no observer, with
contrib.prometheus, and with contrib.otel, whose SDK records nothing of it. ``blocking``: of a blocking one.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import sys
import textwrap
import time
from typing import Any, Callable

import _common
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

import memphis_sync
from memphis_sync import Producer, producer as produce_module
from memphis_sync.contrib import otel, prometheus

ROUND = 500  # messages between two looks at the clock: less than a scheduler's slice


class WithoutObservers(ast.NodeTransformer):
    """Takes the questions for observers out: what stands under them goes, what stands in their else stays."""

    def visit_If(self, node: ast.If) -> Any:
        """One question."""
        self.generic_visit(node)
        asked = ast.unparse(node.test)
        return node.orelse or None if "observe" in asked or "observing" in asked else node


def compiled(*, observable: bool) -> type[Producer[Any, Any]]:
    """A producer whose produce() is compiled anew: as it is, or as in a client that cannot be observed."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Producer.produce)))
    tree = tree if observable else WithoutObservers().visit(tree)
    names: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "produce", "exec"), vars(produce_module), names)
    return type("Producer", (Producer,), {"produce": names["produce"]})


def side(client: memphis_sync.Memphis, *, observable: bool) -> Producer[Any, Any]:
    """One side of the comparison."""
    made = client.producer("bench-none", f"bench-{observable}".lower())
    made.__class__ = compiled(observable=observable)
    if not observable:
        made._direct, made._send = made._sender.direct, made._sender.send
    return made


def instructions(call: Callable[[], object]) -> int:
    """How many the interpreter runs for a call, in all functions that are written in Python."""
    counted = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return counted


def least_us(calls: list[Callable[[], object]], pairs: int, between: Callable[[], object], count: int) -> list[float]:
    """The least processor time of each call, in microseconds; all in turn, in an order that turns as well."""
    best = [float("inf")] * len(calls)
    for turn in range(pairs):
        order = range(len(calls)) if turn % 2 else reversed(range(len(calls)))
        for at in order:
            call = calls[at]
            begun = time.thread_time_ns()
            for _ in range(count):
                call()
            best[at] = min(best[at], (time.thread_time_ns() - begun) / count / 1000)
            between()
    return [round(value, 3) for value in best]


def main() -> None:
    """Prints the ratio, and the costs."""
    options = _common.parser(__doc__, count=ROUND)
    options.set_defaults(pairs=101)
    args = options.parse_args()
    payload = b"x" * args.size
    tracers = TracerProvider()
    kinds = {"none": (), "prometheus": (), "otel": (otel.Observer(tracers),)}
    with _common.bench(args) as bench:
        clients = {name: memphis_sync.connect(bench.url, observers=each) for name, each in kinds.items()}
        prometheus.export(clients["prometheus"], registry=CollectorRegistry())
        producers = {name: client.producer(f"bench-{name}", "bench") for name, client in clients.items()}
        gc.freeze()

        def nonblocking(producer: Producer[Any, Any]) -> Callable[[], object]:
            return lambda: producer.produce(payload, nonblocking=True)

        def flush() -> None:
            for client in clients.values():
                if client.flush(60):
                    raise SystemExit("messages were not confirmed within a minute")

        sides = [nonblocking(side(clients["none"], observable=each)) for each in (True, False)]
        more = [instructions(call) for call in sides]
        unset, bare = least_us(sides, args.pairs, flush, args.count)
        with tracers.get_tracer("bench").start_as_current_span("request"):
            costs = least_us([nonblocking(each) for each in producers.values()], args.pairs, flush, args.count)
            calls = [lambda each=each: each.produce(payload) for each in producers.values()]
            blocking = least_us(calls, args.pairs, flush, max(args.count // 20, 1))
        for client in clients.values():
            client.close()
    ratio = round(unset / bare, 4)
    if not args.json:
        print(f"a produce that could be observed, of one that cannot: {ratio} times", file=sys.stderr)
    figures = {"kinds": dict(zip(kinds, costs)), "blocking": dict(zip(kinds, blocking))}
    report = {
        "question": "observer_cost",
        "unset_instructions": more[0] - more[1],
        "unset_ratio": ratio,
        "unset_us": unset,
        "bare_us": bare,
        **figures,
    }
    print(json.dumps({**report, "count": args.count, "pairs": args.pairs, **_common.machine()}))


if __name__ == "__main__":
    main()
