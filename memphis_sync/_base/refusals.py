"""
Uses that Python would take, and that would go wrong later or in silence: copying what stands for a connection, and
awaiting what a call of this client has returned.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn


class NotCopied:
    """
    Base of what belongs to one client in one process: neither copied nor pickled, by any way there is.

    A copy would share the connection without counting as a user of it: a copy that is forgotten would close the
    original.
    """

    __slots__ = ()

    _instead: ClassVar[str]  # what to do instead

    def __copy__(self) -> NoReturn:
        self._refuse_copy()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse_copy()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse_copy()

    def _refuse_copy(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled: {self._instead}")


class NotAwaited:
    """Base of what a call returns that has already done its work, whatever a program written for memphis.py expects."""

    __slots__ = ()

    def __await__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be awaited: the call that returned it has already happened; delete 'await'"
        )
