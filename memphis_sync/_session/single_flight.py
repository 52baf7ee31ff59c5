"""Creates an object once for each key, however many threads request it at the same time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Callable, Generic, Optional, TypeVar

from memphis_sync._base.threads import Section, forbid_on_own_thread
from memphis_sync._session import fork

V = TypeVar("V")


class _Slot(Generic[V]):
    def __init__(self, what: str) -> None:
        self.section = Section(what)  # held while the value is made, which takes IO
        self.value: Optional[V] = None


class SingleFlight(Generic[V]):
    """
    A mapping that makes its missing values: one maker a key at a time, different keys side by side. Each process has
    values of its own.

    Args:
        what: The making, for an error: "the registration of a producer".
    """

    def __init__(self, what: str = "the making of a value") -> None:
        self._what = what
        # By generation: who was making a value before a fork does not exist in the child, and its value stays behind.
        self._made: dict[int, dict[Hashable, _Slot[V]]] = {}

    @property
    def _slots(self) -> dict[Hashable, _Slot[V]]:
        return self._made.setdefault(fork.fork_generation(), {})

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """
        The value of *key*; made by *make* when there is none. A make that raises leaves no trace.

        Raises:
            UsageError: There is none, and the calling thread is making it: a signal handler or a destructor asks, which
                interrupted the making. It can wait neither for it nor for the network.
            OwnThreadError: There is none, and the calling thread may not wait.
        """
        slots = self._slots
        slot = slots.get(key)
        if slot is not None and slot.value is not None:
            return slot.value
        forbid_on_own_thread(self._what)
        slot = slots.setdefault(key, _Slot(self._what))
        with slot.section.begin():
            if slot.value is None:
                slot.value = make()
                slots[key] = slot  # a remove() may have run meanwhile; the newest value stays findable
            return slot.value

    def discard(self, value: V) -> None:
        """Forgets a value, whatever its key."""
        slots = self._slots
        for key, slot in list(slots.items()):
            if slot.value is value:
                slots.pop(key, None)

    def values(self) -> list[V]:
        """What has been made and not been forgotten."""
        return [slot.value for slot in list(self._slots.values()) if slot.value is not None]

    def clear(self) -> None:
        """Forgets everything."""
        self._slots.clear()
