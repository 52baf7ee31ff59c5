"""What a gateway is told when it starts, checked before anything is opened; the environment that it may come from."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from memphis_sync.errors import ConfigurationError

DEFAULT_PORT = 4444  # by convention of Memphis' own gateway
BODY_LIMIT = 4 * 1024 * 1024  # bytes, as there
# Of each user; a busy one touches all of it in time. Less than a client's own defaults, and room for four bodies.
OUTBOX_BYTES, OUTBOX_MESSAGES = 16 * 1024 * 1024, 65_536
HEADER_LIMIT = 16 * 1024  # bytes; there 4096, of which a token takes a good part
KEY_BYTES = 32  # the least that HS256 asks for: RFC 7518, 3.2
ENVIRONMENT_KEYS = "MEMPHIS_SYNC_GATEWAY_JWT_KEYS"
_SCHEMES = ("memphis", "memphis+tls", "tls")
_MAX_LIFETIME_S = 366 * 24 * 3600


@dataclass(frozen=True)
class GatewaySettings:
    """
    How a gateway runs.

    Attributes:
        url: The broker, ``memphis://host:port`` with the options of connect(). A login in it is not used: each request
            comes with its own user.
        host: Address to listen on; by default loopback.
        port: Port to listen on, 1 to 65535; 0 for a free one.
        fd: An inherited descriptor of a socket that listens already, which is used instead of host and port.
        jwt_keys: Keys of the tokens, each of 32 bytes or more. The first one signs, all are accepted. Without keys and
            file each start makes one of its own.
        jwt_keys_file: A file with the keys of tokens, one a line; the first one signs. It is read again when it
            changes.
        token_life_s: How long an access token is valid unless its request says otherwise, in seconds, from 1.
        refresh_life_s: How long a refresh token is valid, in the same way.
        body_limit: Largest body in bytes, as sent and decoded; from 1024.
        header_limit: Largest size of all headers of a request in bytes, 1024 to 65536.
        read_timeout_s: How long a request's headers may take, and each pause inside a body, in seconds, above 0.
        body_timeout_s: How long a whole body may take, in seconds, above 0.
        write_timeout_s: How long a client may read nothing of its answer, in seconds, above 0.
        max_connections: How many HTTP connections may be open, from 1; others get 503.
        max_clients: How many users may be connected to the broker at once, from 1.
        max_sessions: How many logins are remembered, from 1; the oldest of the user that has most makes room.
        idle_s: How long a user's connection to the broker is kept without a request, in seconds, above 0.
        threads: How many requests may wait for a consumer at once, from 1.
        end_s: How long the end waits for requests under way, in seconds, from 0.
        tls_cert: PEM file of the certificate with its chain: the gateway then serves HTTPS.
        tls_key: PEM file of the certificate's key.
        tls_ca: PEM file with CAs: clients then need a certificate from one of them.
        ready_file: Gets one line of JSON once the gateway listens: url, host, port, pid.
        access_log: Whether each request is a line in the log ``memphis_sync.gateway.access``.
        console: Whether ``/`` is a page to look at stations.

    Raises:
        ConfigurationError: An option is not allowed, excludes another one, or names a file that cannot be read.
    """

    url: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    fd: Optional[int] = None
    jwt_keys: tuple[str, ...] = field(default=(), repr=False)
    jwt_keys_file: Optional[Path] = None
    token_life_s: float = 15 * 60  # as Memphis' own
    refresh_life_s: float = 300 * 60  # as its configuration promises
    body_limit: int = BODY_LIMIT
    header_limit: int = HEADER_LIMIT
    read_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 30.0
    max_connections: int = 1000
    max_clients: int = 256
    max_sessions: int = 100_000
    idle_s: float = 300.0
    threads: int = 64
    end_s: float = 20.0
    tls_cert: Optional[Path] = None
    tls_key: Optional[Path] = None
    tls_ca: Optional[Path] = None
    ready_file: Optional[Path] = None
    access_log: bool = True
    console: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", without_login(self.url))
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise ConfigurationError(f"{name} is {value!r}; it must be {least} to {most}")
        if not self.host or any(char.isspace() or char in "/@[]" for char in self.host):
            raise ConfigurationError(f"host is {self.host!r}; it must be an IP address or a name, without a port")
        self._check_fd()
        if self.jwt_keys and self.jwt_keys_file is not None:
            raise ConfigurationError("jwt_keys and jwt_keys_file are both given; choose one")
        for key in self.jwt_keys:
            check_key("jwt_keys", key)
        if self.jwt_keys_file is not None:
            keys_of(self.jwt_keys_file)
        self._check_files()

    def _check_fd(self) -> None:
        if self.fd is None:
            return
        try:
            listener = socket.socket(fileno=os.dup(self.fd))
        except (OSError, OverflowError, TypeError) as exc:
            raise ConfigurationError(f"fd is {self.fd!r}, which is not a descriptor of a socket") from exc
        with listener:
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ConfigurationError(f"fd is {self.fd}, a socket that does not listen")

    def _check_files(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("tls_cert and tls_key belong together: give both, or neither")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ConfigurationError("tls_ca is given without tls_cert and tls_key: it checks clients of HTTPS")
        for name in ("tls_cert", "tls_key", "tls_ca"):
            path = getattr(self, name)
            if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
                raise ConfigurationError(f"{name} is {str(path)!r}, which is not a file that can be read")
        if self.ready_file is not None and not self.ready_file.absolute().parent.is_dir():
            raise ConfigurationError(f"ready_file is {str(self.ready_file)!r}; its folder does not exist")

    @property
    def client_url(self) -> str:
        """The broker's URL for the clients of users, with the size of their outbox, unless it says that itself."""
        base, _, query = self.url.partition("?")
        sizes = {"outbox_max_bytes": max(OUTBOX_BYTES, 2 * self.body_limit), "outbox_max_messages": OUTBOX_MESSAGES}
        options = [query] if query else []
        options += [f"{name}={size}" for name, size in sizes.items() if f"{name}=" not in query]
        return f"{base.rstrip('/')}/?{'&'.join(options)}"

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "http" if self.tls_cert is None else "https"


