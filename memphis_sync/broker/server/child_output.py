"""
The output of nats-server: written to its log, and read line by line.

It comes through a pipe instead of going directly to the file, because messages about a full disk must arrive even when
the log is on that disk. Windows has no pipes that can be read without waiting; there the child writes the log, and it
is read from the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from pathlib import Path
from typing import IO, Callable, Optional

_READ_BYTES = 1 << 18
_TAIL_LINES = 200  # kept to tell why it ended


class ChildOutput:
    """
    The output of the current nats-server, and the last lines of earlier ones.

    Args:
        path: The log.
        open_log: Opens it for appending.

    Attributes:
        has_ended: Whether the current child has closed its end.
        tail: The last lines.
        on_line: Called with each line.
    """

    def __init__(self, path: Path, open_log: Callable[[], IO[str]]) -> None:
        self._path = path
        self._open_log = open_log
        self._pipe: Optional[int] = None
        self._position = 0
        self._rest = b""
        self.has_ended = False
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.on_line: Callable[[str], None] = lambda _: None

    def for_child(self) -> int:
        """A descriptor for the next child's output; the caller closes it after the start of the child."""
        self.read()
        self.close()
        self._rest = b""
        if sys.platform == "win32":
            with self._open_log() as file:
                self._position = self._path.stat().st_size
                return os.dup(file.fileno())
        self.has_ended = False
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        return write_end

    def fileno(self) -> Optional[int]:
        """The descriptor that is readable when there is something to read(); None on Windows."""
        return self._pipe

    def read(self) -> None:
        """Reads what has been printed, without waiting, and calls ``on_line`` with each whole line."""
        while True:
            data = self._read_some()
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace")
                self.tail.append(text)
                self.on_line(text)

    def close(self) -> None:
        """Stops reading from the current child."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _read_some(self) -> bytes:
        if sys.platform == "win32":
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read(_READ_BYTES)
                self._position += len(data)
                return data
            return b""
        if self._pipe is None:
            return b""
        try:
            data = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return b""
        self.has_ended = not data
        with contextlib.suppress(OSError), self._open_log() as log:  # its disk may be full
            log.write(data.decode("utf-8", "replace"))
        return data
