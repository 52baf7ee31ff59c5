"""
Uses that Python would allow and that would go wrong later or silently: copying an object that stands for a
connection, and awaiting the result of a call.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn


class NotCopied:
    """
    Base of classes whose objects belong to one client in one process: they cannot be copied or pickled.

    A copy would share the connection, and a copy that is deleted would close it for the original.
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
    """Base of classes whose objects a call returns: programs written for memphis.py may await them by mistake."""

    __slots__ = ()

    def __await__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be awaited: the call that returned it has already happened; delete 'await'"
        )
