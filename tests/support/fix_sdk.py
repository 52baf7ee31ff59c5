"""
The official SDKs as peers: a program beside us holds the SDK's objects, and a test calls them from here.

    memphis = memphis_py.connect(broker)
    producer = memphis.producer(station_name="orders", producer_name="p")
    producer.produce(bytearray(b"hello"))

Each call goes to the peer as one line of JSON and waits for its result: plain values come back as they are, everything
else as a Remote. The peers (sdk/memphis_py_peer.py, sdk/memphis_js_peer.js) know no test: they call what they are told
to, so that it is the unchanged SDK that is seen.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync.broker import BrokerProcess

INSTALL_S = 600  # a cold download on a busy machine
CALL_S = 60.0  # of one call: memphis-py's empty fetch takes five seconds, a request up to twenty


class SdkError(Exception):
    """What a call raised in the peer: ``<class>: <text>``."""


class Name:
    """Something of the SDK by its name, as in ``Name("Retention.BYTES")``."""

    def __init__(self, path: str) -> None:
        self.path = path


class Remote:
    """An object of the SDK. Its methods are called as they are; read() gives an attribute."""

    def __init__(self, peer: Peer, ref: int, kind: str) -> None:
        self._peer = peer
        self._ref = ref
        self.kind = kind  # name of its class

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self._peer.call(self._ref, method, args, kwargs)

    def read(self, attribute: str) -> Any:
        """The value of an attribute."""
        return self._peer.ask({"get": attribute, "on": self._ref})

    def __repr__(self) -> str:
        return f"<remote {self.kind}>"


class Calls:
    """A callback that lives in the peer and notes how it was called."""

    def __init__(self, peer: Peer, ref: int) -> None:
        self._peer = peer
        self._ref = ref

    def wait(self, count: int, timeout_s: float = 20.0) -> list[list[Any]]:
        """
        The arguments of all calls so far, when they brought at least *count* messages.

        Args:
            count: Messages, alone or in lists, as first argument.
            timeout_s: Limit in seconds; the test fails then.
        """
        return self._peer.ask({"wait": self._ref, "count": count, "timeout_s": timeout_s})


class Peer:
    """
    A process that holds an SDK.

    Args:
        command: What starts it.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain_environment(),
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.said = bytearray()  # what it wrote to stderr, and the SDK to stdout
        self._readers = [
            threading.Thread(target=self._read_lines, name="test-peer-stdout", daemon=True),
            threading.Thread(target=self._read_stderr, name="test-peer-stderr", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    # ---- what tests use ---------------------------------------------------------------------------------------------

    def connect(self, broker: BrokerProcess, **options: Any) -> Remote:
        """A connected client of the SDK; *options* are those of its ``connect``, and change the broker's own login."""
        raise NotImplementedError

    def new(self, name: str, *args: Any) -> Remote:
        """An object of a class of the SDK, as in ``new("Headers")``."""
        return self.call(0, name, args, {})

    def callback(self, *, fails: bool = False) -> Calls:
        """A callback to hand to the SDK; one that *fails* raises each time."""
        return Calls(self, self.ask({"callback": {"fails": fails}}))

    def kill(self) -> None:
        """Ends the process as a crash would."""
        self._process.kill()

    def ended(self, timeout_s: float = 20.0) -> int:
        """Waits until the process has ended by itself. Returns its exit code."""
        return self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        """Ends the process. Returns its exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self._process.stdin.close()
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return code

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def call(self, ref: int, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls a method of an object, 0 being the SDK itself."""
        return self.ask({"call": method, "on": ref, "args": list(args), "kwargs": dict(kwargs)})

    def ask(self, request: dict[str, Any]) -> Any:
        """
        One request, one reply.

        Raises:
            SdkError: The SDK raised.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request, default=self._encode).encode() + b"\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=CALL_S)
        except (BrokenPipeError, queue.Empty) as exc:
            self._process.kill()
            pytest.fail(f"the SDK's process did not answer ({exc!r}): {request}\n{self._last_words()}", pytrace=False)
        if not line:
            self._process.wait(10)
            raise SdkError(f"the process ended with {self._process.returncode}: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise SdkError(reply["error"])
        return self._decode(reply["value"])

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for chunk in iter(lambda: self._process.stderr.read1(65536), b""):
            self.said += chunk

    def _last_words(self) -> str:
        for reader in self._readers:
            reader.join(1)
        return self.said.decode(errors="backslashreplace")[-4000:]

    def _encode(self, value: Any) -> Any:
        if isinstance(value, (Remote, Calls)):
            return {"$ref": value._ref}
        if isinstance(value, Name):
            return {"$name": value.path}
        if isinstance(value, (bytes, bytearray)):
            return {"$" + type(value).__name__: base64.b64encode(value).decode()}
        raise TypeError(f"{value!r} cannot be sent to an SDK")

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return Remote(self, value["$ref"], value["kind"])
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        return {key: self._decode(item) for key, item in value.items()}


def login(broker: BrokerProcess, token_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Host, port and login of a broker in an SDK's words; *options* win."""
    found: dict[str, Any] = {"host": broker.host, "port": broker.port, "username": broker.username}
    if broker.token:
        found[token_name] = broker.token
    else:
        found["password"] = broker.password
    return {**found, **options}


def make_once(folder: Path, name: str, contents: str, make: Callable[[Path], None]) -> Path:
    """
    Makes ``folder/name`` by ``make(path)``, unless one that was finished with the same *contents* is there.

    A half-made one is made anew, and a second process that comes meanwhile waits and takes it.

    Returns:
        The path.
    """
    folder.mkdir(exist_ok=True)
    here, finished = folder / name, folder / f"{name}.finished"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, however this process ends
        if not (finished.exists() and finished.read_text() == contents and here.is_dir()):
            finished.unlink(missing_ok=True)
            shutil.rmtree(here, ignore_errors=True)
            make(here)
            finished.write_text(contents)
    return here


def run_tool(*command: object) -> None:
    """
    Runs an installer to its end, its output kept for the error.

    Raises:
        subprocess.SubprocessError: It failed or took longer than INSTALL_S.
    """
    subprocess.run(
        [str(part) for part in command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=INSTALL_S,
        env=plain_environment(),
    )


def plain_environment() -> dict[str, str]:
    """This process's environment without what makes its own interpreter run under a sanitizer."""
    return {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONMALLOC")}


class SdkClient:
    """
    What a test gets: a connected client of an SDK, closed after the test.

    Its methods are the client's own. ``sdk`` is the peer; connect() opens one more client, closed after the test too.
    """

    def __init__(self, sdk: Peer, broker: BrokerProcess, memphis: Optional[Remote] = None) -> None:
        self.sdk = sdk
        self._broker = broker
        self._opened: list[Remote] = []
        self._held = sdk.ask({"held": True})
        self.memphis = memphis or self.connect()  # one that is given stays open

    def connect(self, broker: Optional[BrokerProcess] = None, **options: Any) -> Remote:
        """A further client, of the same broker unless another is given."""
        self._opened.append(self.sdk.connect(broker or self._broker, **options))
        return self._opened[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all clients, and drops everything that the test held."""
        for client in self._opened:
            client.close()
        self.sdk.ask({"forget": self._held})

    def __getattr__(self, method: str) -> Any:
        return getattr(self.memphis, method)
