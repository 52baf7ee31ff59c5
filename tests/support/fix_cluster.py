"""Three real nats-servers that form a cluster on loopback, and a control plane on it; a test may end any of them."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import pytest

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess

NODES = 3
READY_S = 120.0
PASSWORD = "memphis"
_CONFIG = """
server_name: {name}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{monitor}
max_payload: 8388608
jetstream {{ store_dir: "{folder}/jetstream" }}
cluster {{ name: c, listen: 127.0.0.1:{routes}, no_advertise: true, routes: [{peers}] }}
accounts {{
  SYS {{ users: [{{ user: sys, password: sys }}] }}
  APP {{
    jetstream: enabled
    users: [{{ user: root, password: {password} }}, {{ user: "root$1", password: {password} }}]
  }}
}}
system_account: SYS
"""


class Node:
    """One nats-server of a cluster."""

    def __init__(self, name: str, ports: tuple[int, int, int], folder: Path) -> None:
        self.name = name
        self.port, self.routes, self.monitor = ports
        self.folder = folder
        self._process: Optional[subprocess.Popen[bytes]] = None

    def configure(self, peers: list[Node]) -> None:
        self.folder.mkdir()
        text = _CONFIG.format(
            name=self.name,
            port=self.port,
            monitor=self.monitor,
            routes=self.routes,
            folder=self.folder,
            password=PASSWORD,
            peers=", ".join(f'"nats://127.0.0.1:{peer.routes}"' for peer in peers),
        )
        (self.folder / "nats-server.conf").write_text(text)

    def start(self) -> None:
        from memphis_sync.broker.server.nats_server import find_nats_server  # not before the binding is chosen

        command = [find_nats_server(), "-c", str(self.folder / "nats-server.conf"), "-l", str(self.folder / "log")]
        self._process = subprocess.Popen(command, start_new_session=True)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self, with_signal: int = signal.SIGKILL) -> None:
        if self.is_running:
            self._process.send_signal(with_signal)
            self._process.wait(READY_S)

    def said(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")
        return ""

    def monitoring(self, path: str) -> dict[str, Any]:
        """A page of its monitoring; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{path}", timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return {}


class Cluster:
    """The three, and the control plane ``broker``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: list[Node] = []
        self.broker: Optional[BrokerProcess] = None

    def start(self) -> None:
        for attempt in range(10):
            self.nodes = self._started(self._folder / str(attempt))
            if self._wait_until_ready():
                break
            self.stop()  # somebody else took one of the ports
        else:
            pytest.fail(f"no cluster: {[node.said()[-1000:] for node in self.nodes]}")
        self.broker = self.new_broker().start()

    def new_broker(self) -> BrokerProcess:
        """A control plane on it, not started."""
        from memphis_sync.broker import BrokerOptions, BrokerProcess

        servers = ",".join(f"nats://root:{PASSWORD}@127.0.0.1:{node.port}" for node in self.nodes)
        return BrokerProcess(BrokerOptions(nats=servers, replicas=NODES), timeout_s=READY_S)

    def _started(self, folder: Path) -> list[Node]:
        ports = iter(_free_ports(3 * NODES))
        folder.mkdir()
        nodes = [
            Node(f"n{number}", (next(ports), next(ports), next(ports)), folder / f"n{number}")
            for number in range(NODES)
        ]
        for node in nodes:
            node.configure(nodes)
            node.start()
        return nodes

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and all(node.is_running for node in self.nodes):
            if self.is_whole():
                return True
            time.sleep(0.05)
        return False

    def is_whole(self) -> bool:
        """Whether all servers run and have caught up with their leader."""
        pages = [node.monitoring("jsz").get("meta_cluster", {}) for node in self.nodes]
        return all(page.get("leader") and page.get("cluster_size") == NODES for page in pages) and all(
            node.monitoring("healthz").get("status") == "ok" for node in self.nodes
        )

    @property
    def url(self) -> str:
        """For connect(): all servers, the user root."""
        return f"memphis://root:{PASSWORD}@" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_of(self, memphis: Any) -> Node:
        """The server that a client is connected to."""
        (node,) = [node for node in self.nodes if f":{node.port} " in repr(memphis)]
        return node

    def leader_of(self, memphis: Any, stream: str) -> Node:
        """The server that leads a partition now; asked over *memphis*."""
        session = memphis._session
        info = session.call(lambda: session.control.js_api(f"STREAM.INFO.{stream}", None, 10.0), 10.0, "the test")
        (node,) = [node for node in self.nodes if node.name == info["cluster"]["leader"]]
        return node

    def stop(self) -> None:
        if self.broker is not None:
            self.broker.stop()
        for node in self.nodes:
            node.end()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: nats-server has to know those of its peers before they start."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own."""
    made = Cluster(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()
