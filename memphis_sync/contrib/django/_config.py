"""
``settings.MEMPHIS``: read once, for the checks and for the clients, so that both say the same.

It is read at the first use, never when this module is imported, and again after a test has changed it. Nothing here
touches the network. No text holds a secret: a URL's parts are named, never shown.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, Optional

from django.conf import settings
from django.core.signals import setting_changed

import memphis_sync
from memphis_sync import ConfigurationError, ConnectPlan, Memphis, UsageError

DEFAULT = "default"
# Keys that stand for an argument of connect(); all others of these are given in OPTIONS.
ARGUMENTS = {
    "URL": "host",
    "HOST": "host",
    "PORT": "port",
    "USERNAME": "username",
    "PASSWORD": "password",
    "TOKEN": "connection_token",
}
KEYS = (*ARGUMENTS, "OPTIONS", "STATIONS", "WARN_IN_TRANSACTION")
# Where and who: they come from the settings or from the environment, never from both.
_WHERE_AND_WHO = {*ARGUMENTS.values(), "account_id", "tls", "ca_file", "cert_file", "key_file"}
_IN_ENVIRONMENT = ("MEMPHIS_URL", "MEMPHIS_HOST")


class Arguments(dict[str, Any]):
    """Arguments of connect(); its repr, which error pages show, holds no values."""

    def __repr__(self) -> str:
        return f"<arguments {', '.join(self)}>"


class Problem(NamedTuple):
    """Something that is wrong: the number of its check, and the text."""

    id: str
    text: str


class Alias(NamedTuple):
    """
    What one alias says.

    Attributes:
        name: Of the alias.
        arguments: For connect().
        stations: Keywords of station() by name.
        warns: Whether a produce() inside a transaction draws a warning under DEBUG.
        plan: Where connect() goes; None when something is wrong, and while nothing names a broker.
        problems: What is wrong.
    """

    name: str
    arguments: Arguments
    stations: Mapping[str, Mapping[str, Any]]
    warns: bool
    plan: Optional[ConnectPlan]
    problems: tuple[Problem, ...]


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, or all."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(str(name).lower(), sorted(by_lower), n=1, cutoff=0.5)
    return f"did you mean {by_lower[found[0]]!r}?" if found else f"the known ones are {', '.join(sorted(known))}"


_read: Optional[dict[str, Alias]] = None


def aliases() -> dict[str, Alias]:
    """All aliases; without the setting there is ``default``, whose broker the environment names."""
    global _read  # noqa: PLW0603  what was read is kept; two threads that read at once get the same
    if _read is None:
        given = getattr(settings, "MEMPHIS", {DEFAULT: {}})
        if isinstance(given, Mapping):
            _read = {str(name): _alias(str(name), value) for name, value in given.items()}
        else:
            text = f"MEMPHIS is of type {_kind(given)}; it must be a dict: {{'default': {{'URL': ...}}}}"
            _read = {DEFAULT: Alias(DEFAULT, Arguments(), {}, False, None, (Problem("E001", text),))}
    return _read


def alias(name: str) -> Alias:
    """
    One alias, without problems.

    Raises:
        ConfigurationError: There is no such alias, or something is wrong with it.
    """
    known = aliases()
    if name not in known:
        raise ConfigurationError(f"MEMPHIS has no alias {name!r}; {did_you_mean(name, known)}")
    found = known[name]
    if found.problems:
        raise ConfigurationError(found.problems[0].text)
    return found


def _on_setting_changed(*, setting: str, **_: object) -> None:
    global _read  # noqa: PLW0603  see aliases()
    if setting == "MEMPHIS":
        _read = None


setting_changed.connect(_on_setting_changed)


def _kind(value: object) -> str:
    return type(value).__name__


def _alias(name: str, given: object) -> Alias:
    """Reads one alias; goes on after a problem, so that the checks show them all."""
    where = f"MEMPHIS[{name!r}]"
    if not isinstance(given, Mapping):
        inner = f"; the settings stand below an alias: MEMPHIS = {{'default': {{{name!r}: ...}}}}"
        text = f"{where} is of type {_kind(given)}; it must be a dict{inner if name.upper() in KEYS else ''}"
        return Alias(name, Arguments(), {}, False, None, (Problem("E001", text),))
    problems = [
        Problem("E001", f"{where} has the unknown key {key!r}; {did_you_mean(key, KEYS)}")
        for key in given
        if key not in KEYS
    ]
    arguments, stations, warns = Arguments(), {}, given.get("WARN_IN_TRANSACTION", True)
    problems += _take_arguments(where, given, arguments)
    problems += _take_options(where, given.get("OPTIONS", {}), arguments)
    if not isinstance(warns, bool):
        problems.append(Problem("E001", f"{where}['WARN_IN_TRANSACTION'] is {warns!r}; it must be True or False"))
    listed = given.get("STATIONS", {})
    if isinstance(listed, Mapping):
        stations = {str(station): options for station, options in listed.items()}
        problems += [each for station in stations for each in _check_station(where, station, stations[station])]
    else:
        text = f"{where}['STATIONS'] is of type {_kind(listed)}; it must be a dict of station to keywords of station()"
        problems.append(Problem("E001", text))
    plan = None
    if not problems:
        try:
            plan = _plan(arguments)
        except ConfigurationError as exc:
            problems.append(Problem("E002", f"{where}: {exc}"))
    return Alias(name, arguments, stations, warns is True, plan, tuple(problems))


def _take_arguments(where: str, given: Mapping[str, Any], arguments: Arguments) -> Iterator[Problem]:
    """The keys that stand for an argument; None and "" are those of a variable that is not set."""
    for key, argument in ARGUMENTS.items():
        if given.get(key) in (None, ""):
            continue
        if argument in arguments:
            yield Problem("E001", f"{where} has both 'URL' and 'HOST'; keep one of them")
        if key == "URL" and not (isinstance(given[key], str) and "://" in given[key]):
            yield Problem("E002", f"{where}['URL'] is not a URL; the form is memphis://user:password@host:6666")
        arguments[argument] = given[key]


def _take_options(where: str, options: object, arguments: Arguments) -> Iterator[Problem]:
    where = f"{where}['OPTIONS']"
    if not isinstance(options, Mapping):
        yield Problem("E001", f"{where} is of type {_kind(options)}; it must be a dict of keywords of connect()")
        return
    known = inspect.signature(memphis_sync.connect).parameters
    for option, value in options.items():
        if option not in known:
            yield Problem("E001", f"{where} has the unknown option {option!r}; {_nearest_option(option)}")
        elif option in arguments:
            keys = " or ".join(repr(key) for key, argument in ARGUMENTS.items() if argument == option)
            yield Problem("E001", f"{where} has {option!r}, which is also given by {keys}; keep one of them")
        else:
            arguments[option] = value


def _nearest_option(option: object) -> str:
    """By connect()'s own hint, which knows the names of other clients as well."""
    unknown: dict[str, Any] = {str(option): None}
    try:
        memphis_sync.check_connect(**unknown)
    except TypeError as exc:
        return str(exc).rpartition("; ")[2]
    raise AssertionError(f"connect() takes {option!r}")


def _check_station(where: str, station: str, options: object) -> Iterator[Problem]:
    where = f"{where}['STATIONS'][{station!r}]"
    if not isinstance(options, Mapping):
        yield Problem("E001", f"{where} is of type {_kind(options)}; it must be a dict of keywords of station()")
        return
    if "name" in options:
        yield Problem("E001", f"{where} has 'name', which is the key in STATIONS already")
        return
    try:
        Memphis().station(station, **{str(option): value for option, value in options.items()})
    except UsageError:
        pass  # all is right but that there is no connection
    except (TypeError, ConfigurationError) as exc:
        yield Problem("E001", f"{where}: {exc}")


def _plan(arguments: Arguments) -> Optional[ConnectPlan]:
    """
    What connect() will do. An image is built, and migrated, where no variable names a broker yet: then only the options
    are checked.
    """
    is_named = any(os.environ.get(variable) for variable in _IN_ENVIRONMENT)
    if is_named or not _WHERE_AND_WHO.isdisjoint(arguments):
        return memphis_sync.check_connect(**arguments)
    memphis_sync.check_connect("localhost", "nobody", password="-", **arguments)  # noqa: S106  nobody's
    return None
