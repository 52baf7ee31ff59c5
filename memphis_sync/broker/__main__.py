"""
``python -m memphis_sync.broker``: a broker in the foreground.

Passwords come from the environment or from a file, never from the command line, which every user of the machine can
read.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import Optional

from memphis_sync._base.option_names import as_options, meant_option
from memphis_sync.broker.options import (
    DEFAULT_HTTP_PORT,
    DEFAULT_PORT,
    DEFAULT_ROOT_PASSWORD,
    DLS_RETENTION_HOURS,
    MAX_PAYLOAD,
    BrokerOptions,
)
from memphis_sync.broker.server.supervisor import run
from memphis_sync.errors import ConfigurationError

_PREFIX = "MEMPHIS_SYNC_BROKER_"
_CALLED = {
    "data_dir": "--data",
    "http_port": "--http",
    "users": "--user or --users-file",
    "root_password": f"{_PREFIX}ROOT_PASSWORD",
    "token": f"{_PREFIX}TOKEN",
}
_EPILOG = f"""Environment:
  {_PREFIX}ROOT_PASSWORD
      password of the user root (default: {DEFAULT_ROOT_PASSWORD})
  {_PREFIX}PASSWORD_<NAME>
      password of --user NAME; letters in upper case,
      anything but letters and digits as _
  {_PREFIX}TOKEN
      a connection token: clients then need it instead
      of passwords
  {_PREFIX}NATS
      the same as --nats, for a URL with credentials
  GOGC, GOMEMLIMIT
      when nats-server collects garbage (default: 400
      percent, at most 3/4 of the memory)

Examples:
  memphis-sync broker
  memphis-sync broker --data /var/lib/memphis
  memphis-sync broker --ephemeral --port 0 --ready-file F
  memphis-sync broker --http
  memphis-sync broker --nats nats://10.0.0.5:4222
"""


def password_variable(name: str) -> str:
    """The environment variable that holds a user's password."""
    return f"{_PREFIX}PASSWORD_{re.sub('[^A-Z0-9]', '_', name.upper())}"


def _users(names: list[str], file: Optional[Path]) -> dict[str, str]:
    users: dict[str, str] = {}
    for name in names:
        password = os.environ.get(password_variable(name))
        if password is None:
            raise ConfigurationError(f"--user {name}: its password is missing; set {password_variable(name)}")
        users[name] = password
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except OSError as exc:
            raise ConfigurationError(f"--users-file {file}: {exc.strerror or exc}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigurationError(f"--users-file {file}: it is not UTF-8 text (byte {exc.start})") from exc
        for number, line in enumerate(text.splitlines(), 1):
            name, colon, password = line.partition(":")
            if line.strip() and not colon:
                raise ConfigurationError(f"{file}, line {number}: expected NAME:PASSWORD")
            if colon:
                users[name.strip()] = password
    return users


def parser_of(prog: str) -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A Memphis broker: the Memphis control plane\non a nats-server with JetStream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 for a free one (default: 6666)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: the platform's)")
    parser.add_argument("--ephemeral", action="store_true", help="a temporary data folder, removed at the end")
    parser.add_argument("--nats", metavar="URL", help="serve an existing NATS server instead of starting one")
    parser.add_argument("--user", action="append", default=[], metavar="NAME", help="an application user; repeatable")
    parser.add_argument("--users-file", type=Path, metavar="FILE", help="application users, one NAME:PASSWORD a line")
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="gets a line of JSON when the broker is ready")
    parser.add_argument("--max-payload", type=int, default=MAX_PAYLOAD, metavar="BYTES", help="default: 8388608")
    parser.add_argument(
        "--replicas", type=int, default=1, help="copies of the broker's own state in a cluster: 1, 3 or 5"
    )
    parser.add_argument(
        "--dls-retention-hours",
        type=int,
        default=DLS_RETENTION_HOURS,
        metavar="HOURS",
        help=f"how long dead letters are kept (default: {DLS_RETENTION_HOURS})",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate and chain; turns on TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file with its key")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM CAs: clients need a certificate from them")
    parser.add_argument(
        "--sdk-port", type=int, metavar="PORT", help="a second port, where the msg_id of official SDKs finds duplicates"
    )
    parser.add_argument(
        "--http",
        type=int,
        nargs="?",
        const=DEFAULT_HTTP_PORT,
        metavar="PORT",
        help=f"serve HTTP too, on this port; 0 for a free one (without a number: {DEFAULT_HTTP_PORT})",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings and errors only")
    return parser


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """All that a parser knows."""
    return [name for action in parser._actions for name in action.option_strings]


def _unknown(given: list[str], known: list[str]) -> str:
    """About what was not understood; the value of an option that there is not may be a secret, and is not shown."""
    name = next((each.partition("=")[0] for each in given if each.startswith("-")), "")
    if not name:
        return f"there is no argument {given[0]!r}; all settings are options"
    secrets = f"set {_PREFIX}ROOT_PASSWORD, {_PREFIX}PASSWORD_<NAME> or {_PREFIX}TOKEN, or give --users-file"
    return f"no such option {name!r}. {meant_option(name, known, secrets=secrets)}"


def main(argv: Optional[list[str]] = None, prog: str = "python -m memphis_sync.broker") -> int:
    """
    Reads command line and environment, and runs the broker.

    Args:
        argv: Arguments without the program's name; by default those of the process.
        prog: The program's name in the help.

    Returns:
        The exit code, see run(); a usage error raises SystemExit(2).
    """
    parser = parser_of(prog)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown, options_of(parser)))
    level = logging.WARNING if arguments.quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # the service logs what matters
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received() has no effect" not in str(record.msg))
    if "@" in (arguments.nats or ""):
        logging.getLogger("memphis_sync.broker").warning(
            "every user of this machine can read the credentials in --nats; set %sNATS instead", _PREFIX
        )
    try:
        users = _users(arguments.user, arguments.users_file)
    except ConfigurationError as exc:
        parser.error(str(exc))
    try:
        options = BrokerOptions(
            host=arguments.host,
            port=arguments.port,
            data_dir=arguments.data,
            ephemeral=arguments.ephemeral,
            nats=os.environ.get(f"{_PREFIX}NATS") if arguments.nats is None else arguments.nats,
            root_password=os.environ.get(f"{_PREFIX}ROOT_PASSWORD", DEFAULT_ROOT_PASSWORD),
            users=users,
            token=os.environ.get(f"{_PREFIX}TOKEN"),
            ready_file=arguments.ready_file,
            max_payload=arguments.max_payload,
            replicas=arguments.replicas,
            dls_retention_hours=arguments.dls_retention_hours,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
            tls_ca=arguments.tls_ca,
            sdk_port=arguments.sdk_port,
            http_port=arguments.http,
        )
    except ConfigurationError as exc:
        parser.error(as_options(str(exc), BrokerOptions.__dataclass_fields__, _CALLED))
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
