"""The options of a broker, checked before anything is started."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from memphis_sync._options.url import is_loopback
from memphis_sync.errors import ConfigurationError, MemphisError

DEFAULT_PORT = 6666
DEFAULT_HTTP_PORT = 4444  # as Memphis' own gateway by convention
DEFAULT_ROOT_PASSWORD = "memphis"  # noqa: S105  as in every Memphis tutorial; loopback only by default
MAX_PAYLOAD = 8 * 1024 * 1024  # as in Memphis' own configuration
DLS_RETENTION_HOURS = 3  # as in Memphis' own configuration
_MAX_DLS_RETENTION_HOURS = 720  # 30 days
ROOT = "root"
_HOST = re.compile(r"[A-Za-z0-9_.:%-]*\Z")
_USERNAME = re.compile(r"[a-z0-9_.-]{1,60}\Z")
GATEWAY_NEEDS = (
    "starlette",
    "uvicorn",
    "jwt",
)  # packages of the extra that the child imports, and this process does not
_NATS_SCHEMES = ("nats", "tls", "ws", "wss")


def nats_address(url: str) -> tuple[str, int]:
    """
    Host and port of a NATS server's URL, or of the first of several separated by commas.

    Raises:
        ConfigurationError: It is not a valid URL; the text does not contain it, since it may contain a password.
    """
    first = url.partition(",")[0].strip()
    try:
        parts = urlsplit(first if "://" in first else f"nats://{first}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigurationError("nats is not a URL like nats://host:4222: its host or port cannot be read") from exc
    if parts.scheme not in _NATS_SCHEMES:
        raise ConfigurationError(f"nats has the scheme {parts.scheme!r}; it must be one of {', '.join(_NATS_SCHEMES)}")
    if not host or port == 0:
        raise ConfigurationError("nats is not a URL like nats://host:4222: it has no host, or port 0")
    return host, port or 4222


class BrokerError(MemphisError):
    """The broker could not be started or kept running; the text says why in one sentence."""


def default_data_dir() -> Path:
    """The broker's folder in the platform's folder for user data."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "memphis-sync"


