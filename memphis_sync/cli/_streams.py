"""
The command's standard streams, whichever of them there are.

Rules: results go to stdout and everything else to stderr. What a person is told never changes the outcome: a stderr
that is closed, full or a broken pipe is nobody to tell, and the exit code stays. A result that cannot be written is a
failure, unless the reader has closed the pipe because it has enough. stdin is asked for by the command that reads it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import IO


def reserve_closed() -> None:
    """
    Gives a descriptor of 0 to 2 that is closed to the null device.

    The next socket or file would get its number otherwise, and what C code prints would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def tell(text: str) -> None:
    """A line for people, on stderr, if anybody is there."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody reads it; the exit code says what happened
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def write_result(text: str) -> None:
    """A line on stdout; a reader that has enough ends nothing."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()


def standard_input() -> IO[bytes]:
    """
    stdin, binary.

    Raises:
        EOFError: It is closed.
    """
    if sys.stdin is None:
        raise EOFError("standard input is closed")
    return sys.stdin.buffer


def forget_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's own flush at exit finds no closed pipe and no full disk."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush_stdout() -> None:
    """
    Writes what is left in the buffer.

    Raises:
        OSError: It cannot be written; a closed pipe apart, whose reader has enough.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
    except OSError:
        forget_stdout()
        raise
