"""The cffi binding of the C core: Group. See _cffi_link for what holds for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync.errors import ForkedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self  # 3.11 has it in typing

    from memphis_sync._core._cffi_link import Link
    from memphis_sync._core._cffi_route import Ticket

MAX_PLACES = 1024  # taken from C in one call


@final
class Group:
    """
    Waits for many tickets at once, of several links too. One thread uses it.

    Args:
        tickets: At most 2**32 - 1.
    """

    __slots__ = ("_generation", "_group", "_links", "_places", "_tickets")

    _generation: int  # of forks, when it was made
    _group: Any
    _links: set[Link]
    _places: Any
    _tickets: tuple[Ticket, ...]  # C points into them

    def __new__(cls, tickets: Iterable[Ticket]) -> Self:
        self = super().__new__(cls)
        self._group = ffi.NULL
        self._generation = lib.mcore_fork_generation()
        self._places = ffi.new("uint32_t[]", MAX_PLACES)
        self._links = set()
        self._tickets = tuple(tickets)
        self._group = lib.mcore_group_new(len(self._tickets))
        if self._group == ffi.NULL:
            raise MemoryError(f"no memory to wait for {len(self._tickets)} messages")
        for ticket in self._tickets:
            link = ticket._route.link
            link._check()
            self._links.add(link)
            ticket._ticket.looked = 1
            lib.mcore_group_add(self._group, link._outbox, ticket._ticket)
        return self

    def __del__(self, lib: Any = lib) -> None:
        # In one cycle of garbage a link may have gone first, and with it the lock; then the memory is left as it is.
        if lib.mcore_fork_generation() == self._generation and not any(link._freed for link in self._links):
            lib.mcore_group_free(self._group)

    def wait(self, timeout_ns: int) -> list[int]:
        """Waits for at least one more settled ticket; the places of the new ones among the tickets, in their order."""
        if lib.mcore_fork_generation() != self._generation:
            raise ForkedError("this wait began before a fork and stays with the parent process")
        count = lib.mcore_group_wait(self._group, self._places, MAX_PLACES, timeout_ns)
        return list(ffi.unpack(self._places, count)) if count else []
