"""
Notices in what nats-server prints that its disk or its store is full; its streams live again once there is room.

Rules:
* A stream that could not write answers nothing any more until nats-server starts again, also when there is room by
  then (nats-server 2.15; earlier ones end JetStream as a whole). So nats-server is started again once a file of some
  size can be written; again and again, later and later, when that does not help.
* A store that has reached its limit goes on by itself when messages are removed. When the disk has got more room, the
  limit is raised by a reload.
* What is wrong is logged once, when it begins, and stands in the errors that clients get.
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
_HARMLESS = re.compile(r"ports file|pid file", re.IGNORECASE)  # files that nobody needs once it listens
_DISABLED = re.compile(r"JetStream out of .*resources, will be DISABLED")
_LIMIT = re.compile(r"JetStream file resource limits exceeded")
_TROUBLE = ("[ERR]", "[WRN]", "[FTL]")
_PROBE_BYTES = 16 << 20  # that must fit on the disk before nats-server is started again
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0  # between two starts for that reason
_LIMIT_S = 10.0  # a limit that nobody has met for so long is no trouble any more


class DiskWatch:
    """
    What is known about the room for a nats-server's data.

    Args:
        folder: The data folder.

    Attributes:
        is_full: Whether something could not be written, and nats-server has not been started since.
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
        """For error texts; "" when there is none."""
        if self.is_full:
            return f"the broker's disk is full (data folder {self._folder}): make room, and it goes on by itself"
        if self.is_limited:
            return "the broker's store has reached its limit: consume or remove messages, or give it a larger disk"
        return ""

    @property
    def is_limited(self) -> bool:
        """Whether nats-server has refused messages lately because of its limit."""
        return self._limited_at is not None and time.monotonic() - self._limited_at < _LIMIT_S

    def take(self, line: str) -> None:
        """Reads a line of nats-server's."""
        if not any(word in line for word in _TROUBLE):
            return
        if (_NO_ROOM.search(line) and not _HARMLESS.search(line)) or _DISABLED.search(line):
            self._meet_full_disk(line)
        elif _LIMIT.search(line):
            if not self.is_limited:
                log.error("the broker's store has reached its limit: stations on disk take no more messages for now")
            self._limited_at = time.monotonic()

    def wants_restart(self) -> bool:
        """Whether the disk was full and has room again, so that a start of nats-server makes its streams live."""
        now = time.monotonic()
        if not self.is_full or now < self._not_before:
            return False
        if not self._has_room():
            self._not_before = now + _FIRST_PAUSE_S
            return False
        self.is_full, self._restarted_at = False, now
        log.warning("the disk of %s has room again: restarting nats-server, so that its streams live", self._folder)
        return True

    def store_limit(self) -> int:
        """
        How many bytes the streams may take: three quarters of what they take and what is free. nats-server's own
        default leaves out the first, so that a store that is half full takes nothing after a restart.
        """
        used = 0
        for folder, _, names in os.walk(self._folder / "jetstream"):
            for name in names:
                try:
                    used += Path(folder, name).stat().st_size
                except OSError:  # it has just gone
                    continue
        return max(1, (used + shutil.disk_usage(self._folder).free) * 3 // 4)

    def _meet_full_disk(self, line: str) -> None:
        if self.is_full:
            return
        now = time.monotonic()
        was_no_help = now - self._restarted_at < 2 * _MAX_PAUSE_S
        self._pause_s = min(_MAX_PAUSE_S, 2 * self._pause_s) if was_no_help else _FIRST_PAUSE_S
        self.is_full, self._not_before = True, now + self._pause_s
        log.error(
            "the disk of %s is full, and stations there take no messages until there is room: %s", self._folder, line
        )

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
