"""``memphis-sync gateway``: Memphis' REST protocol in front of a broker."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional

import click

from memphis_sync.errors import ConfigurationError

from ._app import Settings, warn_of_password

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    name="gateway",
    epilog="""\b
Examples:
  memphis-sync gateway --url memphis://broker:6666
  memphis-sync gateway --url memphis+tls://broker:6666 --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  MEMPHIS_SYNC_GATEWAY_JWT_KEYS=$(openssl rand -hex 32) memphis-sync gateway --url memphis://broker:6666
""",
)
@click.option(
    "--url", help="The broker, memphis://host:port; without it the command's --url, MEMPHIS_URL or MEMPHIS_HOST."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=4444, show_default=True, help="Port to listen on; 0 for a free one.")
@click.option("--fd", type=int, help="An inherited socket that listens already, instead of --host and --port.")
@click.option(
    "--jwt-keys-file",
    type=FILE,
    help="Keys of the tokens, one a line, the first one signs; read again when it changes.",
)
@click.option("--token-life-s", type=float, help="How long an access token is valid. [default: 900]")
@click.option("--refresh-life-s", type=float, help="How long a refresh token is valid. [default: 18000]")
@click.option("--body-limit", type=int, help="Largest body in bytes. [default: 4194304]")
@click.option("--header-limit", type=int, help="Largest headers in bytes. [default: 16384]")
@click.option(
    "--read-timeout-s", type=float, help="How long headers, and each pause in a body, may take. [default: 10]"
)
@click.option("--body-timeout-s", type=float, help="How long a whole body may take. [default: 60]")
@click.option("--max-connections", type=int, help="HTTP connections at once. [default: 1000]")
@click.option("--max-clients", type=int, help="Users connected to the broker at once. [default: 256]")
@click.option("--max-sessions", type=int, help="Logins that are remembered. [default: 100000]")
@click.option("--idle-s", type=float, help="How long an unused connection to the broker is kept. [default: 300]")
@click.option("--threads", type=int, help="Requests that may wait for messages at once. [default: 64]")
@click.option("--end-s", type=float, help="How long the end waits for requests. [default: 20]")
@click.option("--tls-cert", type=FILE, help="PEM certificate and chain; turns on HTTPS.")
@click.option("--tls-key", type=FILE, help="PEM file with its key.")
@click.option("--tls-ca", type=FILE, help="PEM CAs: clients need a certificate from them.")
@click.option("--ready-file", type=FILE, help="Gets a line of JSON when the gateway listens.")
@click.option("--access-log/--no-access-log", default=None, help="One line a request, on standard error. [default: on]")
@click.option("--console/--no-console", default=None, help="A page to look at stations, at /. [default: on]")
@click.pass_obj
def command(settings: Settings, /, url: Optional[str], **given: Any) -> int:
    """
    Serve Memphis' REST protocol, and a console in a browser, in front of a broker.

    It has no user of its own: each client logs in as a user of the broker.

    Keys of tokens: MEMPHIS_SYNC_GATEWAY_JWT_KEYS, or --jwt-keys-file; without them each start makes its own.
    """
    try:
        from memphis_sync.http.gateway.server import run
        from memphis_sync.http.gateway.settings import GatewaySettings
    except ImportError as exc:
        raise click.UsageError(
            f"memphis-sync gateway needs the extra 'gateway': pip install 'memphis-sync[gateway]' ({exc})"
        ) from exc
    warn_of_password(url, settings)
    options = {name: value for name, value in given.items() if value is not None}
    try:
        checked = GatewaySettings(url or settings.url or _broker_of_environment(), jwt_keys=_keys(options), **options)
    except ConfigurationError as exc:
        raise ConfigurationError(_as_options(str(exc), GatewaySettings.__dataclass_fields__)) from exc
    level = logging.WARNING if settings.quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return run(checked)


def _keys(options: dict[str, Any]) -> tuple[str, ...]:
    """Those of the environment, unless a file is named."""
    from memphis_sync.http.gateway.settings import keys_of_environment

    return () if "jwt_keys_file" in options else keys_of_environment()


def _broker_of_environment() -> str:
    """The broker that MEMPHIS_URL, or MEMPHIS_HOST and MEMPHIS_PORT name."""
    environ = os.environ
    if environ.get("MEMPHIS_URL"):
        return environ["MEMPHIS_URL"]
    host = environ.get("MEMPHIS_HOST")
    if not host:
        raise ConfigurationError("no broker is named: give --url memphis://host:port, or set MEMPHIS_URL")
    return f"memphis://{host}:{environ.get('MEMPHIS_PORT') or 6666}"


def _as_options(text: str, names: Collection[str]) -> str:
    """An error of the settings, with the options as the command has them: at its beginning, and names with a ``_``."""
    return re.sub(
        r"^[a-z]+\b|\b[a-z]+(?:_[a-z]+)+\b",
        lambda found: f"--{found[0].replace('_', '-')}" if found[0] in names else found[0],
        text,
    )