@dataclass(frozen=True)
class BrokerOptions:
    """
    How a broker runs.

    Attributes:
        host: Address to listen on, IPv4 or IPv6, or a name; by default loopback. ``::`` listens on both kinds.
        port: Port to listen on, 1 to 65535; 0 for a free one.
        data_dir: Folder of streams and state; None for the platform's data folder.
        ephemeral: Keep everything in a temporary folder that is removed at the end.
        nats: URL of an existing NATS server (or several, separated by commas) to serve instead of starting one.
        root_password: Password of the user ``root``.
        users: Application users and their passwords; each is known with and without the suffix ``$1``.
        token: If set, clients connect with this token instead of passwords.
        ready_file: Gets one line of JSON once the broker answers requests: url, host, port, pid, nats_pid, data_dir,
            sdk_port, http_url, http_port. Later versions may add names.
        max_payload: Largest message in bytes, headers included; 1024 to 67108864.
        replicas: Copies of the broker's own state in a cluster: 1, 3 or 5.
        dls_retention_hours: How long dead letters are kept, 1 to 720 hours.
        tls_cert: PEM file with the server's certificate and its chain: every connection then uses TLS.
        tls_key: PEM file with its key.
        tls_ca: PEM file with CAs: clients then need a certificate from one of them. The broker connects to itself with
            *tls_cert*, so that must be valid for a client, too.
        sdk_port: A second port, for official Memphis SDKs, where their ``msg_id`` finds duplicates; 0 for a free one,
            None for no such port. Everything else is the same on both ports.
        http_port: Where a gateway for HTTP listens, a child process of the broker; 0 for a free port, None for none.

    Raises:
        ConfigurationError: An option is not allowed, excludes another one, or names a file that cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    data_dir: Optional[Path] = None
    ephemeral: bool = False
    nats: Optional[str] = field(default=None, repr=False)
    root_password: str = field(default=DEFAULT_ROOT_PASSWORD, repr=False)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: Optional[str] = field(default=None, repr=False)
    ready_file: Optional[Path] = None
    max_payload: int = MAX_PAYLOAD
    replicas: int = 1
    dls_retention_hours: int = DLS_RETENTION_HOURS
    tls_cert: Optional[Path] = None
    tls_key: Optional[Path] = None
    tls_ca: Optional[Path] = None
    sdk_port: Optional[int] = None
    http_port: Optional[int] = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port is {self.port}; it must be 1 to 65535, or 0 for a free one")
        self._check_more_ports()
        if not 1024 <= self.max_payload <= 64 * 1024 * 1024:
            raise ConfigurationError(f"max_payload is {self.max_payload}; it must be 1024 to 67108864 bytes")
        if self.replicas not in (1, 3, 5):
            raise ConfigurationError(f"replicas is {self.replicas}; it must be 1, 3 or 5")
        if not 1 <= self.dls_retention_hours <= _MAX_DLS_RETENTION_HOURS:
            raise ConfigurationError(
                f"dls_retention_hours is {self.dls_retention_hours}; it must be 1 to {_MAX_DLS_RETENTION_HOURS}"
            )
        if self.ephemeral and self.data_dir is not None:
            raise ConfigurationError("ephemeral and data_dir are both given; choose one")
        if self.nats is not None and (self.ephemeral or self.data_dir is not None):
            raise ConfigurationError("nats excludes data_dir and ephemeral: an existing server has its own data")
        if self.nats is not None:
            for url in self.nats.split(","):
                nats_address(url)
        self._check_host()
        self._check_ready_file()
        self._check_data_dir()
        self._check_tls()
        for name, password in {ROOT: self.root_password, **self.users}.items():
            _check_user(name, password)
        if ROOT in self.users:
            raise ConfigurationError("users contains 'root'; set its password with root_password")
        if self.token is not None:
            _check_secret("token", self.token)

    def _check_host(self) -> None:
        if self.host.startswith("[") and self.host.endswith("]"):  # as in a URL
            object.__setattr__(self, "host", self.host[1:-1])
        if not _HOST.match(self.host):
            raise ConfigurationError(f"host is {self.host!r}; it must be an IP address or a name, without a port")
        if ":" in self.host:
            try:
                ipaddress.IPv6Address(self.host)
            except ValueError as exc:
                raise ConfigurationError(
                    f"host is {self.host!r}, which is not an IPv6 address ({exc}); the port is a separate option"
                ) from exc

    def _check_ready_file(self) -> None:
        if self.ready_file is None:
            return
        folder = self.ready_file.absolute().parent
        if not folder.is_dir():
            raise ConfigurationError(f"ready_file is {str(self.ready_file)!r}; there is no folder {str(folder)!r}")
        if self.ready_file.is_dir():
            raise ConfigurationError(f"ready_file is {str(self.ready_file)!r}, a folder; it must be a file")
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(f"ready_file is {str(self.ready_file)!r}; its folder is not writable")

    def _check_data_dir(self) -> None:
        if self.data_dir is None:
            return
        what = f"data_dir is {str(self.data_dir)!r}"
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise ConfigurationError(f"{what}; that is not a folder")
        there = next(
            folder for folder in (self.data_dir.absolute(), *self.data_dir.absolute().parents) if folder.exists()
        )
        if not there.is_dir():
            raise ConfigurationError(f"{what}; {str(there)!r} is not a folder")
        if not os.access(there, os.W_OK):
            raise ConfigurationError(f"{what}; {str(there)!r} is not writable")

    def _check_more_ports(self) -> None:
        taken = {self.port: "port"}
        for name, port in (("sdk_port", self.sdk_port), ("http_port", self.http_port)):
            if port is None:
                continue
            if not 0 <= port <= 65535:
                raise ConfigurationError(f"{name} is {port}; it must be 1 to 65535, or 0 for a free one")
            if port and port in taken:
                raise ConfigurationError(f"{name} and {taken[port]} are both {port}; they must differ")
            taken[port] = name
        if self.sdk_port is not None and self.nats is not None and "tls://" in self.nats:
            raise ConfigurationError(
                f"sdk_port is {self.sdk_port}, and nats is a server with TLS, which the port for SDKs does not speak: "
                "leave sdk_port out, or give a server without TLS"
            )
        missing = [name for name in GATEWAY_NEEDS if self.http_port is not None and find_spec(name) is None]
        if missing:
            raise ConfigurationError(
                f"http_port is {self.http_port}, and a gateway needs the extra 'gateway', of which {missing[0]} is not "
                "installed: pip install 'memphis-sync[gateway]'"
            )

    def _check_tls(self) -> None:
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key, "tls_ca": self.tls_ca}
        given = [name for name, path in files.items() if path is not None]
        if given and self.nats is not None:
            raise ConfigurationError(f"nats excludes {given[0]}: an existing server has its own TLS options")
        if given and (self.tls_cert is None or self.tls_key is None):
            raise ConfigurationError(f"{given[0]} is given; TLS needs both tls_cert and tls_key")
        for name, path in files.items():
            if path is not None and not path.is_file():
                raise ConfigurationError(f"{name} is {str(path)!r}; there is no such file")

    @property
    def scheme(self) -> str:
        """The scheme of the URL for clients."""
        return "memphis" if self.tls_cert is None else "memphis+tls"

    @property
    def http_scheme(self) -> str:
        """The scheme of the URL for HTTP."""
        return "http" if self.tls_cert is None else "https"

    @property
    def usernames(self) -> Optional[frozenset[str]]:
        """
        The users that requests may name; None for any.

        With a token, and on an existing server, the broker sees no passwords: whoever may connect may use any name,
        unless users are listed.
        """
        if (self.token is not None or self.nats is not None) and not self.users:
            return None
        return frozenset({ROOT, *self.users})

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def _check_user(name: str, password: str) -> None:
    if not _USERNAME.match(name):
        raise ConfigurationError(f"user {name!r}: a name is 1 to 60 lower-case letters, digits, '_', '.', '-'")
    _check_secret(f"the password of user {name!r}", password)


def _check_secret(what: str, secret: str) -> None:
    """Refuses a secret that a NATS server's configuration cannot contain, or would misread."""
    if not secret or not secret.isprintable():
        raise ConfigurationError(f"{what} is empty or has control characters")
    if secret.startswith("$2"):
        raise ConfigurationError(f"{what} starts with '$2', which a NATS server would treat as a bcrypt hash")
