"""The two links of a ``memory://`` client."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Callable, NoReturn, Optional

from memphis_sync._base import native
from memphis_sync._control import ControlLink, Subscription
from memphis_sync._core import fork_generation
from memphis_sync._data import DataLink
from memphis_sync._memory.recorder import KEY_HEADER, Recorder
from memphis_sync._memory.sent import sent
from memphis_sync._nats.handshake import Connected
from memphis_sync._options.url import MEMORY
from memphis_sync._protocol.body import PlainReply
from memphis_sync._protocol.info import ServerInfo
from memphis_sync._protocol.requests import (
    ConsumerCreate,
    ProducerCreate,
    ProducerDestroy,
    ProducerReply,
    StationCreate,
    StationDestroy,
)
from memphis_sync.errors import ClosedError, UsageError
from memphis_sync.types import ServerAddress

_READ_BYTES = 256 * 1024
_ADDRESS = f"{MEMORY}://"
_INSTEAD = (
    "use a broker: in tests the fixture memphis_broker of memphis_sync.testing gives the URL of one "
    "(docs/how-to/test-your-program.md)"
)


def refuse(what: str) -> NoReturn:
    """Raises the UsageError for what needs a broker."""
    raise UsageError(f"{_ADDRESS} records what is produced, and nothing else: {what}; {_INSTEAD}")


class _Silence(Subscription):
    """A subscription to updates that nobody sends."""

    def __init__(self, subject: str) -> None:
        self._subject = subject

    async def unsubscribe(self, limit: int = 0) -> None:
        """Ends it."""


class MemoryControl(ControlLink):
    """A control link without a broker: each station exists, with one partition unless it is created with more."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._partitions: dict[str, int] = {}
        self._has_begun = False

    @property
    def address(self) -> str:
        """For log lines and the client's repr()."""
        return _ADDRESS

    @property
    def is_connected(self) -> bool:
        """Whether it is open."""
        return self._has_begun and not self._is_closing

    async def connect(self, deadline: float) -> None:
        """Opens it."""
        self._has_begun = True

    async def request(self, subject: str, body: bytes, timeout_s: float, *, may_be_starting: bool = False) -> bytes:
        """
        The reply to a request about stations and producers.

        Raises:
            UsageError: A request about anything else.
            ClosedError: The link was closed.
        """
        self._check_open()
        if subject == StationCreate.SUBJECT:
            created = StationCreate.decode(body)
            if created.schema_name:
                refuse("it has no schemas")
            self._partitions.setdefault(created.name, created.partitions_number)
        elif subject == StationDestroy.SUBJECT:
            self._partitions.pop(StationDestroy.decode(body).station_name, None)
        elif subject == ProducerCreate.SUBJECT:
            number = self._partitions.get(ProducerCreate.decode(body).station_name, 1)
            return ProducerReply(partitions=list(range(1, number + 1))).encode()
        elif subject != ProducerDestroy.SUBJECT:
            words = {ConsumerCreate.SUBJECT: "it has no consumers"}
            refuse(words.get(subject, "it has no schemas" if "schema" in subject else "it keeps nothing to ask about"))
        return PlainReply().encode()

    async def js_api(self, call: str, body: Optional[dict[str, Any]], timeout_s: float) -> dict[str, Any]:
        """That a stream exists. UsageError for anything else."""
        self._check_open()
        if not call.startswith("STREAM.INFO."):
            refuse("it keeps nothing to ask about")
        return {}

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> None:
        """Nobody hears it."""

    async def ping(self, timeout_s: float) -> float:
        """No time."""
        self._check_open()
        return 0.0

    async def subscribe_with_headers(
        self,
        subject: str,
        handler: Callable[[bytes, dict[str, str]], None],
        queue: str = "",
    ) -> Subscription:
        """Nothing ever comes."""
        return _Silence(subject)

    async def close(self) -> None:
        """Closes it; idempotent."""
        self._is_closing = True

    def _check_open(self) -> None:
        if self._is_closing:
            raise ClosedError(f"the connection to {_ADDRESS} is closed; open a new client")


class MemoryLink(DataLink):
    """A data link whose other end is a thread of this process, which records what it reads."""

    key_header = KEY_HEADER

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._generation = fork_generation()
        self._far: Optional[socket.socket] = None
        sent._join(self)

    def settle(self) -> None:
        """Waits until what was accepted so far is recorded, or has failed."""
        if self._generation == fork_generation():
            self.wait_marked(self.mark(), None)

    def _first(self, deadline: float) -> tuple[ServerAddress, Connected]:
        near, self._far = native.socketpair()
        self._start("memory", self._record)
        return self._options.addresses[0], Connected(near, ServerInfo(), b"", b"")

    def _record(self) -> None:
        far, recorder = self._far, Recorder(sent)
        assert far is not None
        with contextlib.closing(far), contextlib.suppress(OSError):  # the client's end was closed
            while data := far.recv(_READ_BYTES):
                far.sendall(recorder.feed(data))

    def _end(self, phase: str, last: Optional[float] = None, reports_until: Optional[float] = None) -> int:
        sent._leave(self)
        return super()._end(phase, last, reports_until)

    def close_inherited(self) -> None:
        """In a forked child: closes its copies of both ends."""
        super().close_inherited()
        if self._far is not None:
            self._far.close()
