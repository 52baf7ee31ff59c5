"""Checks of what a framework's settings say, before any IO. No text holds a secret."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Optional

import memphis_sync
from memphis_sync import ConfigurationError, ConnectPlan, Memphis, UsageError

# Where and who: they come from the settings or from the environment, never from both.
WHERE_AND_WHO = frozenset(
    {
        *("host", "port", "username", "password", "connection_token", "account_id"),
        *("tls", "ca_file", "cert_file", "key_file"),
    }
)
_IN_ENVIRONMENT = ("MEMPHIS_URL", "MEMPHIS_HOST")


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, or all."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(str(name).lower(), sorted(by_lower), n=1, cutoff=0.5)
    return f"did you mean {by_lower[found[0]]!r}?" if found else f"the known ones are {', '.join(sorted(known))}"


def take_options(options: object, arguments: dict[str, Any], keys: Mapping[str, str]) -> Iterator[str]:
    """
    Adds the setting OPTIONS to the arguments of connect(), and yields what is wrong with it, to stand behind its name.

    Args:
        options: The setting.
        arguments: Those that other settings give.
        keys: The names of those settings, with the argument of each.
    """
    if not isinstance(options, Mapping):
        yield f" is of type {type(options).__name__}; it must be a dict of keywords of connect()"
        return
    known = inspect.signature(memphis_sync.connect).parameters
    for option, value in options.items():
        if option not in known:
            yield f" has the unknown option {option!r}; {_nearest_option(option)}"
        elif option in arguments:
            others = " or ".join(repr(key) for key, argument in keys.items() if argument == option)
            yield f" has {option!r}, which is also given by {others}; keep one of them"
        else:
            arguments[option] = value


def _nearest_option(option: object) -> str:
    """As did_you_mean() for an option of connect(), by its own hint, which knows the names of other clients as well."""
    unknown: dict[str, Any] = {str(option): None}
    try:
        memphis_sync.check_connect(**unknown)
    except TypeError as exc:
        return str(exc).rpartition("; ")[2]
    raise AssertionError(f"connect() takes {option!r}")


def station_problem(station: str, options: object) -> str:
    """What is wrong with the keywords of station() for a station in the settings; "" when nothing is."""
    if not isinstance(options, Mapping):
        return f" is of type {type(options).__name__}; it must be a dict of keywords of station()"
    if "name" in options:
        return " has 'name', which is the key in STATIONS already"
    try:
        Memphis().station(station, **{str(option): value for option, value in options.items()})
    except UsageError:
        return ""  # all is right but that there is no connection
    except (TypeError, ConfigurationError) as exc:
        return f": {exc}"
    raise AssertionError("a client that is not connected has made a station")


def plan(arguments: Mapping[str, Any]) -> Optional[ConnectPlan]:
    """
    What connect() will do; None where nothing names a broker yet, as where an image is built: then only the options are
    checked.

    Raises:
        ConfigurationError: As connect().
    """
    is_named = any(os.environ.get(variable) for variable in _IN_ENVIRONMENT)
    if is_named or not WHERE_AND_WHO.isdisjoint(arguments):
        return memphis_sync.check_connect(**arguments)
    memphis_sync.check_connect("localhost", "nobody", password="-", **arguments)  # noqa: S106  nobody's
    return None
