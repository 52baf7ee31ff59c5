"""
The checks of values: every argument of the public calls is checked with them, before any IO.

Each failure is a ConfigurationError that names the option, the value and what is allowed. A password or a token is
never shown: such options are checked with check_secret().
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import numbers
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, Callable, Optional, TypeVar

from memphis_sync.errors import ConfigurationError
from memphis_sync.observer import Observer
from memphis_sync.types import RetryPolicy

MAX_RETRY_ATTEMPTS = 100
MAX_RETRY_PAUSE_MS = 60_000

MAX_BATCH_SIZE = 5000  # the limit of every Memphis SDK
MAX_TIME_MS = 24 * 3600 * 1000
# A login is one line, of 4096 bytes at most with a server's defaults; it holds the name twice. As JSON writes them.
MAX_USERNAME_BYTES = 256
MAX_SECRET_BYTES = 1024
FSYNC = ("none", "second", "produce")
_NAME_RE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")

E = TypeVar("E", bound=Enum)


def check_int(option: str, value: object, low: int, high: Optional[int] = None) -> int:
    """
    A whole number within low..high, both included; a bool is not a number here.

    Returns:
        An int, also for other types that are whole numbers (those of numpy): use it, not *value*.
    """
    bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
    number = as_int(value)
    if number is None:
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be a whole number {bound}")
    if number < low or (high is not None and number > high):
        raise ConfigurationError(f"{option} is {number}; it must be a whole number {bound}")
    return number


def as_int(value: object) -> Optional[int]:
    """An int, from an int or an object with ``__index__``; None for anything else, a bool included."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or is_numpy_bool(value) or not hasattr(type(value), "__index__"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # a numpy array that does not hold exactly one number
        return None


def is_numpy_bool(value: object) -> bool:
    """Whether a value is numpy's True or False, or an array of them, which older versions convert to 1 and 0."""
    return getattr(getattr(value, "dtype", None), "kind", None) == "b"


def check_seconds(option: str, value: object, *, allow_zero: bool = True, least: float = 0.0) -> float:
    """A finite, non-negative number of seconds, at most a day."""
    if type(value) is float and 0.0 < value <= MAX_TIME_MS / 1000 and least <= value:
        return value  # nearly all of them
    bound = f"a number of seconds {f'from {least:g}' if allow_zero else 'above 0'} to {MAX_TIME_MS // 1000}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be {bound}")
    try:
        seconds = float(value)
    except OverflowError:  # an int of more than 308 digits
        seconds = math.inf
    is_within = math.isfinite(seconds) and least <= seconds <= MAX_TIME_MS / 1000
    if not is_within or (seconds == 0 and not allow_zero):
        raise ConfigurationError(f"{option} is {show(value)}; it must be {bound}")
    return seconds


def check_limit_s(option: str, value: object) -> float:
    """A limit in seconds, above 0."""
    return check_seconds(option, value, allow_zero=False)


def none_or(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """A check of what may be None."""
    return lambda option, value: None if value is None else check(option, value)


def int_in(low: int, high: Optional[int] = None) -> Callable[[str, object], int]:
    """check_int() with its bounds."""
    return functools.partial(check_int, low=low, high=high)


def seconds_from(least: float) -> Callable[[str, object], float]:
    """check_seconds() with its lower bound."""
    return functools.partial(check_seconds, least=least)


def check_bool(option: str, value: object) -> bool:
    """True or False; no other object."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be True or False")
    return value


def check_callable(
    option: str, value: object, *, parameters: Optional[str] = None, is_optional: bool = False
) -> Callable[..., object]:
    """
    A plain function or another callable; not one that only creates a coroutine or a generator, which would never run.

    Args:
        parameters: What it is called with, for instance "messages, error, context"; it must accept them. A callable
            without a signature, as some builtins, is accepted.
        is_optional: Whether None is allowed, for the error.
    """
    is_plain = isinstance(value, FunctionType) and not value.__code__.co_flags & _RUNS_LATER
    if not callable(value):
        raise ConfigurationError(f"{option} is {show(value)}; it must be callable{' or None' if is_optional else ''}")
    if not is_plain and any(is_kind(one) for one in _as_called(value) for is_kind in _KINDS_THAT_RUN_LATER):
        raise ConfigurationError(
            f"{option} is {_name_of(value)}, a coroutine function or a generator, which a call does not run. "
            "It must be a plain function; to run a coroutine on an event loop, call "
            "asyncio.run_coroutine_threadsafe() in it"
        )
    if parameters is not None:
        _check_parameters(option, value, parameters)
    return value


def check_optional_callable(option: str, value: object) -> Optional[Callable[..., object]]:
    """As check_callable(), or None."""
    return None if value is None else check_callable(option, value, is_optional=True)


_RUNS_LATER = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR
_KINDS_THAT_RUN_LATER = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)


def _as_called(value: object) -> Iterator[object]:
    """The object itself and what its call runs: through partials, and through the __call__ of its class."""
    while isinstance(value, functools.partial):
        value = value.func
    yield value
    if not inspect.isclass(value) and not inspect.isroutine(value):
        call = getattr(type(value), "__call__", None)  # noqa: B004  not whether there is one: which
        while isinstance(call, functools.partial):
            call = call.func
        yield call


def _name_of(value: object) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)


def _check_parameters(option: str, value: Callable[..., object], parameters: str) -> None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*parameters.split(", "))
    except TypeError as exc:
        raise ConfigurationError(
            f"{option} is {_name_of(value)}{signature}, which cannot be called with ({parameters}): {exc}"
        ) from None


_OF_AN_OBSERVER = {
    "producing": "station, count, headers",
    "settled": "token, outcome",
    "received": "station, group, messages, seconds",
    "processing": "messages",
    "acked": "messages, kind",
    "link": "event",
}


def check_observers(option: str, value: object) -> tuple[Observer, ...]:
    """Objects with the methods of an Observer."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"{option} is of type {type(value).__name__}; it must be a list of observers: [observer]"
        )
    observers = tuple(value)
    for at, each in enumerate(observers):
        name = f"{option}[{at}]"
        if inspect.isclass(each):
            raise ConfigurationError(f"{name} is the class {each.__name__}; pass an object of it: {each.__name__}()")
        for method, parameters in _OF_AN_OBSERVER.items():
            found = getattr(each, method, None)
            if found is None:
                raise ConfigurationError(
                    f"{name} is of type {type(each).__name__}, which has no method {method}(); a subclass of "
                    "memphis_sync.Observer needs only those that it uses"
                )
            check_callable(f"{name}.{method}", found, parameters=parameters)
    return observers


