"""
memphis-py 1.3.1, unchanged from PyPI, in an environment of its own, as a peer: what it writes we read, and the reverse.

Of its own, because it calls protobuf's ``MessageFactory.GetPrototype``, which protobuf 6 no longer has, while our
``schemas`` and ``broker`` extras go with current protobuf. The environment is made once for each interpreter, in
``.venv-memphis-py-1.3.1/`` beside the tests, and kept; one that was not finished is made anew, and a second run that
comes meanwhile waits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import pytest
from fix_sdk import Peer, Remote, SdkClient, login, make_once, run_tool

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess

VERSION = "1.3.1"
REQUIREMENTS = (f"memphis-py=={VERSION}", "protobuf<6")
FOLDER = Path(__file__).parents[2] / f".venv-memphis-py-{VERSION}"
PEER = Path(__file__).parents[1] / "sdk" / "memphis_py_peer.py"
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


class MemphisPy(Peer):
    """memphis-py in a process. ``Headers``, ``Memphis``, ``Retention`` and ``Storage`` are its names."""

    def __init__(self, python: Path) -> None:
        super().__init__([python, "-X", "faulthandler", PEER])

    def connect(self, broker: BrokerProcess, **options: Any) -> Remote:
        memphis = self.new("Memphis")
        memphis.connect(**login(broker, "connection_token", options))
        return memphis

    def headers(self, **items: str) -> Remote:
        """A Headers of the SDK; ``_`` in a name stands for itself."""
        headers = self.new("Headers")
        for name, value in items.items():
            headers.add(name, value)
        return headers


def interpreter() -> Path:
    """
    The interpreter that has memphis-py; made by the first call.

    Raises:
        pytest.fail.Exception: pip could not install it; the text is pip's own.
    """
    made = _interpreter()
    if isinstance(made, str):
        pytest.fail(made, pytrace=False)
    return made


@lru_cache(maxsize=1)
def _interpreter() -> Union[Path, str]:
    """The interpreter, or why there is none: asked for once in a run, whatever comes of it."""
    try:
        return make_environment(FOLDER)
    except subprocess.SubprocessError as exc:
        output = getattr(exc, "output", None) or b""
        return f"{' and '.join(REQUIREMENTS)} could not be installed: {exc}\n{output.decode(errors='replace')}"


def make_environment(folder: Path) -> Path:
    """
    An environment for this interpreter inside *folder*, unless a finished one is there.

    Returns:
        Its interpreter.
    """
    contents = "\n".join([*REQUIREMENTS, sys.version, sys.base_prefix])
    return make_once(folder, str(sys.implementation.cache_tag), contents, _install) / "bin" / "python"


def _install(here: Path) -> None:
    run_tool(sys.executable, "-m", "venv", here)
    run_tool(here / "bin" / "python", "-m", "pip", "install", *QUIET, *REQUIREMENTS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes the environment before the tests: it may take longer than a test may."""
    if (
        any("memphis_py_python" in item.fixturenames for item in session.items)
        and not session.config.option.collectonly
    ):
        _interpreter()


@pytest.fixture(scope="session")
def memphis_py_python() -> Path:
    """The interpreter that has memphis-py."""
    return interpreter()


@pytest.fixture(scope="session")
def memphis_py_process(memphis_py_python: Path) -> Iterator[MemphisPy]:
    """One process for all tests: each start of the SDK costs half a second."""
    process = MemphisPy(memphis_py_python)
    yield process
    process.close()


@pytest.fixture
def memphis_py(memphis_py_process: MemphisPy, broker: BrokerProcess) -> Iterator[SdkClient]:
    """memphis-py, connected to the session's broker; closed after the test."""
    client = SdkClient(memphis_py_process, broker)
    yield client
    client.close()
