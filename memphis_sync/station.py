"""A station, as the program that created it holds it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Optional

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._protocol.names import internal_name
from memphis_sync.dead_letters import DeadLetters

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync.client import Memphis


@hint_keywords()
class Station(NotCopied, NotAwaited):
    """
    A station of the broker; made by ``client.station()``.

    As a context manager it is only a name for a block: leaving the block does not destroy the station.

    Attributes:
        name: Lower case.
        internal_name: The form in streams and subjects: ``#`` for each dot.
    """

    _instead = "hand on its name, and make another one with the client that is used there"

    def __init__(self, client: Memphis, name: str) -> None:
        self._client = client
        self.name = name
        self.internal_name = internal_name(name)

    @property
    def dls(self) -> DeadLetters:
        """The station's dead letters: to be listed, sent to their groups again, and dropped."""
        return DeadLetters(self._client, self.name)

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Destroys the station with its messages, producers and consumers; one that is not there any more is fine.

        Args:
            timeout_retries: How often a request without an answer is repeated; each waits up to 5 s.

        Raises:
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No answer; the station may be destroyed.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        self._client.destroy_station(self.name, timeout_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        return None

    def __repr__(self) -> str:
        return f"<Station {self.name!r}>"
