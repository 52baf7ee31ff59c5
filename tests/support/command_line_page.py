"""
docs/reference/command-line.md, made from the commands themselves: the help of each, on a terminal of 80 columns.

``python tests/support/command_line_page.py`` writes it; a test compares the two, so that no change of a help is an
accident.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import click

from memphis_sync.cli import main
from memphis_sync.cli._app import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"
COLUMNS = 80
HEAD = """\
# The command line

`memphis-sync` (extra `cli`) is the client for a shell. This page is what each command says with `--help`.
[In a shell](../how-to/in-a-shell.md) shows them at work.

"""


def commands(group: click.Group = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each command with the groups that it is in, by name, a group before its commands."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def help_of(path: tuple[str, ...], columns: int = COLUMNS) -> str:
    """What a command says with ``--help``."""
    said = io.StringIO()
    # The broker's parser ends the process.
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        with_width(columns, [*path, "--help"])
    return said.getvalue().replace("optional arguments:", "options:")  # as Python 3.9 has it


def with_width(columns: int, args: list[str]) -> None:
    """Runs a command as on a terminal of so many columns."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(columns)}):
        main(args)


def as_markdown() -> str:
    """The whole page."""
    parts = [f"{'#' * min(len(path) + 2, 4)} {' '.join(('memphis-sync', *path))}" for path in commands()]
    texts = [help_of(path).rstrip() for path in commands()]
    return HEAD + "\n".join(f"{head}\n\n```text\n{text}\n```\n" for head, text in zip(parts, texts))


if __name__ == "__main__":
    PAGE.write_text(as_markdown(), encoding="utf-8")
