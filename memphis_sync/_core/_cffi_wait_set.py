"""The cffi binding of the C core: WaitSet. See _cffi_link for what holds for all of it."""

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
class WaitSet:
    """
    Waits for many tickets at once, of several links too. One thread uses it.

    Args:
        tickets: At most 2**32 - 1.
    """

    __slots__ = ("_generation", "_links", "_places", "_set", "_tickets")

    _generation: int  # of forks, when it was made
    _set: Any
    _links: set[Link]
    _places: Any
    _tickets: tuple[Ticket, ...]  # C points into them

    def __new__(cls, tickets: Iterable[Ticket]) -> Self:
        self = super().__new__(cls)
        self._set = ffi.NULL
        self._generation = lib.mcore_fork_generation()
        self._places = ffi.new("uint32_t[]", MAX_PLACES)
        self._links = set()
        self._tickets = tuple(tickets)
        self._set = lib.mcore_wait_set_new(len(self._tickets))
        if self._set == ffi.NULL:
            raise MemoryError(f"no memory to wait for {len(self._tickets)} messages")
        for ticket in self._tickets:
            link = ticket._route.link
            link._check()
            self._links.add(link)
            ticket._ticket.observed = 1
            lib.mcore_wait_set_add(self._set, link._outbox, ticket._ticket)
        return self

    def __del__(self, lib: Any = lib) -> None:
        # In one cycle of garbage a link may have gone first, and with it the lock; then the memory is left as it is.
        if lib.mcore_fork_generation() == self._generation and not any(link._freed for link in self._links):
            lib.mcore_wait_set_free(self._set)

    def wait(self, timeout_ns: int) -> list[int]:
        """Waits for at least one more settled ticket; the places of the new ones among the tickets, in their order."""
        if lib.mcore_fork_generation() != self._generation:
            raise ForkedError("this wait began before a fork and stays with the parent process")
        count = lib.mcore_wait_set_wait(self._set, self._places, MAX_PLACES, timeout_ns)
        return list(ffi.unpack(self._places, count)) if count else []
