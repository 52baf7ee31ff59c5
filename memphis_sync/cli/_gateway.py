"""``memphis-sync gateway``: Memphis' REST protocol in front of a broker."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import click

from memphis_sync._base.option_names import as_option, as_options
from memphis_sync._options.rows import texts_of
from memphis_sync.errors import ConfigurationError
from memphis_sync.http.gateway.settings import ENVIRONMENT_KEYS, GatewaySettings, keys_of_environment

from ._app import Settings
from ._group import Switch, command as command_of, examples
from ._secrets import warn_of_password

FILE = click.Path(path_type=Path, dir_okay=False)
_NO_OPTION = {"url", "jwt_keys"}  # the command's own; only in the environment
_TEXTS = texts_of(GatewaySettings.__doc__, "Attributes")


def _options(function: Callable[..., int]) -> Callable[..., int]:
    """An option for each field of GatewaySettings, with the field's default and text."""
    for field in reversed(dataclasses.fields(GatewaySettings)):
        if field.name not in _NO_OPTION:
            function = _option(field)(function)
    return function


def _option(field: dataclasses.Field[Any]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    name, text = as_option(field.name), _help(field)
    if isinstance(field.default, bool):
        return click.option(f"{name}/--no-{name[2:]}", field.name, cls=Switch, default=None, help=text)
    kinds = {"int": click.INT, "Optional[int]": click.INT, "float": click.FLOAT, "Optional[Path]": FILE}
    return click.option(name, field.name, type=kinds.get(str(field.type), click.STRING), default=None, help=text)


def _help(field: dataclasses.Field[Any]) -> str:
    """
    The first sentence of the field's text and its default. Not click's own default: None says that the option is not
    given, and the field's is the one that counts.
    """
    text = _TEXTS.get(field.name, "").replace("``", "")
    if field.default in (None, dataclasses.MISSING):
        return text
    default = field.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    return f"{text} [default: {default:g}]" if isinstance(default, float) else f"{text} [default: {default}]"


@command_of(
    name="gateway",
    epilog=examples(
        "memphis-sync gateway --url memphis://broker:6666",
        "memphis-sync gateway --host 0.0.0.0 \\",
        "    --tls-cert cert.pem --tls-key key.pem",
    ),
)
@click.option(
    "--url", help="The broker, memphis://host:port; without it the command's --url, MEMPHIS_URL or MEMPHIS_HOST."
)
@_options
@click.pass_obj
def command(settings: Settings, /, url: Optional[str], **given: Any) -> int:
    """
    Serve Memphis' REST protocol, and a console in a browser, in front of a broker.

    It has no user of its own: each client logs in as a user of the broker.

    Keys of tokens: MEMPHIS_SYNC_GATEWAY_JWT_KEYS (each of 32 bytes or more: openssl rand -hex 32), or --jwt-keys-file;
    without them each start makes its own.
    """
    try:
        from memphis_sync.http.gateway.server import run
    except ImportError as exc:
        raise click.UsageError(
            f"memphis-sync gateway needs the extra 'gateway': pip install 'memphis-sync[gateway]' ({exc})"
        ) from exc
    warn_of_password(url, is_quiet=settings.quiet)
    options = {name: value for name, value in given.items() if value is not None}
    keys = () if "jwt_keys_file" in options else keys_of_environment()
    try:
        checked = GatewaySettings(url or settings.url or _broker_of_environment(), jwt_keys=keys, **options)
    except ConfigurationError as exc:
        names = GatewaySettings.__dataclass_fields__
        raise ConfigurationError(as_options(str(exc), names, {"jwt_keys": ENVIRONMENT_KEYS})) from exc
    level = logging.WARNING if settings.quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return run(checked)


def _broker_of_environment() -> str:
    """The broker that MEMPHIS_URL, or MEMPHIS_HOST and MEMPHIS_PORT name."""
    environ = os.environ
    if environ.get("MEMPHIS_URL"):
        return environ["MEMPHIS_URL"]
    host = environ.get("MEMPHIS_HOST")
    if not host:
        raise ConfigurationError("no broker is named: give --url memphis://host:port, or set MEMPHIS_URL")
    return f"memphis://{host}:{environ.get('MEMPHIS_PORT') or 6666}"
