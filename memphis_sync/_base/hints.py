"""
Hints for a wrong keyword: the parameter that was probably meant.

The error is the TypeError that Python raises; only its text gets a hint.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Collection, Iterable
from typing import Any, Callable, TypeVar

T = TypeVar("T")

# Names that other clients use, where spelling does not lead to ours.
_ELSEWHERE = {
    "timeout": ("timeout_s", "timeout_ms", "ack_wait_sec"),
    "partition": ("partitions_number", "consumer_partition_number", "producer_partition_number"),
    "topic": ("station_name", "name"),
    "queue": ("station_name", "name"),
    "subject": ("station_name", "name"),
    "station": ("station_name", "name"),
    "value": ("message",),
    "payload": ("message",),
    "data": ("message",),
    "callback": ("on_delivery",),
    "url": ("host",),
    "hostname": ("host",),
    "address": ("host",),
    "servers": ("host",),
    "user": ("username",),
}


def nearest(name: str, known: Collection[str]) -> str:
    """
    The known name that was probably meant by *name*; "" when none is near.

    What other clients call it comes first, then a known name that contains the given one as a word (``key`` in
    ``producer_partition_key``), then the closest spelling.
    """
    words = [word for word in name.lower().split("_") if word]
    for other in _ELSEWHERE.get(name.lower(), ()):
        if other in known:
            return other
    holding = [other for other in known if words and all(word in other.split("_") for word in words)]
    if holding:
        return min(holding, key=lambda other: (len(other), other))
    found = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    return found[0] if found else ""


def wrong_keyword(function: Callable[..., object], names: Iterable[str], owner: str = "") -> TypeError:
    """The error for a call with keywords that the function does not have; *owner* is put before its name."""
    known = _keywords(function)
    name = min(set(names).difference(known))
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"the known ones are {', '.join(sorted(known))}"
    return TypeError(f"{owner}{function.__name__}() got an unexpected keyword argument {name!r}; {hint}")


def _keywords(function: Callable[..., object]) -> frozenset[str]:
    """Parameters that can be passed by name."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}) - {"self"}


def _with_hint(method: Callable[..., T]) -> Callable[..., T]:
    known = _keywords(method)

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> T:
        if not known.issuperset(kwargs):
            raise wrong_keyword(method, kwargs, f"{type(args[0]).__name__}.")
        return method(*args, **kwargs)

    return checked


def hint_keywords(*, but: Collection[str] = ()) -> Callable[[type[T]], type[T]]:
    """
    Makes the public methods of a class suggest the nearest parameter for a wrong keyword. A method with a generated
    signature already does so (_options/rows.py).

    Args:
        but: Methods that are called for each message, where one more Python call would cost too much: those that have
            keywords accept ``**unexpected`` and raise wrong_keyword() themselves.
    """

    def wrap(cls: type[T]) -> type[T]:
        for name, member in list(vars(cls).items()):
            is_public = inspect.isfunction(member) and not name.startswith("_")
            if is_public and name not in but and not hasattr(member, "__signature__"):
                setattr(cls, name, _with_hint(member))
        return cls

    return wrap
