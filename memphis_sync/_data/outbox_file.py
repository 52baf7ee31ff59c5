"""
The file of an outbox: opened and locked before any message, filled by the C core, found again by the next process.

A file at PATH is always a whole one: a new one is made beside it, gets all its blocks and whatever earlier files hold,
and then takes PATH's place. Who has opened it holds a lock (flock) until the process ends; a forked child does not
inherit it (csrc/outbox_file.c) and gets a file of its own, PATH.<pid>. What a child leaves there is found by the next
process that opens PATH.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import string
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Event
from memphis_sync._core import Link
from memphis_sync._core.outbox_file import OutboxFile, adopt, outbox_file_size, recovered, sync_file, use_file
from memphis_sync._data.outbox_path import (
    boot,
    create,
    lock_earlier,
    refuse,
    release,
    remove_unfinished,
    sync_directory,
    unlock,
)
from memphis_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from memphis_sync._options.table import ConnectOptions

log = Log("memphis_sync.produce")

SYNC_EVERY_S = 1.0
_TOKEN_CHARACTERS = string.ascii_letters + string.digits
_MORE_BYTES = 64  # a frame may grow by when it gets another reply subject and another header for its id
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}  # a file system without hard links
_opened: dict[str, int] = {}  # path -> the process that has it open: a forked child finds its parent's here


class RecoveredMessage(NamedTuple):
    """What decides whether a message of an earlier process may be stored twice."""

    stream: str
    accepted_s: int
    has_id: bool
    was_written: bool


class FileOutbox:
    """
    The outbox of one data link in a file.

    Args:
        options: As given to connect(); they name a file.

    Attributes:
        path: Where it is.
        max_bytes, max_messages: Its bounds: those that were asked for, or what earlier files hold if that is more.
        earlier: How many messages earlier files hold.
        recovered: What of them was taken over.
        kept: How many messages stay in the file now that the link has ended.
        uncertain: How many of `recovered` may be stored twice; set by who knows the stations' windows.
        syncs_each: Whether each message is to be on the disk before its produce returns.

    Raises:
        ConfigurationError: The file cannot be used; nothing was changed.
    """

    def __init__(self, options: ConnectOptions) -> None:
        path = str(options.outbox)
        self._is_child = _opened.get(path, os.getpid()) != os.getpid()
        self.path = f"{path}.{os.getpid()}" if self._is_child else path
        self.syncs_each = options.fsync == "produce"
        self._fsync = options.fsync
        self.recovered: list[RecoveredMessage] = []
        self.kept = 0
        self.uncertain = 0
        self._core: Optional[Link] = None
        self._new = f"{self.path}.{secrets.token_hex(4)}.new"
        self._fd = -1
        self._end = Event()
        self._has_left = False
        self._sync_error = 0
        remove_unfinished(self.path)
        self._earlier = lock_earlier(self.path, with_children=not self._is_child)
        try:
            infos = [each.file.info() for each in self._earlier]
            self.earlier: int = sum(info["messages"] for info in infos)
            more = sum(info["bytes"] for info in infos) + self.earlier * _MORE_BYTES
            self.max_bytes = max(options.outbox_max_bytes, more)
            self.max_messages = max(options.outbox_max_messages, self.earlier)
            self._fd = create(self._new, self.path, outbox_file_size(self.max_bytes, self.max_messages))
        except BaseException:
            self._forget_earlier()
            raise

    # ---- the beginning ---------------------------------------------------------------------------------------------

    def attach(self, core: Link) -> None:
        """The link keeps its messages here from now on; if nothing is to be recovered, the file is in its place."""
        try:
            use_file(core, self._fd, secrets.randbits(64), boot())
            self._core = core
            if not self.earlier:
                self._put_in_place()
        except BaseException:
            if self._core is None:
                os.close(self._fd)
            self._abort()
            raise

    def recover(self, id_name: bytes) -> None:
        """
        Appends what earlier files hold, before anything new; once.

        Args:
            id_name: The header that this broker knows message ids by.
        """
        if not self._earlier:
            return
        assert self._core is not None, "attach() comes first"
        messages = []
        for _, _, file in self._earlier:
            adopt(self._core, file, id_name)
            is_known = file.info()["boot"] == boot()  # else what was noted of its sending may not be on the disk
            for index in range(len(file)):
                subject, msg_id, _, _, accepted_s, was_written = file.message(index)
                stream = subject.decode("utf-8", "replace").partition(".")[0]
                messages.append(RecoveredMessage(stream, accepted_s, bool(msg_id), was_written or not is_known))
        self.recovered = messages
        self._put_in_place()

    def _put_in_place(self) -> None:
        """The new file takes the path; only now are the earlier ones gone."""
        if self.earlier or self._fsync != "none":
            self.sync()
        had_one = any(path == self.path for path, _, _ in self._earlier)
        try:
            if not had_one:
                try:
                    os.link(self._new, self.path)  # unlike rename() it does not replace what has come meanwhile
                except OSError as exc:
                    if exc.errno not in _NO_LINKS:
                        raise
                    had_one = True
            if had_one:
                Path(self._new).rename(self.path)
            else:
                Path(self._new).unlink()
        except FileExistsError:
            raise ConfigurationError(
                f"outbox {self.path!r} is being opened by another process at this moment"
            ) from None
        except OSError as exc:
            refuse(self.path, exc)
        for path, _, _ in self._earlier:
            if path != self.path:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
        if self._fsync != "none":
            sync_directory(self.path)
        _opened.setdefault(self.path, os.getpid())
        self._forget_earlier()

    # ---- the disk --------------------------------------------------------------------------------------------------

    @property
    def syncs_by_time(self) -> bool:
        """Whether a thread is to run sync_until_end()."""
        return self._fsync == "second"

    def sync_until_end(self) -> None:
        """Has all on the disk once a second."""
        while not self._end.wait(SYNC_EVERY_S):
            self.sync()

    def sync(self) -> None:
        """Waits until the disk has what the file holds; a failure is logged when it is a new one."""
        assert self._core is not None, "attach() comes first"
        error = sync_file(self._core)
        if error and error != self._sync_error:
            log.error("outbox %r: it cannot be written to the disk: %s", self.path, os.strerror(error))
        self._sync_error = error

    # ---- the end ---------------------------------------------------------------------------------------------------

    def leave(self, left: int) -> None:
        """
        The link has ended and is about to let the file go. Once; called again when it was interrupted.

        Args:
            left: How many messages it has given up.
        """
        if self._has_left:
            return
        self._end.set()
        if self._earlier:
            self._abort()
            self._has_left = True
            return
        if left:
            self.kept = len(OutboxFile(self._fd))
        elif self._is_child:
            with contextlib.suppress(OSError):
                Path(self.path).unlink()
        if self._fsync != "none":
            self.sync()
        if _opened.get(self.path) == os.getpid():
            del _opened[self.path]
        release(self._fd)  # the core closes it with its last thread, or when a traceback lets go of it
        self._has_left = True

    def kept_text(self) -> str:
        """How many messages remain, in words; "" for none."""
        return f"{self.kept} remain in {self.path!r} and are sent at the next connect with it" if self.kept else ""

    def counts(self) -> dict[str, int]:
        """What stats() says of it."""
        failed = recovered(self._core)[1] if self._core is not None else 0
        return {
            "recovered": len(self.recovered),
            "recovered_uncertain": self.uncertain,
            "recovered_failed": failed,
        }

    def _abort(self) -> None:
        """The new file never took its place; the earlier ones hold what they held."""
        with contextlib.suppress(OSError):
            Path(self._new).unlink()
        self._forget_earlier()

    def _forget_earlier(self) -> None:
        for _, fd, _ in self._earlier:
            unlock(fd)
        self._earlier = []


def uncertain(messages: list[RecoveredMessage], windows_s: Mapping[str, float], now: Optional[float] = None) -> int:
    """
    How many messages may be stored twice: sent before, and the broker cannot know that any more.

    Args:
        windows_s: How long each stream remembers message ids; one that is not there remembers nothing.
        now: Seconds since 1970.
    """
    now = time.time() if now is None else now
    return sum(m.was_written and not (m.has_id and now - m.accepted_s < windows_s.get(m.stream, 0.0)) for m in messages)


def new_link(options: ConnectOptions, file: Optional[FileOutbox]) -> Link:
    """The C core of a data link, with its outbox in *file* or in memory."""
    token = "".join(secrets.choice(_TOKEN_CHARACTERS) for _ in range(22)).encode()
    retry = options.no_responders_retry
    core = Link(
        token,
        options.outbox_max_bytes if file is None else file.max_bytes,
        options.outbox_max_messages if file is None else file.max_messages,
        options.max_in_flight,
        0,  # known with the connection
        int(options.ping_interval_s * 1e9),
        retry.attempts if retry else 0,
        retry.pause_ms * 1_000_000 if retry else 0,
        sans_io=options.tls is not None,
    )
    if file is not None:
        file.attach(core)
    return core
