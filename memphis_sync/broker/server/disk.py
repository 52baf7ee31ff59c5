"""
Detects in the output of nats-server that its disk or its store is full, and decides when to restart it.

Rules:
* A stream that could not write does not reply until nats-server is restarted, even when there is space again
  (nats-server 2.15; earlier versions disable JetStream as a whole). So nats-server is restarted once a file of some
  size can be written; if that does not help, again after longer and longer pauses.
* A store that has reached its limit works again when messages are removed. When the disk has more space, a reload
  raises the limit.
* A problem is logged once, when it begins, and is named in the errors that clients get.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Optional

log = logging.getLogger("memphis_sync.broker")

_NO_ROOM = re.compile(r"no space left on device|disk quota exceeded|not enough space on the disk", re.IGNORECASE)
_HARMLESS = re.compile(r"ports file|pid file", re.IGNORECASE)  # files that are not needed once it listens
_DISABLED = re.compile(r"JetStream out of .*resources, will be DISABLED")
_LIMIT = re.compile(r"JetStream file resource limits exceeded")
_TROUBLE = ("[ERR]", "[WRN]", "[FTL]")
_PROBE_BYTES = 16 << 20  # must fit on the disk before nats-server is restarted
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0  # between two restarts for this reason
_LIMIT_S = 10.0  # how long a refused message counts as a problem


class DiskWatch:
    """
    Watches the disk space for the data of a nats-server.

    Args:
        folder: The data folder.

    Attributes:
        is_full: Whether a write has failed, and nats-server has not been restarted since.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_full = False
        self._limited_at: Optional[float] = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before = 0.0
        self._restarted_at = -_MAX_PAUSE_S

    @property
    def trouble(self) -> str:
        """The problem, for error texts; "" without one."""
        if self.is_full:
            return f"the broker's disk is full (data folder {self._folder}): free some space, and it continues"
        if self.is_limited:
            return "the broker's store has reached its limit: consume or remove messages, or give it a larger disk"
        return ""

    @property
    def is_limited(self) -> bool:
        """Whether nats-server has refused messages in the last seconds because of its limit."""
        return self._limited_at is not None and time.monotonic() - self._limited_at < _LIMIT_S

    def take(self, line: str) -> None:
        """Evaluates one line of the output."""
        if not any(word in line for word in _TROUBLE):
            return
        if (_NO_ROOM.search(line) and not _HARMLESS.search(line)) or _DISABLED.search(line):
            self._meet_full_disk(line)
        elif _LIMIT.search(line):
            if not self.is_limited:
                log.error("the broker's store has reached its limit: stations on disk accept no messages for now")
            self._limited_at = time.monotonic()

    def wants_restart(self) -> bool:
        """Whether the disk was full and has space again, so that a restart of nats-server brings its streams back."""
        now = time.monotonic()
        if not self.is_full or now < self._not_before:
            return False
        if not self._has_room():
            self._not_before = now + _FIRST_PAUSE_S
            return False
        self.is_full, self._restarted_at = False, now
        log.warning("the disk of %s has space again: restarting nats-server to bring its streams back", self._folder)
        return True

    def store_limit(self) -> int:
        """
        How many bytes the streams may take: three quarters of what they take now plus what is free. nats-server's own
        default ignores the first, so that a store that is half full would accept nothing after a restart.
        """
        used = 0
        for folder, _, names in os.walk(self._folder / "jetstream"):
            for name in names:
                try:
                    used += Path(folder, name).stat().st_size
                except OSError:  # it was just removed
                    continue
        return max(1, (used + shutil.disk_usage(self._folder).free) * 3 // 4)

    def _meet_full_disk(self, line: str) -> None:
        if self.is_full:
            return
        now = time.monotonic()
        was_no_help = now - self._restarted_at < 2 * _MAX_PAUSE_S
        self._pause_s = min(_MAX_PAUSE_S, 2 * self._pause_s) if was_no_help else _FIRST_PAUSE_S
        self.is_full, self._not_before = True, now + self._pause_s
        log.error("the disk of %s is full; stations accept no messages until there is space: %s", self._folder, line)

    def _has_room(self) -> bool:
        probe = self._folder / "room"
        try:
            with probe.open("wb") as file:
                for _ in range(_PROBE_BYTES >> 20):
                    file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        return True
