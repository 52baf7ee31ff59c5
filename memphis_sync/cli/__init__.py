"""
The ``memphis-sync`` command.

Rules: data goes to stdout and everything else to stderr; a payload never goes through rich; a command imports what it
needs when it runs. Exit codes: 0 done, 1 failed, 2 usage, 3 no connection, 4 some messages not stored, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Optional

from ._streams import reserve_closed, tell


def main(argv: Optional[list[str]] = None) -> int:
    """
    Runs one command.

    Args:
        argv: Arguments without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    reserve_closed()
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["broker"]:  # so that a server starts without loading a command line library
        from memphis_sync.broker.__main__ import main as broker_main

        return broker_main(args[1:], "memphis-sync broker")
    try:
        import click  # noqa: F401  imported here, so that a missing package is one sentence
        import rich  # noqa: F401
    except ImportError as exc:
        extra = "gateway" if "gateway" in args else "cli"  # which includes the other
        tell(f"memphis-sync needs the extra {extra!r}: pip install 'memphis-sync[{extra}]' ({exc})")
        return 2
    from ._app import run

    return run(args)
