"""
From the arguments of connect() to checked options.

What an argument does not say may come from the URL. Where and who come from the arguments, else from the environment,
never from both: a password from the environment must not go to a host from an argument, nor the reverse.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

from memphis_sync._base.observers import Observers
from memphis_sync._options.checks import check_secret, check_str
from memphis_sync._options.rows import Row
from memphis_sync._options.table import OPTIONS, ConnectArguments, ConnectOptions
from memphis_sync._options.tls import file_context
from memphis_sync._options.url import MEMORY, ParsedUrl, looks_like_url, parse_url
from memphis_sync.errors import ConfigurationError
from memphis_sync.observer import with_defaults
from memphis_sync.types import Credentials, ServerAddress

_HOST_RE = re.compile(r"[\w.:%-]+\Z")
_SECRETS = [row for row in OPTIONS if row.check is check_secret]
# Not mixed with an environment that says the same.
_WHO = {"username", "account_id", "connection_token", "password"}
_WHERE = {"port", "tls", "ca_file", "cert_file", "key_file"}
_IN_URL = frozenset(row.name for row in OPTIONS if row.url)
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def connect_options(given: ConnectArguments, environ: Optional[Mapping[str, str]] = None) -> ConnectOptions:
    """
    Turns the arguments of connect() into checked options.

    Args:
        given: The arguments.
        environ: Read when they have no host; None: the process's own.

    Raises:
        ConfigurationError: Anything is missing, of the wrong type, out of its bounds or contradictory.
    """
    values = dict(vars(given))
    for row in _SECRETS:
        check_secret(row.name, values[row.name])
    if given.host is None:
        _take_environment(values, os.environ if environ is None else environ)
    url: Optional[ParsedUrl] = None
    where = check_str("host", values["host"], empty_ok=False)
    if looks_like_url(where):
        url = parse_url(where, _IN_URL)
        _take_url(values, url)
    is_memory = url is not None and url.is_memory
    if is_memory:  # whoever asks is let in, also with the login of another setting
        values["username"] = values["username"] or MEMORY
        values["password"] = values["password"] or ("" if values["connection_token"] else MEMORY)
    values.update({row.name: row.check(row.name, values[row.name]) for row in OPTIONS if row.check})
    if values["outbox"] is None and values["fsync"] != "none":
        raise ConfigurationError(
            f"fsync is {values['fsync']!r}, but there is no file to write: give outbox=PATH as well"
        )
    addresses = _addresses(where, values["port"], url)
    if is_memory:
        values.update(outbox=None, fsync="none")  # nothing is sent that a file could keep
    options = ConnectOptions.__new__(ConnectOptions)
    vars(options).update(
        {row.name: values[row.name] for row in OPTIONS if row.name not in {"host"} | _WHO | _WHERE},
        addresses=addresses,
        observing=Observers(values["name"], str(addresses[0]), with_defaults(values["observers"])),
        credentials=_credentials(values),
        tls=_tls_context(values, wanted=url is not None and url.tls),
        is_memory=is_memory,
    )
    return options


def _take_environment(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Fills host and credentials from MEMPHIS_* variables; arguments that say where or who need a host beside them."""
    for row in OPTIONS:
        if row.name in _WHO | _WHERE and values[row.name] != row.default:
            raise ConfigurationError(
                f"{row.name} is given without host; give both, or neither and set MEMPHIS_URL (the two are never mixed)"
            )
    url = environ.get("MEMPHIS_URL", "")
    if url:
        if "://" in url and not looks_like_url(url):
            parse_url(url, frozenset())  # http://name, which is fine as a host: the error names the scheme
        if not looks_like_url(url):
            raise ConfigurationError("MEMPHIS_URL is not a URL; the form is memphis://user:password@host:port")
        values["host"] = url
    elif environ.get("MEMPHIS_HOST"):
        for row in OPTIONS:
            text = environ.get(f"MEMPHIS_{row.env}") if row.env and row.check is not check_secret else None
            if text and values[row.name] == row.default:
                values[row.name] = _from_text(row, text, f"MEMPHIS_{row.env}")
    else:
        raise ConfigurationError(
            "no broker is named: give host (a name or memphis://user:password@host:port) and username, "
            "or set MEMPHIS_URL, or MEMPHIS_HOST and MEMPHIS_USERNAME"
        )
    values.update({row.name: _secret_from_environment(row.env, environ) for row in _SECRETS})


