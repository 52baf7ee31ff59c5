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

from typing import Any

from django.core.checks import CheckMessage, Error, Warning as CheckWarning

from memphis_sync.contrib.django import _config

TAG = "memphis"


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 and E002: what ``clients`` would refuse at the first use, in the same words."""
    return [
        Error(problem.text, id=f"memphis.{problem.id}")
        for alias in _config.aliases().values()
        for problem in alias.problems
    ]


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
