"""
Runs protoc on an untrusted source, in an isolated process.

Rules:
* The interpreter is isolated: neither its working directory, which is an empty one, nor the environment decides what it
  imports. Only the folder of grpc_tools is added, found without the broker's working directory.
* The environment is empty: the broker's holds passwords.
* Time, memory and output are bounded: by the child for itself before it sees the source, and by the wait for it.
* Errors come through a file: protoc prints them to a file descriptor rather than to its caller.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Optional

TIMEOUT_S = 10.0  # half of what clients wait; protoc needs less than a tenth of a second
_MEMORY_BYTES = 512 << 20  # of address space; a source of 2.5 MB with 100,000 messages takes 330 MB
_OUTPUT_BYTES = 64 << 20  # of the largest file: the descriptors, which must fit into a message in the end
_SHOWN_BYTES = 64 << 10  # of its error text

_START = f"""
import sys
try:
    import resource
except ImportError:  # Windows
    pass
else:
    limits = [
        (resource.RLIMIT_CPU, {int(TIMEOUT_S)}),
        (resource.RLIMIT_AS, {_MEMORY_BYTES}),
        (resource.RLIMIT_FSIZE, {_OUTPUT_BYTES}),
        (resource.RLIMIT_CORE, 0),
    ]
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most, most) if hard < 0 or hard > most else (hard, hard))
        except (ValueError, OSError):  # a system without this one
            pass
sys.path.append(sys.argv.pop(1))
from grpc_tools import protoc
sys.exit(protoc.main([*sys.argv, "-I" + protoc._get_resource_file_name("grpc_tools", "_proto")]))
"""


class ProtocError(Exception):
    """protoc refused the source, or did not finish; the text is protoc's own if it gave one."""


def find() -> Optional[str]:
    """The folder that holds the package grpc_tools; None when it is not installed."""
    if sys.modules.get("grpc_tools", sys) is None:  # None there is how a program forbids an import
        return None
    here = Path.cwd()
    folders = [folder for folder in sys.path if folder and Path(folder).absolute() != here]
    spec = PathFinder.find_spec("grpc_tools", folders)
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).absolute().parents[1])


def descriptor_set(packages: str, file_name: str, source: bytes) -> bytes:
    """
    The descriptor set of a ``.proto`` source, imports included. Takes up to TIMEOUT_S: not for the event loop.

    Args:
        packages: The folder that find() gave.
        file_name: Without folders; protoc's messages and the descriptors contain it.
        source: The source.

    Raises:
        ProtocError: The source is wrong, or too much for the limits.
    """
    with tempfile.TemporaryDirectory(prefix="memphis-sync-protoc-") as folder:
        sources, empty = Path(folder) / "sources", Path(folder) / "empty"
        sources.mkdir()
        empty.mkdir()
        target, said = Path(folder) / "descriptors", Path(folder) / "said"
        (sources / file_name).write_bytes(source)
        # protoc sees only this folder and its own google/protobuf/*.proto: an import cannot reach anything else.
        arguments = [f"-I{sources}", "--include_imports", f"--descriptor_set_out={target}", str(sources / file_name)]
        with said.open("wb") as output:
            try:
                code = subprocess.run(  # noqa: S603  our own interpreter; the name in it is a checked one
                    [sys.executable, "-I", "-c", _START, packages, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                    cwd=empty,
                    env=_environment(),
                    timeout=TIMEOUT_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as exc:
                raise ProtocError(f"protoc did not finish within {TIMEOUT_S:g} s") from exc
        if code == 0 and target.is_file():
            return target.read_bytes()
        with said.open("rb") as stream:
            text = stream.read(_SHOWN_BYTES).decode("utf-8", "replace").replace(f"{sources}{os.sep}", "").strip()
        if code < 0:  # a signal: from a limit, or a crash
            raise ProtocError(f"protoc was ended by signal {-code}: the source takes too much time or memory")
        raise ProtocError(text or f"protoc ended with {code}")


def _environment() -> dict[str, str]:
    """Nothing, but what Windows needs to load a library at all."""
    return {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
