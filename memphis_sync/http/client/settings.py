"""
From the arguments of http.connect() to checked settings; nothing is opened.

The rules are those of connect(): a secret is only ever before the ``@`` or in an argument, no error shows it, and where
and who come either from the arguments or from the environment.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from memphis_sync._options.checks import (
    MAX_TIME_MS,
    check_account_id,
    check_optional_callable,
    check_path,
    check_secret,
    check_str,
    check_username,
    int_in,
)
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._options.table import FilePath
from memphis_sync._options.tls import check_context, file_context
from memphis_sync._options.url import SCHEMES, _check_characters, _parse_host, _parse_userinfo
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import Credentials, JsonDefault

_FORM = "https://gateway:4444"
_URL = "MEMPHIS_HTTP_URL"
_PORTS = {"http": 80, "https": 443}
_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?\Z")


@arguments
class HttpArguments(Arguments):
    """
    The parameters of http.connect().

    Args:
        host: The gateway's URL, ``https://gateway:4444``, with ``user:password@`` before its host if you like, and a
            path if a proxy serves it below one. None: the environment variable below has it, with user and password.
        username: The broker's user, without account.
        account_id: From 1; only cloud brokers have others.
        connection_token: For a broker in token mode; exactly one of this and *password*.
        password: For a broker in password mode.
        timeout_ms: For logging in, and for each attempt to connect to the gateway; from 1.
        cert_file: PEM file with a client certificate, for a proxy that demands one; needs *key_file*.
        key_file: PEM file with its key, not encrypted.
        ca_file: PEM file with the CAs to trust. Without it the first of the environment variables SSL_CERT_FILE,
            SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE counts, and without those the system's CAs.
        tls: A context instead of the three files; it is used unchanged.
        json_default: Called with each value inside a dict or list message that JSON has no form for, as in connect().
    """

    host: Optional[str] = option(default=None, env="HTTP_URL")
    _: KW_ONLY
    username: Optional[str] = option(default=None)
    account_id: int = option(check_account_id, default=1)
    connection_token: str = option(check_secret, default="")
    password: str = option(check_secret, default="")
    # As many round trips as with connect(), and a gateway's own login at its broker.
    timeout_ms: int = option(int_in(1, MAX_TIME_MS), default=10_000)
    cert_file: FilePath = option(check_path, default="")
    key_file: FilePath = option(check_path, default="")
    ca_file: FilePath = option(check_path, default="")
    tls: Optional[ssl.SSLContext] = option(check_context, default=None)
    json_default: Optional[JsonDefault] = option(check_optional_callable, default=None)


@dataclass(frozen=True)
class HttpSettings:
    """
    What a client over HTTP is opened with.

    Attributes:
        base: Scheme, host, port and path prefix, without a slash at the end.
        credentials: Who logs in; its secrets are in no repr.
        timeout_s: For logging in and for an attempt to connect.
        context: For ``https``.
        json_default: As the argument.
    """

    base: str
    credentials: Credentials
    timeout_s: float
    context: ssl.SSLContext = field(repr=False)
    json_default: Optional[JsonDefault] = None


class _Address(NamedTuple):
    base: str
    username: Optional[str]
    password: Optional[str]


def http_settings(given: HttpArguments, environ: Optional[Mapping[str, str]] = None) -> HttpSettings:
    """
    Checks the arguments of http.connect().

    Raises:
        ConfigurationError: Anything is missing, of the wrong type, out of its bounds or contradictory; a file cannot be
            read. The text holds no secret.
    """
    environ = os.environ if environ is None else environ
    given = given.checked()
    host = given.host
    if host is None:
        host = environ.get(_URL, "")
        if not host:
            raise ConfigurationError(f"no gateway is named: give host ({_FORM}) and username, or set {_URL}")
        for name in ("username", "password", "connection_token"):
            if getattr(given, name):
                raise ConfigurationError(
                    f"{name} is given without host; give both, or neither and set {_URL} (the two are never mixed)"
                )
    address = parse_address(check_str("host", host, empty_ok=False))
    user = given.username if given.username is not None else address.username
    if user is None:
        raise ConfigurationError(
            "username is missing; give username=..., or https://user:password@gateway:4444 as host"
        )
    username = check_username("username", user)
    password, token = given.password, given.connection_token
    if not password and not token:
        password = check_secret("password", address.password or "")
    if bool(password) == bool(token):
        given_what = "both are" if password else "neither is"
        raise ConfigurationError(f"{given_what} given: connection_token and password; exactly one must be")
    return HttpSettings(
        base=address.base,
        credentials=Credentials(username, password or None, token or None, given.account_id),
        timeout_s=given.timeout_ms / 1000,
        context=_context(given, environ),
        json_default=given.json_default,
    )


def parse_address(host: str) -> _Address:
    """
    Takes a gateway's URL apart.

    Raises:
        ConfigurationError: It cannot be understood; the text names the part, never what stands in it.
    """
    _check_characters(host)
    scheme, sep, rest = host.partition("://")
    scheme = scheme.lower()
    if sep and scheme in SCHEMES:
        raise ConfigurationError(
            f"host is a broker's URL ({scheme}://), which memphis_sync.connect() takes; a gateway's is {_FORM}"
        )
    if not sep or scheme not in _PORTS:
        raise ConfigurationError(f"host must begin with https:// or http://, as {_FORM} does")
    authority, slash, path = rest.partition("/")
    if any(char in rest for char in "?#") or "@" in path or authority.count("@") > 1:
        raise ConfigurationError(
            "the URL cannot be split: percent-encode the characters # / ? [ @ : in the user name and the password "
            "('#' is %23, '/' is %2F, '?' is %3F, '[' is %5B, '@' is %40, ':' is %3A); a gateway's URL has no query"
        )
    userinfo, at, place = authority.rpartition("@")
    if "," in place:
        raise ConfigurationError("the URL names several hosts; a client over HTTP has one gateway")
    name, port = _parse_host(place)
    if not _PATH.match(slash + path) or ".." in path:
        raise ConfigurationError(f"the URL's path holds something else than names; the form is {_FORM}/prefix")
    username, password = _parse_userinfo(userinfo) if at else (None, None)
    shown = f"[{name}]" if ":" in name else name
    base = f"{scheme}://{shown}:{_PORTS[scheme] if port is None else port}{slash}{path}".rstrip("/")
    try:
        urlsplit(base).hostname.encode("idna")  # type: ignore[union-attr]
    except (AttributeError, ValueError):
        raise ConfigurationError("the URL's host is not the name of a host") from None
    return _Address(base, username, password)


def _context(given: HttpArguments, environ: Mapping[str, str]) -> ssl.SSLContext:
    ca_file, cert_file, key_file = str(given.ca_file), str(given.cert_file), str(given.key_file)
    if given.tls is not None:
        if ca_file or cert_file or key_file:
            raise ConfigurationError("tls excludes ca_file, cert_file and key_file: load them into the context")
        return given.tls
    name = "" if ca_file else next((name for name in _CA_VARIABLES if environ.get(name)), "")
    if not name:
        return file_context(ca_file, cert_file, key_file)
    path = environ[name]
    if cert_file or key_file:
        file_context("", cert_file, key_file)  # whose errors are about these two
    try:
        is_folder = Path(path).is_dir()
        context = ssl.create_default_context(capath=path) if is_folder else file_context(path, "", "")
    except (ConfigurationError, OSError):  # not the CA file's own text, which names ca_file
        raise ConfigurationError(
            f"{name} is {path!r}, where no certificates of CAs can be read; correct it, or give ca_file"
        ) from None
    if cert_file:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    return context
