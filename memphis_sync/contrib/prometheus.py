"""
Counters of a client for Prometheus.

    from memphis_sync.contrib.prometheus import export
    export(memphis)

They are ordinary metrics of prometheus-client, so they are in each exposition of the registry, and in its multiprocess
mode too (``PROMETHEUS_MULTIPROC_DIR``): the workers of gunicorn add up.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Any, Optional

import memphis_sync
from memphis_sync import ConfigurationError, Memphis, Outgoing, PubAck, Stats
from memphis_sync.observer import UNWATCHED

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as exc:
    raise ImportError(
        "memphis_sync.contrib.prometheus needs prometheus-client: pip install prometheus-client", name=exc.name
    ) from exc

# Seconds: a broker in the same rack answers within one millisecond, and a message has 15 s by default.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_OUTCOMES = ("delivered", "failed", "abandoned")
_READING = ("received", "acked", "given_back", "dead_lettered")


class _Metrics:
    """What a registry has of all clients together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Counter(
            "memphis_messages", "Messages that are settled, by outcome.", ["outcome"], registry=registry
        )
        self.consumed = Counter(
            "memphis_consumed",
            "Messages that were received, and their answers.",
            ["outcome"],
            registry=registry,
        )
        self.reconnects = Counter("memphis_reconnects", "Times that a connection was made again.", registry=registry)
        self.gauges = {
            "queued": _gauge("memphis_queued", "Messages that wait to be sent.", registry),
            "queued_bytes": _gauge("memphis_queued_bytes", "Bytes of the messages that wait to be sent.", registry),
            "unanswered": _gauge("memphis_unanswered", "Messages that were received and are not answered.", registry),
            "in_flight": _gauge("memphis_in_flight", "Messages that were sent and are not confirmed yet.", registry),
        }
        self.ack_seconds = Histogram(
            "memphis_ack_seconds",
            "Time from a blocking produce to its confirmation.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.clients: weakref.WeakSet[Memphis] = weakref.WeakSet()


def _gauge(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, registry=registry, multiprocess_mode="livesum")


_made: weakref.WeakKeyDictionary[CollectorRegistry, _Metrics] = weakref.WeakKeyDictionary()


class _Feed:
    """Adds to the metrics what one client's counters have grown by."""

    def __init__(self, metrics: _Metrics) -> None:
        self._metrics = metrics
        self._last = Stats()
        self._pid = os.getpid()

    def __call__(self, stats: Stats) -> None:
        if os.getpid() != self._pid:  # a forked child: its counters begin at 0
            self._last, self._pid = Stats(), os.getpid()
        last, self._last = self._last, stats
        for outcomes, counter in ((_OUTCOMES, self._metrics.messages), (_READING, self._metrics.consumed)):
            for outcome in outcomes:
                grown = getattr(stats, outcome) - getattr(last, outcome)
                if grown:
                    counter.labels(outcome).inc(grown)
        self._metrics.reconnects.inc(stats.reconnects - last.reconnects)
        for name, gauge in self._metrics.gauges.items():
            gauge.inc(getattr(stats, name) - getattr(last, name))  # several clients may share it


class _AckTimes(memphis_sync.Observer):
    """How long a blocking produce takes."""

    only_blocking = True

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def producing(self, station: str, count: int, headers: Outgoing) -> object:
        return UNWATCHED if count != 1 else time.perf_counter()

    def settled(self, token: float, outcome: Any) -> None:
        if isinstance(outcome, PubAck):
            self._histogram.observe(time.perf_counter() - token)


def export(client: Memphis, *, interval_s: float = 5.0, registry: Optional[CollectorRegistry] = None) -> None:
    """
    Keeps Prometheus' metrics up to date with a client's counters, in this process and in forked ones that use it. Once
    for each client, before its first message; a second time for the same registry changes nothing.

    * ``memphis_messages_total{outcome}``: settled messages: ``delivered``, ``failed`` or ``abandoned`` (given up when
      the client was closed)
    * ``memphis_queued``, ``memphis_queued_bytes``, ``memphis_in_flight``: the backlog
    * ``memphis_consumed_total{outcome}``: messages that were ``received``, and of these ``acked``, ``given_back`` or
      ``dead_lettered``; and ``memphis_unanswered``, the others
    * ``memphis_reconnects_total``
    * ``memphis_ack_seconds``: a histogram of blocking produces

    Several clients add up; there is no label for the station.

    Args:
        client: Connected.
        interval_s: How often, in seconds, from 0.01; and when the client is closed, also at the end of the process. A
            killed process loses its last interval.
        registry: None for prometheus-client's own.

    Raises:
        ConfigurationError: An argument is not allowed.
        UsageError, ClosedError: The client is not connected, or was closed.
    """
    if not isinstance(client, Memphis):
        raise ConfigurationError(
            f"client is of type {type(client).__name__}; it must be a Memphis, as connect() returns"
        )
    if registry is not None and not isinstance(registry, CollectorRegistry):
        raise ConfigurationError(
            f"registry is of type {type(registry).__name__}; it must be a CollectorRegistry or None"
        )
    registry = REGISTRY if registry is None else registry
    metrics = _made.get(registry)
    if metrics is None:
        metrics = _made[registry] = _Metrics(registry)
    if client in metrics.clients:
        return
    client.watch_stats(_Feed(metrics), interval_s)
    client.add_observer(_AckTimes(metrics.ack_seconds))
    metrics.clients.add(client)


__all__ = ["export"]
