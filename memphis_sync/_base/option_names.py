"""The options of a command line: what settings are called there, and what was meant by one that there is not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from memphis_sync._base.hints import nearest

_SECRETS = ("pass", "pw", "secret", "token", "cred")  # what an option that takes one would be called
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


def meant_option(name: str, known: Collection[str], *, secrets: str) -> str:
    """
    The sentence that answers an option that there is not.

    Args:
        name: As it was given.
        known: All options of the command.
        secrets: Where secrets come from, for those who look for an option.
    """
    own = [each for each in known if each.startswith("--")]
    if any(word in name.lower() for word in _SECRETS) and not any(each.startswith(name) for each in own):
        return f"No option takes a secret, since every user of the machine could read it: {secrets}."
    bare = {each[2:].replace("-", "_"): each for each in own}
    near = nearest(name.lstrip("-").replace("-", "_"), list(bare)) if name.startswith("--") else ""
    return f"Did you mean {bare[near]!r}?" if near else f"The known ones are {', '.join(own)}."
