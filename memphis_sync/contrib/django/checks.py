"""
The system checks, tag ``memphis``. None of them touches the network: they run before ``migrate`` and in image builds.

| id | says |
|---|---|
| memphis.E001 | an unknown key or option, with the nearest, or a value that cannot be |
| memphis.E002 | a URL, or an option, that connect() refuses |
| memphis.E003 | a handler of an alias that is not in MEMPHIS |
| memphis.W001 | no TLS to another machine (``--deploy``) |
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

from django.apps import apps as registry
from django.core.checks import CheckMessage, Error, Warning as CheckWarning

from memphis_sync import Handler
from memphis_sync.contrib._settings import did_you_mean
from memphis_sync.contrib.django import _config

TAG = "memphis"


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 and E002: what ``clients`` would refuse at the first use, in the same words."""
    return [
        Error(problem.text, id=f"memphis.{problem.id}")
        for alias in _config.aliases().values()
        for problem in alias.problems
    ]


def check_handlers(**_: Any) -> list[CheckMessage]:
    """
    E003. It looks at the modules of the installed apps that are imported by now, and at the module ``handlers`` of each
    app that has one which names memphis_sync.
    """
    known = _config.aliases()
    return [
        Error(
            f"the handler {path} is of the alias {handler.alias!r}, which MEMPHIS does not have; "
            f"{did_you_mean(handler.alias, known)}",
            id="memphis.E003",
        )
        for path, handler in sorted(_handlers().items())
        if handler.alias not in known
    ]


def _handlers() -> dict[str, Handler]:
    """The handlers of the installed apps, by their paths."""
    apps = [config.name for config in registry.get_app_configs()]
    for app in apps:
        _import_handlers(f"{app}.handlers")
    return {
        made.path: made
        for name, module in list(sys.modules.items())
        if any(name == app or name.startswith(f"{app}.") for app in apps)
        for value in list(vars(module).values())
        # By its exact type: a lazy object would be made for an isinstance(), and a client opened.
        if type(value) is FunctionType and isinstance(made := vars(value).get("memphis_handler"), Handler)
    }


def _import_handlers(name: str) -> None:
    if name in sys.modules or (found := find_spec(name)) is None or not found.origin:
        return
    with contextlib.suppress(OSError):
        if b"memphis_sync" in Path(found.origin).read_bytes():
            import_module(name)


def check_tls(**_: Any) -> list[CheckMessage]:
    """W001: passwords and messages go through a network in clear text."""
    return [
        CheckWarning(
            f"MEMPHIS[{alias.name!r}] connects to {', '.join(map(str, alias.plan.addresses))} without TLS",
            hint="use a URL that begins with memphis+tls://",
            id="memphis.W001",
        )
        for alias in _config.aliases().values()
        if alias.plan and alias.plan.addresses and not alias.plan.is_tls and not alias.plan.is_local
    ]