def check_retry(option: str, value: object) -> Optional[RetryPolicy]:
    """A RetryPolicy within its bounds, or None."""
    if value is None:
        return None
    if not isinstance(value, RetryPolicy):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a RetryPolicy or None")
    return RetryPolicy(
        check_int(f"{option}.attempts", value.attempts, 1, MAX_RETRY_ATTEMPTS),
        check_int(f"{option}.pause_ms", value.pause_ms, 1, MAX_RETRY_PAUSE_MS),
    )


def check_str(option: str, value: object, *, empty_ok: bool = True) -> str:
    """A str. The value is shown when it is wrong; a secret goes through check_secret."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a str")
    if not value and not empty_ok:
        raise ConfigurationError(f"{option} is empty; it needs at least one character")
    return value


def check_path(option: str, value: object, *, empty_ok: bool = True) -> str:
    """A path as a str, from a str or an os.PathLike of one (a pathlib.Path)."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a str or an os.PathLike of one")
    return check_str(option, value, empty_ok=empty_ok)


def check_outbox(option: str, value: object) -> Optional[str]:
    """The path of an outbox file, absolute, with ``~`` and symbolic links followed; or None."""
    if value is None:
        return None
    path = check_path(option, value, empty_ok=False)
    if "\0" in path:
        raise ConfigurationError(f"{option} is {show(path)}; a path holds no NUL")
    try:
        return os.path.realpath(Path(path).expanduser())
    except RuntimeError as exc:  # a user that does not exist
        raise ConfigurationError(f"{option} is {show(path)}: {exc}") from exc


def check_fsync(option: str, value: object) -> str:
    """One of FSYNC."""
    if not isinstance(value, str) or value not in FSYNC:
        raise ConfigurationError(f"{option} is {show(value)}; it must be one of {', '.join(map(repr, FSYNC))}")
    return value


def check_secret(option: str, value: object) -> str:
    """A str that no error may show."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is of type {type(value).__name__}; it must be a str")
    _check_bytes(option, value, MAX_SECRET_BYTES)
    return value


def _check_bytes(option: str, value: str, most: int) -> None:
    """A server closes the connection of a login that is too long for one line, and says nothing that helps."""
    size = len(json.dumps(value)) - 2
    if size > most:
        raise ConfigurationError(f"{option} takes {size} bytes of a login, which is JSON; it must take {most} or less")


def check_enum(option: str, value: object, kind: type[E]) -> E:
    """A member of *kind*, or the text of one (its value or its name)."""
    if isinstance(value, kind):
        return value
    for member in kind:
        if isinstance(value, str) and value in (member.value, member.name):
            return member
    allowed = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
    raise ConfigurationError(f"{option} is {show(value)}; it must be one of {allowed}")


def one_of(kind: type[E]) -> Callable[[str, object], E]:
    """check_enum() with its kind."""
    return functools.partial(check_enum, kind=kind)


def check_account_id(option: str, value: object) -> int:
    """The number of an account; a str instead is probably a password, and is not shown."""
    if isinstance(value, str):
        raise ConfigurationError(
            f"{option} is a str; it must be a whole number. If it was meant to be the password, write password=..."
        )
    return check_int(option, value, 1, 2**31 - 1)


def check_username(option: str, value: object) -> str:
    """The name of a broker's user, which becomes a part of the connection's name."""
    if value is None:
        raise ConfigurationError("username is missing; give username=..., or memphis://user:password@host:port as host")
    username = check_str(option, value, empty_ok=False)
    _check_bytes(option, username, MAX_USERNAME_BYTES)
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in username) or "$" in username or "::" in username:
        raise ConfigurationError(
            f"{option} is {show(username)}; it must hold no blank, no control character, no '$' "
            "(the account goes into account_id) and no '::'"
        )
    return username


def check_client_name(option: str, value: object) -> str:
    """The name of a client: shown in logs and reprs, and the default name of its producers, so the same rule."""
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > 128 or not _NAME_RE.match(value):
        raise ConfigurationError(
            f"{option} is {show(value)}; it must be 1 to 128 ASCII letters, digits, '_', '-' or '.', "
            "with a letter or digit at both ends"
        )
    return value


def show(value: object) -> str:
    """A short form of a wrong value."""
    text = (
        repr(value)
        if isinstance(value, (str, int, float, bool, type(None), Enum))
        else f"of type {type(value).__name__}"
    )
    return text if len(text) <= 80 else f"{text[:77]}..."


def _show_no_text(value: object) -> str:
    """As show(), where a number or a bool is expected: a str there may be a misplaced password."""
    return "a str" if isinstance(value, str) else show(value)
