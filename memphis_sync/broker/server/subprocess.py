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
from memphis_sync.broker.server.processes import end, wait_for_end

if TYPE_CHECKING:
    from typing_extensions import Self

# What ``-m memphis_sync.broker`` does, but with the package that is running here: -m would look into the working
# directory first, where a source tree without the compiled core may lie.
_START = (
    "import sys; root = sys.argv.pop(1); sys.path = [root, *filter(None, sys.path)]; "
    "from memphis_sync.broker.__main__ import main; sys.exit(main())"
)
_PACKAGE_ROOT = Path(__file__).absolute().parents[3]
_POLL_S = 0.005
_STOP_IDLE_S = 15.0  # how long both processes may do nothing when they are to end; each has a bound of its own


class BrokerProcess:
    """
    ``python -m memphis_sync.broker`` in a subprocess; a context manager.

    With neither ``data_dir`` nor ``nats`` it works in a temporary folder that lives as long as this object is open, so
    that ``kill()`` and ``start()`` find the same data.

    Args:
        options: How the broker runs; an ephemeral one on a free loopback port when left out.
        timeout_s: How long the broker may take to be ready.
        **settings: Fields of BrokerOptions, instead of *options*.

    Attributes:
        host, port: Where it listens.
        username, password: Of the user ``root``; the password is "" in token mode.
        token: None with passwords.
        pid, nats_pid: Of the two processes; the second is 0 when it serves an existing server.
        data_dir: The data folder; None when it serves an existing server.
        sdk_port: The port for official SDKs; None without one.
    """

    def __init__(self, options: Optional[BrokerOptions] = None, *, timeout_s: float = 15.0, **settings: Any) -> None:
        if options is not None and settings:
            raise TypeError("give options or single settings, not both")
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

    @property
    def url(self) -> str:
        """
        What a client connects to: ``memphis://root:<password>@host:port``, with TLS ``memphis+tls://...``; without
        credentials in token mode.
        """
        login = "" if self.token is not None else f"{self.username}:{quote(self.password, safe='')}@"
        return f"{self._options.scheme}://{login}{in_url(reachable(self.host))}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the supervisor; 0 while it isn't started."""
        return self._child.pid if self._child else 0

    @property
    def nats_pid(self) -> int:
        """Process id of the present nats-server (a dead one is replaced); 0 when an existing server is served."""
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
        Starts the broker, again on the same data and port after stop() or kill(), and waits until it answers.

        Raises:
            BrokerError: It ended, or wasn't ready in time; the text has what it printed.
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
        self._wait(ready, output)
        return self

    def stop(self) -> None:
        """Ends both processes in order (SIGTERM), and removes the temporary folder."""
        if self._child is not None and self._child.poll() is None:
            child, nats_pid = self._child, self.nats_pid
            child.terminate()
            # The supervisor waits for its nats-server for as long as that one gets on; so it is the one to look at.
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
            self._child.send_signal(signal.SIGSTOP)  # else it might start another nats-server in between
            end(nats_pid, signal.SIGKILL, self.data_dir / CONFIG_FILE)
        self._child.kill()
        self._child.wait()

    def output(self) -> str:
        """What the broker has printed so far."""
        return (self._folder / "output.log").read_text(errors="replace") if self._folder else ""

    def _command(self, ready: Path) -> list[str]:
        options = self._options
        command = [sys.executable, "-c", _START, str(_PACKAGE_ROOT), "--ready-file", str(ready)]
        if options.nats is None:
            command += ["--host", options.host, "--port", str(self.port), "--data", str(self.data_dir)]
        command += ["--max-payload", str(options.max_payload), "--replicas", str(options.replicas)]
        command += ["--dls-retention-hours", str(options.dls_retention_hours)]
        if self.sdk_port is not None:
            command += ["--sdk-port", str(self.sdk_port)]
        for name in ("tls_cert", "tls_key", "tls_ca"):
            if getattr(options, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        if options.users:
            users = ready.with_name("users")
            users.touch(mode=0o600)
            users.write_text("".join(f"{name}:{password}\n" for name, password in options.users.items()))
            command += ["--users-file", str(users)]
        return command

    def _environment(self) -> dict[str, str]:
        """This process's environment, with the secrets."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MEMPHIS_SYNC_BROKER_")}
        environment["MEMPHIS_SYNC_BROKER_ROOT_PASSWORD"] = self._options.root_password
        if self._options.token is not None:
            environment["MEMPHIS_SYNC_BROKER_TOKEN"] = self._options.token
        if self._options.nats is not None:
            environment["MEMPHIS_SYNC_BROKER_NATS"] = self._options.nats
        return environment

    def _wait(self, ready: Path, output: Path) -> None:
        assert self._child is not None
        deadline = time.monotonic() + self._timeout_s
        while not ready.exists():
            if self._child.poll() is not None:
                said = output.read_text(errors="replace").strip()
                raise BrokerError(f"the broker ended with code {self._child.returncode}: {said[-2000:]}")
            if time.monotonic() > deadline:
                said = output.read_text(errors="replace").strip()
                self.kill()
                raise BrokerError(f"the broker was not ready in {self._timeout_s:g} s: {said[-2000:]}")
            time.sleep(_POLL_S)
        facts = json.loads(ready.read_text())
        self.host, self.port, self.sdk_port = facts["host"], facts["port"], facts["sdk_port"]
        # Whoever restarts must get the same port back, also when it was a free one the first time.
        self._options = replace(self._options, port=self.port) if self._options.nats is None else self._options
