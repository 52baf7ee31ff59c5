"""
``settings.MEMPHIS``: read once, for the checks and for the clients, so that both say the same.

It is read at the first use, never when this module is imported, and again after a test has changed it. Nothing here
touches the network. No text holds a secret: a URL's parts are named, never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

from django.conf import settings
from django.core.signals import setting_changed

from memphis_sync import ConfigurationError, ConnectPlan
from memphis_sync.contrib._opening import Arguments
from memphis_sync.contrib._settings import did_you_mean, plan as plan_of, station_problem, take_options

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
    problems += [
        Problem("E001", f"{where}['OPTIONS']{text}")
        for text in take_options(given.get("OPTIONS", {}), arguments, ARGUMENTS)
    ]
    if not isinstance(warns, bool):
        problems.append(Problem("E001", f"{where}['WARN_IN_TRANSACTION'] is {warns!r}; it must be True or False"))
    listed = given.get("STATIONS", {})
    if isinstance(listed, Mapping):
        stations = {str(station): options for station, options in listed.items()}
        for station, wanted in stations.items():
            problem = station_problem(station, wanted)
            problems += [Problem("E001", f"{where}['STATIONS'][{station!r}]{problem}")] if problem else []
    else:
        text = f"{where}['STATIONS'] is of type {_kind(listed)}; it must be a dict of station to keywords of station()"
        problems.append(Problem("E001", text))
    plan = None
    if not problems:
        try:
            plan = plan_of(arguments)
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
