"""
memphis-dev 1.3.2, the official SDK for Node, unchanged from npm, as a peer. Its tests carry the mark ``node``.

``underscore`` is installed beside it: memphis-dev's avro-js needs it and does not say so, and without it the SDK does
not load at all. The folder ``.node-memphis-dev-1.3.2/`` beside the tests is made once and kept, as memphis-py's is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import pytest
from fix_sdk import Peer, Remote, SdkClient, login, make_once, run_tool

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess

VERSION = "1.3.2"
REQUIREMENTS = (f"memphis-dev@{VERSION}", "underscore@1.13")
FOLDER = Path(__file__).parents[2] / f".node-memphis-dev-{VERSION}"
PEER = Path(__file__).parents[1] / "sdk" / "memphis_js_peer.js"
MARK = "node"


class MemphisJs(Peer):
    """memphis-dev in a Node process."""

    def __init__(self) -> None:
        super().__init__(["node", PEER, installed()])

    def connect(self, broker: BrokerProcess, **options: Any) -> Remote:
        memphis = self.new("createMemphisInstance")
        memphis.connect(**login(broker, "connectionToken", options))
        return memphis

    def headers(self, **items: str) -> Remote:
        """A MsgHeaders of the SDK."""
        headers = self.new("MsgHeaders")
        for name, value in items.items():
            headers.add(name, value)
        return headers


def missing() -> Optional[str]:
    """Which of node and npm this machine lacks; None when both are there."""
    return next((tool for tool in ("node", "npm") if shutil.which(tool) is None), None)


@lru_cache(maxsize=1)
def _installed() -> Optional[str]:
    """What went wrong with the installation: asked for once in a run."""
    try:
        make_once(FOLDER, "node_modules", "\n".join(REQUIREMENTS), _install)
    except subprocess.SubprocessError as exc:
        output = getattr(exc, "output", None) or b""
        return f"{' and '.join(REQUIREMENTS)} could not be installed: {exc}\n{output.decode(errors='replace')}"
    return None


def installed() -> Path:
    """
    The folder whose node_modules hold memphis-dev; filled by the first call.

    Raises:
        pytest.fail.Exception: npm could not install it; the text is npm's own.
    """
    failure = _installed()
    if failure is not None:
        pytest.fail(failure, pytrace=False)
    return FOLDER


def _install(node_modules: Path) -> None:
    folder = node_modules.parent
    (folder / "package.json").write_text('{"private": true}')
    (folder / "package-lock.json").unlink(missing_ok=True)
    # None of the packages' own install scripts is needed: they ask for donations.
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    run_tool("npm", "install", "--prefix", folder, *quiet, *REQUIREMENTS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs before the tests: it may take longer than a test may."""
    wanted = any("memphis_js_process" in item.fixturenames for item in session.items)
    if wanted and not session.config.option.collectonly:
        _installed()


@pytest.fixture(scope="session")
def memphis_js_process() -> Iterator[MemphisJs]:
    """One Node process for all tests: each start of the SDK costs a second."""
    process = MemphisJs()
    yield process
    process.close()


@pytest.fixture(scope="session")
def memphis_js_connected(memphis_js_process: MemphisJs, broker: BrokerProcess) -> Remote:
    """One client for all tests: each close() of the SDK waits for half a second."""
    return memphis_js_process.connect(broker)


@pytest.fixture
def memphis_js(
    memphis_js_process: MemphisJs, memphis_js_connected: Remote, broker: BrokerProcess
) -> Iterator[SdkClient]:
    """memphis-dev, connected to the session's broker."""
    client = SdkClient(memphis_js_process, broker, memphis_js_connected)
    yield client
    client.close()
