"""What every command is made of: names that are misspelt get the nearest one, and each help ends with examples."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Callable, Optional

import click

from memphis_sync._base.hints import nearest
from memphis_sync._base.option_names import meant_option

# Of the whole command, so in front of the subcommand.
_GLOBAL = ("--url", "--json", "--quiet", "--verbose", "-q", "-v", "--version")
_SET = "set MEMPHIS_PASSWORD or MEMPHIS_TOKEN, or name a file in MEMPHIS_PASSWORD_FILE or MEMPHIS_TOKEN_FILE"
# What other programs call it, where spelling does not lead to ours.
_ELSEWHERE = {
    "publish": "pub",
    "produce": "pub",
    "send": "pub",
    "subscribe": "sub",
    "consume": "sub",
    "read": "sub",
    "list": "ls",
    "stations": "ls",
    "topics": "ls",
    "delete": "rm",
    "destroy": "rm",
    "remove": "rm",
    "show": "info",
    "describe": "info",
    "stream": "station",
    "topic": "station",
    "dlq": "dls",
    "server": "broker",
    "serve": "broker",
    "check": "doctor",
    "health": "ping",
    "benchmark": "bench",
    "new": "create",
    "add": "create",
}


def examples(*lines: str) -> str:
    """The end of a command's help: lines as they are typed, of at most 58 characters, so that they fit 60 columns."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class Switch(click.Option):
    """``--name`` and ``--no-name``, in the help ``--[no-]name``."""

    def get_help_record(self, ctx: click.Context) -> Optional[tuple[str, str]]:
        """Name and text."""
        record = super().get_help_record(ctx)
        return None if record is None else (f"--[no-]{self.opts[0][2:]}", record[1])


class _WithHints(click.Command):
    """Misspelt options are answered with the nearest one; the help leaves room for its texts on a narrow terminal."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads this command's part of the line."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            raise _no_such_option(exc, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options; one that is longer than a third of the width has a line of its own."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        rows = [row for option in options if (row := option.get_help_record(ctx)) is not None]
        with formatter.section("Options"):
            formatter.write_dl(rows, col_max=formatter.width // 3)


class Command(_WithHints):
    """A command."""


class Group(_WithHints, click.Group):
    """A group of commands; a misspelt one is answered with the nearest."""

    command_class = Command
    group_class = type

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, and then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        """The command that is called."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            near = _near(name, known)
            hint = f"Did you mean {near!r}?" if near else f"The known ones are {', '.join(known)}."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)


def command(*, name: str, epilog: str) -> Callable[[Callable[..., Any]], Command]:
    """Makes a function a command."""
    return click.command(name=name, cls=Command, epilog=epilog)


def group(*, name: str, epilog: str) -> Callable[[Callable[..., Any]], Group]:
    """Makes a function a group of commands."""
    return click.group(name=name, cls=Group, epilog=epilog)


def _near(name: str, known: Collection[str]) -> str:
    elsewhere = _ELSEWHERE.get(name.lower(), "")
    return elsewhere if elsewhere in known else nearest(name, known)


def _no_such_option(exc: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
    name = exc.option_name
    own: list[Any] = ctx.command.get_params(ctx)
    if name in _GLOBAL and ctx.parent is not None:
        path = ctx.command_path.split(" ", 1)
        hint = f"It stands in front of the command: {path[0]} {name} {path[1]}"
    else:
        hint = meant_option(
            name, [each for param in own for each in (*param.opts, *param.secondary_opts)], secrets=_SET
        )
    return click.UsageError(f"No such option {name!r}. {hint}", ctx)