_BOUNDS = (
    ("port", 0, 65535),
    ("token_life_s", 1, _MAX_LIFETIME_S),
    ("refresh_life_s", 1, _MAX_LIFETIME_S),
    ("body_limit", 1024, 2**30),
    ("header_limit", 1024, 65536),
    ("read_timeout_s", 0.01, 3600),
    ("body_timeout_s", 0.01, 86400),
    ("write_timeout_s", 0.01, 86400),
    ("max_connections", 1, 1_000_000),
    ("max_clients", 1, 100_000),
    ("max_sessions", 1, 10_000_000),
    ("idle_s", 0.01, 86400),
    ("threads", 1, 10_000),
    ("end_s", 0, 3600),
)


def without_login(url: str) -> str:
    """
    A broker's URL without user and password.

    Raises:
        ConfigurationError: It is not a URL of a broker; the text does not show it, since it may contain a password.
    """
    form = "memphis://host:port"
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in _SCHEMES:
        raise ConfigurationError(f"url has no scheme of {', '.join(_SCHEMES)}; the form is {form}")
    bare = f"{scheme}://{rest.rpartition('@')[2]}"
    if not urlsplit(bare).netloc:
        raise ConfigurationError(f"url names no host; the form is {form}")
    return bare


def check_key(option: str, key: str) -> str:
    """A key of tokens; ConfigurationError, without the key, when it is too short."""
    if len(key.encode()) < KEY_BYTES:
        raise ConfigurationError(
            f"{option} holds a key of {len(key.encode())} bytes; it must have {KEY_BYTES} or more: openssl rand -hex 32"
        )
    return key


def keys_of(path: Path) -> tuple[str, ...]:
    """
    The keys in a file, one a line; empty lines and those that begin with ``#`` do not count.

    Raises:
        ConfigurationError: It cannot be read, has no key, or one that is too short.
    """
    option = f"jwt_keys_file is {str(path)!r}, which"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as exc:
        raise ConfigurationError(f"{option} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{option} is not UTF-8 text (byte {exc.start})") from exc
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigurationError(f"{option} holds no key")
    return tuple(check_key(option, key) for key in keys)


def keys_of_environment(environ: Optional[Mapping[str, str]] = None) -> tuple[str, ...]:
    """The keys in the environment, separated by blanks; none when the variable is not set."""
    text = (os.environ if environ is None else environ).get(ENVIRONMENT_KEYS)
    if text is None:
        return ()
    if not text.split():
        raise ConfigurationError(f"{ENVIRONMENT_KEYS} is set and holds no key; unset it, or give a key")
    return tuple(check_key(ENVIRONMENT_KEYS, key) for key in text.split())
