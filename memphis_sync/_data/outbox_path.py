"""
Paths of outbox files: which file can be used, which is in use, what others lie beside it, and how a new one is made.

Every refusal is a ConfigurationError that names the path, and leaves the file as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional

from memphis_sync._base.logs import Log
from memphis_sync._core._codes import FileFault
from memphis_sync._core.outbox_file import OutboxFile
from memphis_sync.errors import ConfigurationError

log = Log("memphis_sync.produce")

UNFINISHED_S = 60.0  # a new file that is older than this, and that nobody has locked, is of a process that was killed
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Earlier(NamedTuple):
    """A file that an earlier process has left, locked."""

    path: str
    fd: int
    file: OutboxFile


# ---- files of earlier processes --------------------------------------------------------------------------------------


def lock_earlier(path: str, *, with_children: bool) -> list[Earlier]:
    """The file at *path* and those that children of an earlier process have left; locked, and checked."""
    found: list[Earlier] = []
    try:
        fd = lock(path)
        if fd is not None:
            if os.fstat(fd).st_size == 0:  # made by somebody as a place for one
                found.append(Earlier(path, fd, OutboxFile(fd)))
            else:
                found.append(Earlier(path, fd, _checked(path, fd)))
        for child in child_paths(path) if with_children else ():
            fd = _lock_unused(child)
            if fd is not None:
                try:
                    found.append(Earlier(child, fd, _checked(child, fd)))
                except ConfigurationError as exc:
                    log.warning("outbox %r: what a child has left is not sent: %s", path, exc)
    except BaseException:
        for each in found:
            unlock(each.fd)
        raise
    return found


def child_paths(path: str) -> list[str]:
    """The paths of files that children of a process with *path* have made."""
    return _beside(path, r"\.\d+")


def _beside(path: str, ending: str) -> list[str]:
    is_meant = re.compile(re.escape(Path(path).name) + ending + r"\Z")
    try:
        return sorted(str(each) for each in Path(path).parent.iterdir() if is_meant.match(each.name))
    except OSError:
        return []


def _lock_unused(path: str) -> Optional[int]:
    try:
        return lock(path)
    except ConfigurationError:
        return None


def remove_unfinished(path: str) -> None:
    """Removes what a process that was killed had not finished: all that it was to hold is in the other files."""
    for each in _beside(path, r"(\.\d+)?\.[0-9a-f]{8}\.new"):
        fd = _lock_unused(each)
        if fd is not None:
            if time.time() - os.fstat(fd).st_mtime > UNFINISHED_S:
                with contextlib.suppress(OSError):
                    Path(each).unlink()
            unlock(fd)


def unlock(fd: int) -> None:
    """Closes a locked file; what was read of it may live on, and would keep the lock."""
    release(fd)
    os.close(fd)


def release(fd: int) -> None:
    """Lets others lock a file that stays open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def lock(path: str) -> Optional[int]:
    """
    Opens and locks a file; None when there is none.

    Raises:
        ConfigurationError: It is in use, is not a regular file, or cannot be opened for writing.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            return None
        except OSError as exc:
            refuse(path, exc)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigurationError(f"outbox {path!r} is not a regular file; give the path of a file")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _refuse_used(path, OutboxFile(fd).info()["pid"])
            except OSError as exc:
                refuse(path, exc)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), Path(path).stat()):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        unlock(fd)  # another process has put a new file there meanwhile


def user_of(fd: int) -> int:
    """The process that has an open file in use, by its number; 0 for none."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(OutboxFile(fd).info()["pid"]) or -1
    fcntl.flock(fd, fcntl.LOCK_UN)
    return 0


def _refuse_used(path: str, pid: int) -> NoReturn:
    who = "by this process" if pid == os.getpid() else f"by process {pid}" if pid else "by another process"
    raise ConfigurationError(
        f"outbox {path!r} is in use {who}; a file belongs to one client at a time: give this one another path"
    )


def _checked(path: str, fd: int) -> OutboxFile:
    """
    What a file holds.

    Raises:
        ConfigurationError: It is no outbox file, or not a whole one.
    """
    file = OutboxFile(fd)
    info = file.info()
    fault = fault_text(info)
    if fault:
        unlock(fd)
        raise ConfigurationError(f"outbox {path!r} {fault}. It was left as it is")
    if info["damaged"]:
        if info["boot"] == boot():
            unlock(fd)
            raise ConfigurationError(
                f"outbox {path!r} is damaged: {info['damaged']} entries are not whole, {len(file)} messages are. "
                f"It was left as it is; 'memphis-sync outbox {path} --export FILE' saves the messages, and --drop "
                "removes the file"
            )
        log.error(
            "outbox %r: the machine was restarted since it was written: %d messages are whole, %d entries are not and "
            "may have been messages",
            path,
            len(file),
            info["damaged"],
        )
    return file


def fault_text(info: Mapping[str, Any]) -> str:
    """Why a file cannot be read as an outbox, as what follows its name; "" for one that can."""
    texts = {
        FileFault.WHOLE: "",
        FileFault.FOREIGN: "is not an outbox file; give another path, or remove it",
        FileFault.OTHER_ORDER: "was written on a machine of another byte order and can be read there only",
        FileFault.NEWER: f"is of format {info['format']}, which a later release of memphis_sync has written; this one "
        "reads format 1",
        FileFault.CUT: f"is cut off or grown: it says that it has {info['size'] or 'more'} bytes, and has "
        f"{info['actual_size']}",
        FileFault.HEADER: "is damaged: its header does not match its checksum",
        FileFault.UNREADABLE: "cannot be read",
    }
    return texts[FileFault(info["fault"])]


# ---- new files -------------------------------------------------------------------------------------------------------


def create(new: str, path: str, size: int) -> int:
    """A new file of so many bytes, all of them on the disk, locked."""
    try:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        refuse(path, exc)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(fd, 0, size)  # a write into a hole of a full disk would end the process
    except OSError as exc:
        os.close(fd)
        Path(new).unlink()
        if exc.errno in _NO_ROOM:
            raise ConfigurationError(
                f"outbox {path!r} needs {size} bytes on its disk: {os.strerror(exc.errno)}. Free some, or give "
                "smaller outbox_max_bytes and outbox_max_messages"
            ) from exc
        refuse(path, exc)
    except BaseException:
        os.close(fd)
        Path(new).unlink()
        raise
    return fd


def refuse(path: str, exc: OSError) -> NoReturn:
    """Raises the ConfigurationError that says why the system does not let a path be used."""
    hints = {
        errno.ENOENT: "its directory does not exist",
        errno.ENOTDIR: "its directory does not exist",
        errno.EISDIR: "it is a directory; give the path of a file",
        errno.ENXIO: "it is not a regular file; give the path of a file",
        errno.EBUSY: "it cannot be replaced, perhaps because it is mounted by itself: mount its directory instead",
    }
    hint = hints.get(exc.errno or 0) or f"{exc.strerror}; the file and its directory must be writable"
    raise ConfigurationError(f"outbox {path!r} cannot be used: {hint}") from exc


def sync_directory(path: str) -> None:
    """Has the name of a file on the disk."""
    fd = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def boot() -> bytes:
    """Names this start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:40]
    except OSError:
        return b""
