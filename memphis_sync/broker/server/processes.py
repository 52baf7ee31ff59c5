"""Tells whether a process runs or makes progress, and waits for its end, even if it is not our child."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Optional

_ORPHAN_IDLE_S = 2.0  # how long an orphan, which got SIGTERM when its supervisor died, may do nothing
_LONGEST_STOP_S = 600.0  # however busy it is
_POLL_S = 0.01
_LOOK_S = 0.1  # between two checks of what a process does
_PR_SET_PDEATHSIG = 1  # prctl(2)
_IDLE_TICKS = 25  # hundredths of a second of processor time; an idle process uses less in five seconds


def _command_line(pid: int) -> str:
    """The command line of a process; "" when there is none."""
    proc = Path(f"/proc/{pid}/cmdline")
    if proc.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        return ""
    if sys.platform == "win32":
        return ""  # orphans are not recognized here; the lock file and the port show the problem
    command = ["/bin/ps", "-o", "command=", "-p", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env={})  # noqa: S603  no user's input
    return listed.stdout


def is_running(pid: int, config: Path) -> bool:
    """Whether a process is a running nats-server with this configuration file; a zombie is not."""
    return str(config) in _command_line(pid)


def end(pid: int, number: int, config: Path) -> bool:
    """
    Signals a nats-server that is not our child, and waits for its end while it makes progress.

    Returns:
        Whether it has ended.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return wait_for_end(lambda: not is_running(pid, config), pid, _ORPHAN_IDLE_S)


def wait_for_end(has_ended: Callable[[], bool], pid: int, idle_s: float) -> bool:
    """
    Waits until a process has ended, while it makes progress.

    Args:
        has_ended: Returns whether it has ended.
        pid: The process.
        idle_s: How long it may do nothing, in seconds.

    Returns:
        Whether it has ended; False when it has done nothing for *idle_s*.
    """
    begin = time.monotonic()
    progress = Progress(pid)
    while not has_ended():
        if progress.idle_s() > idle_s or time.monotonic() - begin > _LONGEST_STOP_S:
            return False
        time.sleep(_POLL_S)
    return True


def die_with_parent(number: int) -> Optional[Callable[[], None]]:
    """On Linux, what a child does before exec: it asks for this signal when this process ends."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415  the only way to prctl

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended between fork and prctl: the signal would never come
            os._exit(1)

    return before_exec


class Progress:
    """
    Whether a process makes progress: it computes, writes, or waits for the disk.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: object = None
        self._since = time.monotonic()
        self._looked_at = 0.0

    def idle_s(self) -> float:
        """How long it has done nothing, in seconds."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            is_busy, done = _work_of(self._pid)
            if is_busy or done != self._last:
                self._last, self._since = done, now
        return now - self._since


def _work_of(pid: int) -> tuple[bool, object]:
    """Whether a process is busy, and a value that changes when it has done something."""
    if Path("/proc/self").exists():
        states, fields, written = set(), [], ""
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                states.add((thread / "stat").read_text().rpartition(")")[2].split()[0])
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            written = Path(f"/proc/{pid}/io").read_text().partition("write_bytes:")[2].split()[0]
        except (OSError, IndexError):  # not everybody may read all of it, and threads end
            pass
        # An idle process runs its timers: less than a twentieth of a core counts as nothing.
        ticks = int(fields[11]) + int(fields[12]) if fields else 0
        return bool(states & {"R", "D"}), (ticks // _IDLE_TICKS, written)
    if sys.platform == "win32":
        return False, None
    command = ["/bin/ps", "-o", "state=,time=", "-p", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env={})  # noqa: S603  no user's input
    state, _, used = listed.stdout.strip().partition(" ")
    return state.startswith(("U", "D")), used
