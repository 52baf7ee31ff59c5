"""Errors of a program's settings, with what its command line calls them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Words like "port" are names only where a sentence is about them; what is in quotes is somebody's value.
_NAME = re.compile(r"""'[^']*'|"[^"]*"|^[a-z]+\b|\b[a-z]+(?:_[a-z]+)+\b|(?<= and )[a-z]+(?= are | is |:|$)""")


def as_option(name: str) -> str:
    """``ready_file`` -> ``--ready-file``."""
    return f"--{name.replace('_', '-')}"


def as_options(text: str, names: Iterable[str], called: Mapping[str, str]) -> str:
    """
    A text about settings, with the options that they are on the command line.

    Args:
        text: As the settings' own check has it.
        names: Of the settings.
        called: What those are called that are not as_option() of their name: others, and environment variables.
    """
    words = {**{name: as_option(name) for name in names}, **called}
    return _NAME.sub(lambda found: words.get(found[0], found[0]), text)
