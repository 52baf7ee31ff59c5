"""The same work in several threads, which Ctrl-C ends."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Callable, TypeVar

A = TypeVar("A")
R = TypeVar("R")
_SLICE_S = 0.2  # of a wait, between two of which Ctrl-C is served


def on_each(pool: ThreadPoolExecutor, work: Callable[[A], R], things: Iterable[A]) -> list[R]:
    """``list(pool.map(work, things))``, which Ctrl-C always ends: one that comes just before a wait does not end it."""
    futures = [pool.submit(work, thing) for thing in things]
    for future in futures:
        while not wait([future], _SLICE_S).done:
            pass
        future.result()  # the first failure ends it
    return [future.result() for future in futures]
