"""What dir() and completion show of an object whose class stands on one of the C core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class HidesCore:
    """
    Base of a public class: dir() of its objects leaves out what it has from the C core and does not document itself.

    ``_from_core`` names what is public of it all the same.
    """

    __slots__ = ()

    _from_core: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> Iterable[str]:
        """Names for completion."""
        hidden = hidden_in(type(self))
        return [name for name in super().__dir__() if name not in hidden]


def hidden_in(kind: type) -> frozenset[str]:
    """The names of a class that dir() of its objects leaves out."""
    core: set[str] = set()
    told: set[str] = set(getattr(kind, "_from_core", ()))
    for base in kind.__mro__:
        if "._core" in base.__module__:
            core.update(name for name in vars(base) if not name.startswith("_"))
        elif HidesCore in base.__bases__:
            told.update(vars(base))
    return frozenset(core - told) if issubclass(kind, HidesCore) else frozenset()
