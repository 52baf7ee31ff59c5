"""What the scripts share: options, the broker, machine facts, pairs run in turn, one JSON line, a plot."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple
from urllib.parse import unquote, urlsplit

import _raw

import memphis_sync
from memphis_sync import _core

_names = itertools.count(1)


class Bench(NamedTuple):
    """A connected client and a raw connection to the same broker."""

    args: argparse.Namespace
    url: str
    client: memphis_sync.Memphis
    wire: _raw.Wire
    template: _raw.Template
    payload: bytes

    def station(self) -> Any:
        """A new station as the options say; never one that was used before."""
        return self.client.station(
            f"bench-{os.getpid()}-{next(_names)}",
            partitions_number=self.args.partitions,
            storage_type=getattr(memphis_sync.Storage, "MEMORY" if self.args.storage == "memory" else "DISK"),
        )

    def subjects(self, station: Any) -> list[bytes]:
        """The publish subject of each partition."""
        return [f"{stream}.final".encode() for stream in self.streams(station)]

    def streams(self, station: Any) -> list[str]:
        """The stream of each partition."""
        return [f"{station.name}${number}" for number in range(1, self.args.partitions + 1)]

    def another_wire(self) -> _raw.Wire:
        """A raw connection more, for the caller to close."""
        return _wire(self.url)

    def producer(self, *stations: Any) -> Any:
        """A producer of one station or several, whose messages carry an id if the options say so."""
        names = [station.name for station in stations]
        return self.client.producer(names if len(names) > 1 else names[0], "bench", idempotent=self.args.ids)


def parser(doc: str, *, count: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--count", type=int, default=count, help="messages in each run")
    made.add_argument("--size", type=int, default=128, help="bytes of payload")
    made.add_argument(
        "--pairs", type=int, default=5, help="runs of each, one after the other in turn; medians are printed"
    )
    made.add_argument("--partitions", type=int, default=1)
    made.add_argument("--storage", choices=["memory", "file"], default="memory")
    made.add_argument(
        "--ids", action="store_true", help="a message id on each message (idempotent), as by default in the client"
    )
    made.add_argument("--url", help="a broker that runs already; else an ephemeral one is started")
    made.add_argument(
        "--apart",
        action="store_true",
        help="the broker keeps one core and this process the others, as with a broker on a machine of its own (Linux)",
    )
    made.add_argument("--plot", type=Path, metavar="FILE.png|svg", help="draw the runs (needs matplotlib)")
    made.add_argument("--json", action="store_true", help="the JSON line only")
    return made


@contextlib.contextmanager
def bench(args: argparse.Namespace) -> Iterator[Bench]:
    """Starts a broker if none is named, connects both sides, and takes a frame off the client's own connection."""
    with contextlib.ExitStack() as stack:
        url = args.url
        if url is None:
            from memphis_sync.broker import BrokerOptions, BrokerProcess

            with apart() if args.apart else contextlib.nullcontext():
                url = stack.enter_context(BrokerProcess(BrokerOptions(port=0, ephemeral=True))).url
        elif args.apart:
            raise SystemExit("--apart places a broker that is started here; leave out --url")
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 6666

        def produce_one(through: int) -> None:
            with memphis_sync.connect(_with_port(url, through)) as recorded:
                station = recorded.station(f"bench-record-{os.getpid()}-{next(_names)}")
                # Not blocking: the frames to replay are those of the lane that a bulk producer uses.
                recorded.producer(station.name, "bench", idempotent=args.ids).produce(b"x", nonblocking=True).result()
                station.destroy()

        template = _raw.Template.record(host, port, produce_one)
        client = stack.enter_context(memphis_sync.connect(url, outbox_max_bytes=room(args)))
        wire = _wire(url)
        stack.callback(wire.close)
        yield Bench(args, url, client, wire, template, os.urandom(args.size))


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """
    Processes started inside keep the last of our cores, and threads started later in this process the others.

    With both on all cores the scheduler keeps moving threads between them, which costs more than what is measured.
    """
    *ours, theirs = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    if not ours:
        raise SystemExit("--apart needs Linux and two cores")
    os.sched_setaffinity(0, {theirs})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing inside (SIGSTOP) and goes on behind it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _wire(url: str) -> _raw.Wire:
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return _raw.Wire(parts.hostname or "127.0.0.1", parts.port or 6666, f"{user}$1", password)


def room(args: argparse.Namespace) -> int:
    """An outbox for a whole run, in bytes: what is measured is the wire, not the bound."""
    return int(max(1 << 26, args.count * (args.size + 320)))


@contextlib.contextmanager
def tls_client(outbox_max_bytes: int = 1 << 26) -> Iterator[memphis_sync.Memphis]:
    """A client under TLS, with a broker and certificates of its own."""
    try:
        import trustme
    except ImportError:
        raise SystemExit("--tls needs trustme: pip install 'memphis-sync[bench]'") from None
    from memphis_sync.broker import BrokerOptions, BrokerProcess

    with tempfile.TemporaryDirectory(prefix="memphis-sync-bench-") as name, contextlib.ExitStack() as stack:
        ca, cert, key = (Path(name) / f"{part}.pem" for part in ("ca", "cert", "key"))
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(str(ca))
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(cert))
        options = BrokerOptions(port=0, ephemeral=True, tls_cert=cert, tls_key=key)
        url = stack.enter_context(BrokerProcess(options)).url
        yield stack.enter_context(memphis_sync.connect(url, ca_file=str(ca), outbox_max_bytes=outbox_max_bytes))


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{userinfo}@127.0.0.1:{port}").geturl()


def in_turn(pairs: int, ours: Callable[[], float], raw: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Runs both *pairs* times, changing who goes first, so that a drift of the machine hits both alike."""
    results: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs):
        order = ((0, ours), (1, raw)) if turn % 2 == 0 else ((1, raw), (0, ours))
        for place, run in order:
            results[place].append(run())
    return results


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "binding": _core.IMPL,
        "memphis_sync": memphis_sync.__version__,
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(question: str, run: Bench, figures: dict[str, Any], sentence: str) -> None:
    """Prints the sentence for people and one JSON line for programs."""
    args = run.args
    line = {
        "question": question,
        **figures,
        **{name: getattr(args, name) for name in ("count", "size", "pairs", "partitions", "storage", "ids", "apart")},
        "server": run.wire.info.get("version", "?"),
        **machine(),
    }
    if not args.json:
        print(sentence, file=sys.stderr)
    print(json.dumps(line))


def pyplot() -> Any:
    """matplotlib, drawing into files; an SVG is small, and the same again when its figures are."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'memphis-sync[bench]'") from None
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "memphis_sync", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    return plt


def place() -> str:
    """Where the figures come from, for a title."""
    return f"{_cpu()}, {os.cpu_count()} cores"


def plot(path: Path, title: str, unit: str, series: dict[str, Sequence[float]]) -> None:
    """Draws each run as a point and each median as a line; the file's ending says PNG or SVG."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for place, values in enumerate(series.values()):
        median = statistics.median(values)
        axes.plot([place] * len(values), values, "o", alpha=0.5)
        axes.hlines(median, place - 0.3, place + 0.3)
        axes.annotate(f"{median:,.0f}", (place + 0.32, median), va="center")
    axes.set_xticks(range(len(series)), list(series))
    axes.set_xlim(-0.6, len(series) - 0.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.set_title(f"{title}\n{place()}", fontsize=9)
    figure.savefig(path)
    plt.close(figure)
