"""What the messages and parts of a consumer know about it."""

from __future__ import annotations

from memphis_sync._base.observers import Observers
from memphis_sync._core import fork_generation
from memphis_sync._core._translate import FORKED_MESSAGE
from memphis_sync._protocol.names import durable_name
from memphis_sync._session import Session
from memphis_sync.errors import ClosedError, ForkedError
from memphis_sync.types import StationView


class Source:
    """
    What messages need to be answered, and the parts of a consumer to work. It leads to no message, so a message that
    the garbage collector does not know of (see RawMessage) is in no cycle; and not to the consumer, so that one which
    is forgotten can be collected.
    """

    __slots__ = ("consumer_group", "group_internal", "is_destroyed", "name", "session", "view")

    def __init__(self, session: Session, view: StationView, name: str, group: str) -> None:
        self.session = session
        self.view = view
        self.name = name
        self.consumer_group = group
        self.group_internal = durable_name(group)
        self.is_destroyed = False

    @property
    def place(self) -> tuple[str, str, str]:
        """Station, group and name: which member of which group it is."""
        return self.view.internal, self.group_internal, self.name

    @property
    def observers(self) -> Observers:
        """Of its client; false without any."""
        return self.session.options.observing

    @property
    def is_inherited(self) -> bool:
        """Whether it was made before a fork, in the parent process."""
        return fork_generation() != self.session.generation

    def check_open(self) -> None:
        """Raises unless the consumer, or what it has fetched, can be used here and now; see Consumer.check_open."""
        if self.is_inherited:
            raise ForkedError(FORKED_MESSAGE)
        self.session.check()
        if self.is_destroyed:
            raise ClosedError(f"{self!r} can no longer be used")

    def __repr__(self) -> str:
        state = "destroyed" if self.is_destroyed else "closed" if self.session.is_closing else "open"
        return f"<Consumer {self.name!r} of {self.view.name!r} group={self.consumer_group} {state}>"