def _secret_from_environment(name: str, environ: Mapping[str, str]) -> str:
    """MEMPHIS_PASSWORD, or the content of the file that MEMPHIS_PASSWORD_FILE names (a mounted secret)."""
    direct, path = environ.get(f"MEMPHIS_{name}", ""), environ.get(f"MEMPHIS_{name}_FILE", "")
    if direct and path:
        raise ConfigurationError(f"MEMPHIS_{name} and MEMPHIS_{name}_FILE are both set; unset one")
    if not path:
        return direct
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
    raise ConfigurationError(f"MEMPHIS_{name}_FILE is {path!r}, which cannot be read: {reason}")


def _take_url(values: dict[str, Any], url: ParsedUrl) -> None:
    """Puts the URL's parts into *values*; an argument that differs from its default wins over the URL."""
    for row in OPTIONS:
        if row.name in url.options and values[row.name] == row.default:
            values[row.name] = _from_text(row, url.options[row.name], f"{row.name} in the URL")
    if values["username"] is None:
        values["username"] = url.username
    if not values["password"] and not values["connection_token"] and url.secret:
        values["connection_token" if url.is_token else "password"] = url.secret


def _from_text(row: Row, text: str, what: str) -> Any:
    """The value that a text from a URL or the environment means, by the type of the option; checked as *what*."""
    try:
        value = _SWITCH[text.lower()] if row.type is bool else row.type(text) if row.type in (int, float) else text
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number of seconds"}[row.type]
        hint = ""
        if what.startswith("MEMPHIS_") and "://" in text:
            hint = "; Kubernetes sets this variable for a service called memphis: set MEMPHIS_URL instead"
        raise ConfigurationError(f"{what} is {text!r}; it must be {wanted}{hint}") from None
    if row.check:
        row.check(what, value)
    return value


def _addresses(where: str, port: int, url: Optional[ParsedUrl]) -> tuple[ServerAddress, ...]:
    if url is not None:
        hosts: Iterable[tuple[str, Optional[int]]] = ((MEMORY, port),) if url.is_memory else url.hosts
    else:
        lowered = where.lower()
        for prefix in ("http://", "https://"):  # the official SDKs cut these off; neither implies TLS
            if lowered.startswith(prefix):
                where = where[len(prefix) :].rstrip("/")
                break
        if where.startswith("[") and where.endswith("]"):
            where = where[1:-1]
        hosts = [(where, None)]
    found: list[ServerAddress] = []
    for name, own_port in hosts:
        # The text may be a URL that somebody broke, password and all, so only a plain word is shown.
        if not _HOST_RE.match(name):
            raise ConfigurationError(
                "host holds a character that no host name has; give a name, an IP address or "
                "memphis://user:password@host:port"
            )
        if ":" in name and not _is_ipv6(name):
            raise ConfigurationError(
                "host holds a ':'; give the port as port=..., or a URL memphis://user:password@host:port"
            )
        address = ServerAddress(name, port if own_port is None else own_port)
        if address not in found:
            found.append(address)
    return tuple(found)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.partition("%")[0])  # the part behind the % is the interface
    except ValueError:
        return False
    return True


def _credentials(values: Mapping[str, Any]) -> Credentials:
    password, token = values["password"], values["connection_token"]
    if bool(password) == bool(token):
        given = "both are" if password else "neither is"
        raise ConfigurationError(
            f"You have to connect with one of the following methods: connection token / password; {given} given "
            "(connection_token, password)"
        )
    return Credentials(values["username"], password or None, token or None, values["account_id"])


def _tls_context(values: Mapping[str, Any], *, wanted: bool) -> Optional[ssl.SSLContext]:
    """The context for both links, or None for plain TCP. A CA alone is enough; without one the system's are trusted."""
    context: Optional[ssl.SSLContext] = values["tls"]
    files = [values[option] for option in ("ca_file", "cert_file", "key_file")]
    if context is None:
        return file_context(*files) if wanted or any(files) else None
    if any(files):
        raise ConfigurationError("tls excludes ca_file, cert_file and key_file: load them into the context")
    return context
