"""A broker as a child process, for tests, demos and notebooks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import quote

from memphis_sync.broker.options import ROOT, BrokerError, BrokerOptions
from memphis_sync.broker.server.nats_server import CONFIG_FILE, PID_FILE, in_url, reachable
from memphis_sync.broker.server.own_program import own_program
from memphis_sync.broker.server.processes import end, wait_for_end

if TYPE_CHECKING:
    from typing_extensions import Self

_POLL_S = 0.005
_STOP_IDLE_S = 15.0  # how long a process that should end may do nothing


class BrokerProcess:
    """
    ``python -m memphis_sync.broker`` in a subprocess; a context manager.

    Without ``data_dir`` and ``nats`` its data is in a temporary folder that exists until stop(), so that ``start()``
    after ``kill()`` finds the same data.

    Args:
        options: How the broker runs; by default on a free loopback port, with temporary data.
        timeout_s: How long the broker may take to be ready, in seconds.
        **settings: Fields of BrokerOptions, instead of *options*.

    Attributes:
        host, port: Where it listens.
        username, password: Of the user ``root``; the password is "" in token mode.
        token: The token in token mode; None otherwise.
        data_dir: The data folder; None when it serves an existing server.
        sdk_port: The port for official SDKs; None without one.
        http_port: The port for HTTP; None without one.

    Raises:
        TypeError: Both *options* and settings are given.
        ConfigurationError: An option is not allowed.
    """

    def __init__(self, options: Optional[BrokerOptions] = None, *, timeout_s: float = 15.0, **settings: Any) -> None:
        if options is not None and settings:
            raise TypeError("pass options or single settings, not both")
        self._options = options if options is not None else BrokerOptions(**{"port": 0, **settings})
        self._timeout_s = timeout_s
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._folder: Optional[Path] = None
        self._owns_data = self._options.nats is None and (self._options.ephemeral or self._options.data_dir is None)
        self.host = self._options.host
        self.port = self._options.port
        self.username = ROOT
        self.password = "" if self._options.token is not None else self._options.root_password
        self.token = self._options.token
        self.data_dir = self._options.data_dir
        self.sdk_port = self._options.sdk_port
        self.http_port = self._options.http_port

    @property
    def url(self) -> str:
        """
        The URL for clients: ``memphis://root:<password>@host:port``, with TLS ``memphis+tls://...``; without
        credentials in token mode.
        """
        login = "" if self.token is not None else f"{self.username}:{quote(self.password, safe='')}@"
        return f"{self._options.scheme}://{login}{in_url(reachable(self.host))}:{self.port}"

    @property
    def http_url(self) -> Optional[str]:
        """The URL for HTTP, without credentials; None without a gateway."""
        if self.http_port is None:
            return None
        return f"{self._options.http_scheme}://{in_url(reachable(self._options.host))}:{self.http_port}"

    @property
    def pid(self) -> int:
        """Process id of the supervisor; 0 before the first start()."""
        return self._child.pid if self._child else 0

    @property
    def nats_pid(self) -> int:
        """Process id of the current nats-server (a dead one is replaced); 0 when an existing server is served."""
        if self.data_dir is None or self._options.nats is not None:
            return 0
        try:
            return int((self.data_dir / PID_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self._child and self._child.poll() is None else "stopped"
        return f"<BrokerProcess {self.host}:{self.port} {state}>"

    def start(self) -> Self:
        """
        Starts the broker, and waits until it answers requests. After kill() it has the same data and port as before;
        after stop() it has the same port, and the data of a ``data_dir``.

        Raises:
            BrokerError: It ended, or was not ready in time; the text has what it printed.
        """
        if self._child is not None and self._child.poll() is None:
            return self
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="memphis-sync-"))
            if self._owns_data:
                self.data_dir = self._folder / "data"
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        output = self._folder / "output.log"
        with output.open("ab") as stream:
            self._child = subprocess.Popen(  # noqa: S603  our own interpreter and module
                self._command(ready), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=self._environment()
            )
        self._wait(ready)
        return self

    def stop(self) -> None:
        """Ends both processes with SIGTERM, kills them if they hang, and removes the temporary folder."""
        if self._child is not None and self._child.poll() is None:
            child, nats_pid = self._child, self.nats_pid
            child.terminate()
            # The supervisor waits for its nats-server while that makes progress, so that is the process to watch.
            if not wait_for_end(lambda: child.poll() is not None, nats_pid or child.pid, _STOP_IDLE_S):
                self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """Kills both processes with SIGKILL, as ``kill -9`` does, and waits for their end; the data stays."""
        if self._child is None or self._child.poll() is not None:
            return
        nats_pid = self.nats_pid
        if nats_pid and self.data_dir is not None and sys.platform != "win32":
            self._child.send_signal(signal.SIGSTOP)  # otherwise it might start another nats-server
            end(nats_pid, signal.SIGKILL, self.data_dir / CONFIG_FILE)
        self._child.kill()
        self._child.wait()

    def output(self) -> str:
        """What the broker has printed so far."""
        return (self._folder / "output.log").read_text(errors="replace") if self._folder else ""

    def _command(self, ready: Path) -> list[str]:
        options = self._options
        command = [*own_program("memphis_sync.broker.__main__", uses_client=False), "--ready-file", str(ready)]
        if options.nats is None:
            command += ["--host", options.host, "--port", str(self.port), "--data", str(self.data_dir)]
        if self.sdk_port is not None:
            command += ["--sdk-port", str(self.sdk_port)]
        if self.http_port is not None:
            command += ["--http", str(self.http_port)]
        for name in ("max_payload", "replicas", "dls_retention_hours", "tls_cert", "tls_key", "tls_ca"):
            if getattr(options, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        if options.users:
            users = ready.with_name("users")
            users.touch(mode=0o600)
            users.write_text("".join(f"{name}:{password}\n" for name, password in options.users.items()))
            command += ["--users-file", str(users)]
        return command

    def _environment(self) -> dict[str, str]:
        """The environment of this process, with the broker's secrets."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MEMPHIS_SYNC_BROKER_")}
        environment["MEMPHIS_SYNC_BROKER_ROOT_PASSWORD"] = self._options.root_password
        if self._options.token is not None:
            environment["MEMPHIS_SYNC_BROKER_TOKEN"] = self._options.token
        if self._options.nats is not None:
            environment["MEMPHIS_SYNC_BROKER_NATS"] = self._options.nats
        return environment

    def _wait(self, ready: Path) -> None:
        assert self._child is not None
        deadline = time.monotonic() + self._timeout_s
        while not ready.exists():
            code = self._child.poll()
            if code is not None or time.monotonic() > deadline:
                said = self.output().strip()[-2000:]
                self.kill()
                what = f"was not ready in {self._timeout_s:g} s" if code is None else f"ended with code {code}"
                raise BrokerError(f"the broker {what}: {said}")
            time.sleep(_POLL_S)
        facts = json.loads(ready.read_text())
        self.host, self.port, self.sdk_port = facts["host"], facts["port"], facts["sdk_port"]
        self.http_port = facts["http_port"]
        # A restart must get the same port, even if the system chose it.
        self._options = replace(self._options, port=self.port) if self._options.nats is None else self._options
