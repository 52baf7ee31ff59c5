"""The command: global options, exit codes, and subcommands that are imported when they are called."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Callable, Optional, TypeVar

import click

from memphis_sync import __version__
from memphis_sync.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    MemphisError,
    StationNotFoundError,
)

from ._group import Group, examples
from ._secrets import warn_of_password
from ._streams import flush_stdout, forget_stdout, tell, write_result

if TYPE_CHECKING:
    from memphis_sync import Memphis

FAILED, USAGE, NO_CONNECTION, NOT_STORED, INTERRUPTED = 1, 2, 3, 4, 130
ENDS = {"line": b"\n", "nul": b"\0", "none": b""}  # what may stand after a payload that is written
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
# Each is in the module of its name, which is not imported for the list of all.
COMMANDS = {
    "bench": "Measure how fast a broker is.",
    "broker": "Run a Memphis-compatible broker.",
    "completion": "Let a shell complete this command.",
    "demo": "Send many lines through a broker and compare.",
    "dls": "List, resend and drop dead letters.",
    "doctor": "Find out why a connection fails.",
    "gateway": "Serve a broker over HTTP.",
    "info": "Show all about a station.",
    "ls": "List the stations.",
    "outbox": "Show, send or export an outbox file.",
    "peek": "Show messages without consuming them.",
    "ping": "Measure round trips to the broker.",
    "pub": "Produce messages.",
    "schema": "Manage what messages must look like.",
    "station": "Create, empty and destroy stations.",
    "sub": "Consume messages.",
}


@dataclass
class Settings:
    """
    The global options.

    Attributes:
        url: From ``--url``; None: from the environment (MEMPHIS_URL, MEMPHIS_HOST and so on).
        json: Machine-readable output.
        quiet: No progress and no summary.
        password: What was asked for on the terminal, once for all connections; None until then.
    """

    url: Optional[str]
    json: bool
    quiet: bool
    password: Optional[str] = None

    def connect(self, name: str) -> Memphis:
        """Connects as the options or the environment say."""
        from memphis_sync import connect

        from ._secrets import ask_for_password

        if self.password is None:
            self.password = ask_for_password(self.url)
        return connect(self.url, name=name, password=self.password)

    def say(self, text: str) -> None:
        """Writes a line for people to stderr."""
        if not self.quiet:
            tell(text)

    def report(self, text: str, **fields: Any) -> None:
        """Writes the outcome: a sentence on stderr, or with ``--json`` one object on stdout."""
        if self.json:
            write_result(json.dumps(fields))
        else:
            self.say(text)

    def shows_progress(self) -> bool:
        """Whether to draw a progress bar: stderr is a terminal, and nobody asked for silence."""
        if self.quiet or self.json or sys.stderr is None or not sys.stderr.isatty():
            return False
        return os.environ.get("TERM") != "dumb"


class LazyGroup(Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """The command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}._{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of all."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Exit status:
  0    done
  1    failed
  2    usage: a wrong option, URL or setting
  3    no connection to the broker
  4    some messages were not stored; the count is shown
  130  Ctrl-C

"""
    + examples(
        "memphis-sync broker",
        "export MEMPHIS_URL=memphis://root:memphis@localhost",
        "memphis-sync doctor",
        "seq 3 | memphis-sync pub readings",
        "memphis-sync sub readings --end",
        "memphis-sync --json ls | jq .station",
    ),
)
@click.option(
    "--url",
    metavar="URL",
    help="memphis://user@host:port, memphis+tls://... for TLS. Without it MEMPHIS_URL, or MEMPHIS_HOST, MEMPHIS_PORT, "
    "MEMPHIS_USERNAME and so on; they are not mixed with this option.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option("-v", "--verbose", count=True, help="Log what the connection does; -vv logs every attempt.")
@click.version_option(__version__, prog_name="memphis-sync")
@click.pass_context
def app(ctx: click.Context, url: Optional[str], as_json: bool, quiet: bool, verbose: int) -> None:
    """
    Work with the stations of a Memphis broker.

    Secrets come from MEMPHIS_URL, MEMPHIS_PASSWORD, MEMPHIS_PASSWORD_FILE, MEMPHIS_TOKEN or MEMPHIS_TOKEN_FILE; a
    password that is missing is asked for on a terminal. Results go to stdout, everything else to stderr.
    """
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    if sys.stderr is not None:
        logging.basicConfig(level=level, format="%(levelname)-7s %(name)s  %(message)s", stream=sys.stderr)
    ctx.obj = Settings(url, as_json, quiet)
    warn_of_password(url, is_quiet=quiet)


def run(args: list[str]) -> int:
    """Runs a command line. Every outcome is an exit code, and every failure one sentence on stderr."""
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
    except (ConnectError, ConnectionLostError) as exc:
        return _failed(exc, NO_CONNECTION)
    except StationNotFoundError as exc:
        hint = "'memphis-sync ls' shows all stations, 'memphis-sync pub STATION' sends a message"
        return _failed(f"{exc} ({hint})", FAILED)
    except (MemphisError, OSError) as exc:
        with contextlib.suppress(OSError):  # stdout may be what failed, and that error is shown here
            flush_stdout()
        return _failed(exc, FAILED)


def _failed(exc: object, code: int) -> int:
    tell(f"error: {exc}")
    return code


def need_input() -> IO[bytes]:
    """Standard input, binary; a usage error when it is closed."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: name a file, or pass the input as an argument or in a pipe")
    return sys.stdin.buffer


class InputFile(click.File):
    """A file to read, binary; ``-`` is stdin."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> IO[bytes]:
        """Opens the file."""
        return need_input() if value == "-" else super().convert(value, param, ctx)


def split_option(text: str) -> Callable[[Decorated], Decorated]:
    """``--split`` of a command that writes payloads: a name of ENDS, whose bytes follow each of them."""
    return click.option("--split", type=click.Choice(sorted(ENDS)), default="line", show_default=True, help=text)


def need_output() -> None:
    """Raises a usage error when stdout is closed: a message that cannot be written must not be acknowledged."""
    if sys.stdout is None:
        raise click.UsageError("standard output is closed; send it to a file, a pipe or a terminal")


def leave_at_once(client: Memphis) -> None:
    """Closes a client without waiting for confirmations, and without the warning: the caller has shown the count."""
    from memphis_sync import UndeliveredWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndeliveredWarning)
        client.close(0)
