"""
The command's standard streams, each of which may be closed.

Rules: results go to stdout and everything else to stderr. A stderr that is closed, full or a broken pipe does not
change the exit code. A result that cannot be written is a failure, unless the reader has closed the pipe.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import sys
from typing import Any


def reserve_closed() -> None:
    """
    Opens the null device in place of each descriptor of 0 to 2 that is closed.

    Otherwise the next socket or file would get its number, and what C code prints would go into it.
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
    """Writes a line for people to stderr, if that is open."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # the exit code says what happened
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def write_result(text: str) -> None:
    """Writes a line to stdout; a pipe that its reader has closed is no failure."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()


def json_line(record: dict[str, Any], data: bytes) -> bytes:
    """A message as one line of JSON, with its payload as text, or in base64 when it is not UTF-8."""
    try:
        record["data"] = data.decode()
    except UnicodeDecodeError:
        record["data_base64"] = base64.b64encode(data).decode()
    # Bytes of a header that are not UTF-8 are lone surrogates in it: written as escapes, the line is still JSON.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + os.linesep.encode()


def forget_stdout() -> None:
    """Points stdout at the null device, so that the interpreter's flush at exit does not fail again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush_stdout() -> None:
    """
    Writes what is left in the buffer; a pipe that its reader has closed is no failure.

    Raises:
        OSError: It cannot be written.
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
