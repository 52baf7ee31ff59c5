"""
Real programs: servers and scripts with processes of their own, and what of their messages has arrived.

Each runs in a session of its own, so that all its processes are known, also those whose parent is gone: on a hang all
of them show their stacks, and at the end of the test none is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, TypeVar, Union

import pytest

if TYPE_CHECKING:
    from memphis_sync import Memphis

T = TypeVar("T")
LIMIT_S = 60.0  # a hang, however busy the machine is


class Process(NamedTuple):
    """A process that has not ended."""

    pid: int
    parent: int
    session: int


def running() -> list[Process]:
    """All processes of the machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX":
                found.append(Process(int(entry.name), int(parent), int(session)))
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    family = {pid}
    for process in sorted(running()):  # a child's id is the larger one, but for a wrap
        if process.parent in family:
            family.add(process.pid)
    return sorted(family - {pid})


def show_stacks(pids: Iterable[int]) -> None:
    """Ends processes with SIGABRT; those that run Python with faulthandler print the stacks of all their threads."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)


class Program:
    """
    ``python *args``, for instance ``-m gunicorn``, that runs until it ends or is told to.

    Args:
        args: Python's.
        folder: Its working directory; what it prints goes to two files there.
        env: Added to this process's environment.
    """

    def __init__(
        self, args: Sequence[Union[str, Path]], folder: Path, *, env: Optional[Mapping[str, str]] = None
    ) -> None:
        self.command = [sys.executable, *map(str, args)]
        number = len(list(folder.glob("out-*")))
        self._out, self._err = folder / f"out-{number}", folder / f"err-{number}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", **(env or {})},
                cwd=folder,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def stdout(self) -> str:
        """What it has printed so far, all its processes together."""
        return self._out.read_text(errors="backslashreplace")

    @property
    def stderr(self) -> str:
        """The same for its errors."""
        return self._err.read_text(errors="backslashreplace")

    def processes(self) -> list[int]:
        """The processes of its session that have not ended, its own included."""
        return sorted(process.pid for process in running() if process.session == self.pid)

    def until(self, condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
        """Waits for a condition and gives its value; shows all stacks and fails when it does not come."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            if self.process.poll() is not None:
                value = condition()
                return value or self._fail(f"ended with {self.process.returncode}")
            time.sleep(0.02)
        return self._fail(f"did not get there in {limit_s:g} s")

    def get(self, url: str) -> str:
        """What it answers to a request; shows all stacks and fails when that is an error, or takes too long."""
        try:
            with urllib.request.urlopen(url, timeout=2 * LIMIT_S) as answer:
                return answer.read().decode()
        except OSError as exc:
            return self._fail(f"answered {url} with {exc}")

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code; shows all stacks and fails when it does not end in time."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return self._fail(f"did not end in {limit_s:g} s")

    def done(self, limit_s: float = LIMIT_S) -> str:
        """Waits for an end without an error; gives what it printed."""
        code = self.wait(limit_s)
        return self.stdout if code == 0 else self._fail(f"ended with {code}")

    def terminate(self) -> None:
        """SIGTERM to its first process alone, as a supervisor sends it."""
        self.process.terminate()

    def close(self) -> None:
        """Ends all of its processes, however they are."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _fail(self, what: str) -> T:
        show_stacks(self.processes())
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.close()
        name = " ".join(part if len(part) < 80 else "..." for part in self.command)
        pytest.fail(f"{name} {what}\nstdout:\n{self.stdout[-3000:]}\nstderr:\n{self.stderr[-9000:]}", pytrace=False)


class Arrived(NamedTuple):
    """A message as it is in the station, and the connection that produced it."""

    data: bytes
    connection_id: str


def read_back(memphis: Memphis, station: str) -> list[Arrived]:
    """All messages of a station, by a group of its own that is gone afterwards."""
    consumer = memphis.consumer(station, "back", f"back-{uuid.uuid4().hex[:8]}", batch_size=1000)
    found = []
    for message in consumer.read_all():
        found.append(Arrived(bytes(message.data), (message.get_headers() or {})["$memphis_connectionId"]))
        message.ack()
    consumer.destroy()
    return found


def check_arrived(memphis: Memphis, station: str, accepted: Iterable[Union[bytes, str]]) -> list[Arrived]:
    """What is in a station; fails unless it is what was accepted, each once. Its programs have ended, or flushed."""
    found = read_back(memphis, station)
    wanted = Counter(body if isinstance(body, bytes) else body.encode() for body in accepted)
    got = Counter(message.data for message in found)
    lost, more = wanted - got, got - wanted
    if lost or more:
        pytest.fail(
            f"of {sum(wanted.values())} messages {sum(lost.values())} are lost, as {sorted(lost)[:8]}, and "
            f"{sum(more.values())} are there twice or were never accepted, as {sorted(more)[:8]}"
        )
    return found


class Shop:
    """
    The application of ``wsgi_shop.py`` in a server that is to be started with ``env``, from ``folder``.

    Args:
        opened: ``in the master`` or ``by a request``: where its client is opened.
        each: How many messages each process produces.
        at_once: How many requests all of its processes take together.
    """

    def __init__(self, folder: Path, broker_url: str, station: str, *, opened: str, each: int, at_once: int) -> None:
        self.station, self.opened, self.each, self.at_once = station, opened, each, at_once
        self._gate = folder / "gate"
        self._gate.mkdir()
        self.env = {
            "HOME": str(folder),  # gunicorn puts a socket there
            "PYTHONPATH": str(Path(__file__).parent),
            "MEMPHIS_URL": f"{broker_url}/?exit_timeout_s=30",
            "TEST_STATION": station,
            "TEST_EACH": str(each),
            "TEST_GATE": str(self._gate),
            "TEST_OPENED": opened,
        }

    @property
    def workers(self) -> set[str]:
        """The processes that have answered requests."""
        return {path.name for path in self._gate.iterdir()}

    def reach(self, server: Program, url: str, workers: int, *, flush: bool) -> None:
        """Requests until so many workers have answered one."""
        with ThreadPoolExecutor(self.at_once) as pool:
            query = f"{url}?{workers}&{'flush' if flush else ''}"
            assert set(pool.map(server.get, [query] * self.at_once)) <= self.workers
        assert len(self.workers) == workers

    def check(self, memphis: Memphis) -> None:
        """Each message has arrived once, and each process had one connection of its own."""
        processes = self.workers | ({"master"} if self.opened == "in the master" else set())
        accepted = [f"{who} {number}" for who in processes for number in range(self.each)]
        connections = defaultdict(set)
        for message in check_arrived(memphis, self.station, accepted):
            connections[message.data.split()[0].decode()].add(message.connection_id)
        assert {who: len(ids) for who, ids in connections.items()} == dict.fromkeys(processes, 1)
        assert len(set().union(*connections.values())) == len(processes)
