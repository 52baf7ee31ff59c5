"""The group of commands: global options, exit codes, and commands that load when they are called."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Optional
from urllib.parse import urlsplit

import click

from memphis_sync import __version__
from memphis_sync.errors import ConfigurationError, ConnectError, MemphisError

from ._streams import flush_stdout, forget_stdout, standard_input, tell

if TYPE_CHECKING:
    from memphis_sync import Memphis

FAILED, USAGE, NO_CONNECTION, NOT_STORED, INTERRUPTED = 1, 2, 3, 4, 130
COMMANDS = {
    "broker": "_broker",
    "demo": "_demo",
    "dls": "_dls",
    "pub": "_pub",
    "schema": "_schema",
    "station": "_station",
    "sub": "_sub",
}


@dataclass
class Settings:
    """
    The global options.

    Attributes:
        url: Of ``--url``; None leaves it to the environment (MEMPHIS_URL, MEMPHIS_HOST and so on).
        json: Machine-readable output.
        quiet: No progress and no summary.
    """

    url: Optional[str]
    json: bool
    quiet: bool

    def connect(self, name: str) -> Memphis:
        """A client as the options or the environment say."""
        from memphis_sync import connect

        return connect(self.url, name=name)

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            tell(text)

    def shows_progress(self) -> bool:
        """Whether a bar makes sense: a person is looking, and wants to."""
        if self.quiet or self.json or sys.stderr is None or not sys.stderr.isatty():
            return False
        return os.environ.get("TERM") != "dumb"


class LazyGroup(click.Group):
    """Finds a command in the module of its own when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for the help."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """The command, imported now; None when there is no such one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", help="memphis://user@host:port; without it MEMPHIS_URL, or MEMPHIS_HOST and MEMPHIS_USERNAME.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option("-v", "--verbose", count=True, help="Say what the connection does; twice for every attempt.")
@click.version_option(__version__, prog_name="memphis-sync")
@click.pass_context
def app(ctx: click.Context, url: Optional[str], as_json: bool, quiet: bool, verbose: int) -> None:
    """
    Stations of a Memphis broker, from a shell.

    Secrets come from MEMPHIS_URL, MEMPHIS_PASSWORD, MEMPHIS_PASSWORD_FILE, MEMPHIS_TOKEN or MEMPHIS_TOKEN_FILE.
    """
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    if sys.stderr is not None:
        logging.basicConfig(level=level, format="%(levelname)-7s %(name)s  %(message)s", stream=sys.stderr)
    if url is not None and _has_password(url) and not quiet:
        tell("warning: the password in --url is visible to everybody in the process list; use MEMPHIS_URL")
    ctx.obj = Settings(url, as_json, quiet)


def _has_password(url: str) -> bool:
    try:
        return bool(urlsplit(url).password)
    except ValueError:  # not a URL: connect() says so, in words
        return False


def run(args: list[str]) -> int:
    """Runs a command line; every way to end becomes an exit code and, if it is a failure, one sentence on stderr."""
    try:
        code = app.main(args, prog_name="memphis-sync", standalone_mode=False)
        flush_stdout()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        with contextlib.suppress(OSError):  # as tell()
            exc.show()
        return USAGE if isinstance(exc, click.UsageError) else exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # `memphis-sync ... | head`: the reader has enough
        forget_stdout()
        return 0
    except ConfigurationError as exc:
        return _failed(exc, USAGE)
    except ConnectError as exc:
        return _failed(exc, NO_CONNECTION)
    except (MemphisError, OSError) as exc:
        with contextlib.suppress(OSError):  # stdout may be what failed; its error is told here
            flush_stdout()
        return _failed(exc, FAILED)


def _failed(exc: Exception, code: int) -> int:
    tell(f"error: {exc}")
    return code


def need_input() -> IO[bytes]:
    """Standard input for a command that reads it; a usage error when it is closed."""
    try:
        return standard_input()
    except EOFError as exc:
        raise click.UsageError(f"{exc}: name a file, or give the input as an argument or through a pipe") from exc


class InputFile(click.File):
    """A file to read, binary; ``-`` is stdin, if that is open."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> IO[bytes]:
        """The open file."""
        return need_input() if value == "-" else super().convert(value, param, ctx)


def need_output() -> None:
    """A usage error when stdout is closed: what a command would write there must not be taken from a station."""
    if sys.stdout is None:
        raise click.UsageError("standard output is closed; send it to a file, a pipe or a terminal")


def leave_at_once(client: Memphis) -> None:
    """Closes a client without waiting for confirmations; whoever calls this has said how many are missing."""
    from memphis_sync import UndeliveredWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndeliveredWarning)
        client.close(0)
