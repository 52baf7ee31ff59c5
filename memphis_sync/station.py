"""A station, as ``client.station()`` returns it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Optional

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._inspecting import calls as inspecting
from memphis_sync._managing import stations as managing
from memphis_sync._options.inspecting import InspectArguments, PeekArguments, PurgeArguments, ReplayArguments
from memphis_sync._options.rows import method_takes
from memphis_sync._protocol.names import internal_name
from memphis_sync.dead_letters import DeadLetters
from memphis_sync.info import PeekedMessage, PeekedMessages, StationInfo

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync.client import Memphis


@hint_keywords()
class Station(NotCopied, NotAwaited, InNotebook):
    """
    A station of the broker; returned by ``client.station()``.

    It is also a context manager, but leaving the block does not destroy the station.

    Attributes:
        name: Lower case.
        internal_name: The name in streams and subjects: ``#`` for each dot.
    """

    _instead = "pass its name, and call station() of the client there"

    _shown = ("name", "internal_name")

    def __init__(self, client: Memphis, name: str) -> None:
        self._client = client
        self.name = name
        self.internal_name = internal_name(name)

    @property
    def dls(self) -> DeadLetters:
        """The station's dead letters, to list, resend or drop them."""
        return DeadLetters(self._client, self.name)

    @method_takes(InspectArguments)
    def info(self, given: InspectArguments) -> StationInfo:
        """
        The station as it is now: partitions, messages, limits, schema, and each consumer group with its lag.

            for group in station.info().groups or ():
                print(group.name, group.lag, group.unacknowledged)

        It costs two requests a partition, side by side, and one more.

        Raises:
            ConfigurationError: *timeout_s* is out of range.
            StationNotFoundError: The station does not exist any more.
            ServerError: The broker refused; with ``code`` 403 because of what the user is allowed.
            DeadlineError, ConnectionLostError: Not everything was answered in time.
            ClosedError, OwnThreadError: As other requests of the client.
        """
        return inspecting.station_info(self._client, self.name, given)

    @method_takes(PeekArguments)
    def peek(self, given: PeekArguments) -> PeekedMessages:
        """
        Looks at messages without consuming them: by default the newest. No group gets or loses any, no delivery is
        used up, and nothing is left behind on the broker.

            for message in station.peek(10):
                print(message.partition, message.sequence, message.time, message.data)

        It costs one request a message, 64 at once, and one a partition; *from_time* about 20 more a partition.

        Returns:
            At most *limit* messages, oldest first by the time they were stored.

        Raises:
            ConfigurationError: An argument is not allowed, or the station has no such partition.
            StationNotFoundError: The station does not exist any more.
            ServerError: The broker refused; with ``code`` 403 because of what the user is allowed.
            DeadlineError, ConnectionLostError: Not everything was answered in time.
            ClosedError, OwnThreadError: As other requests of the client.
        """
        return inspecting.peek(self._client, self.name, given)

    @method_takes(ReplayArguments)
    def replay(self, given: ReplayArguments) -> Iterator[PeekedMessage]:
        """
        Goes through all messages that the station holds at its first step, without consuming them, as peek(); only a
        portion of them is in memory. No group takes part.

            for message in station.replay():
                handle(message.data)

        It costs as much as peek(). What is removed meanwhile is left out.

        Returns:
            An iterator, oldest first by the time they were stored; it sends the first request when it is used.

        Raises:
            ConfigurationError: An argument is not allowed, or the station has no such partition.
            StationNotFoundError, ServerError: As peek().
            DeadlineError, ConnectionLostError: The next portion did not come in time; the iterator has ended. Another
                one may begin behind the last message.
            ClosedError, OwnThreadError: As other requests of the client.
        """
        return inspecting.replay(self._client, self.name, given)

    @method_takes(PurgeArguments)
    def purge(self, given: PurgeArguments) -> int:
        """
        Removes all messages that the station holds, whether or not its groups have read them.

            print(station.purge(), "messages are gone")

        Groups stay, and go on with the next message that is stored: sequence numbers continue, nothing is left to be
        delivered, and what members have in hand is not delivered again. Producers, schema and settings stay, and so do
        dead letters: ``station.dls.drop()`` removes those. Messages that are produced during the call are removed, or
        not. It costs two requests a partition, side by side, and one more.

        Returns:
            How many messages were removed.

        Raises:
            ConfigurationError: An argument is not allowed, or the station has no such partition.
            StationNotFoundError: The station does not exist any more.
            ServerError: The broker refused; with ``code`` 403 because of what the user is allowed, with 503 because it
                is a Memphis broker, which purges in its REST API and web console only.
            DeadlineError, ConnectionLostError: Not everything was answered in time; messages may have been removed.
            ClosedError, OwnThreadError: As other requests of the client.
        """
        return managing.purge(self._client, self.name, given)

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Destroys the station with its messages, producers and consumers; one that does not exist any more is fine.

        Args:
            timeout_retries: How often a request without a reply is repeated, 0 to 1000; each waits up to 5 s.

        Raises:
            ConfigurationError: *timeout_retries* is out of range.
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No reply; the station may be destroyed.
            ClosedError: The client was closed.
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
