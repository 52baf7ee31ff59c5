"""
The settings of Go's runtime that nats-server starts with.

Go collects garbage when its heap has grown by GOGC percent, 100 unless it is told otherwise. A server that stores
messages leaves much of it: at 400 the same messages take a fifth less processor time with a station in memory, and some
percent less with one on disk. The heap grows larger in return, up to GOMEMLIMIT, from which on Go collects as often as
it must. The user's own GOGC or GOMEMLIMIT stands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

GOGC = 400  # percent
_SHARE = 3 / 4  # of the memory: the rest is for the control plane, the file cache and everything else
# What a container may use, by version 2 and 1 of Linux' control groups, as it is mounted inside one.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def go_settings(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of Go's runtime, those of ``given`` first; without a known size of the memory Go's own defaults."""
    settings = {name: value for name, value in given.items() if name.startswith("GO")}
    memory_bytes = usable_memory_bytes()
    if memory_bytes is not None:
        settings.setdefault("GOGC", str(GOGC))
        settings.setdefault("GOMEMLIMIT", f"{int(memory_bytes * _SHARE)}B")
    return settings


def usable_memory_bytes(limits: tuple[Path, ...] = _LIMITS) -> Optional[int]:
    """The machine's memory, or what its container may use of it; None where neither can be read."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # not POSIX
        sizes = []
    for limit in limits:
        try:
            sizes.append(int(limit.read_text()))
        except (OSError, ValueError):  # not Linux, another version, or the word "max"
            continue
    return min((size for size in sizes if size > 0), default=None)
