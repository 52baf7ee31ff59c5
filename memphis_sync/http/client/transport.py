"""
Requests to the gateway, through httpx: one pool of connections a process.

What matters of a request that failed is whether the gateway may have received it: Unsent says that it has not, for
certain; NoAnswer that it may have.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Optional
from urllib.parse import urlsplit

from memphis_sync._options.tls import tls_reason
from memphis_sync.errors import ClosedError, ConfigurationError
from memphis_sync.http.client.settings import HttpSettings

if TYPE_CHECKING:
    from types import ModuleType

_BROKER_SAYS = b"INFO {"  # before it is asked
_BROKER_S = (1.0, 10.0)  # how long that is waited for: at least, and at most
Headers = Iterable[tuple[bytes, bytes]]

JSON_TYPE = (b"Content-Type", b"application/json")  # exactly: Memphis' own gateway takes no parameters of it
MAX_ANSWER = 512 * 1024 * 1024  # bytes; a batch of messages is the largest
# uvicorn closes a connection after 5 s without a request; one that is about to be closed must not get another.
_IDLE_S = 4.0
_IDLE_CONNECTIONS = 64


class Unsent(Exception):  # noqa: N818  inside this package; no user sees it
    """The gateway has not received the request; the text says why."""


class NoAnswer(Exception):  # noqa: N818
    """
    The gateway may have received the request.

    Attributes:
        is_late: Whether the time for it was up.
    """

    def __init__(self, text: str, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


class Answer(NamedTuple):
    """A response: its status, its headers (names in any case) and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def load_httpx() -> ModuleType:
    """
    The library, imported when it is needed.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import httpx  # noqa: PLC0415  belongs to an extra
    except ImportError as exc:
        raise ConfigurationError(
            f"a client over HTTP needs httpx, which is not installed: pip install 'memphis-sync[http]' ({exc})"
        ) from exc
    return httpx


class Transport:
    """The connections of one process to the gateway; any number of threads may use it."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self.base = settings.base
        self._httpx: Any = load_httpx()
        self.is_closed = False
        limits = self._httpx.Limits(
            max_connections=None,  # each thread of the program uses one at a time
            max_keepalive_connections=_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
        )
        try:
            # Proxies come from the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY.
            self._client = self._httpx.Client(verify=settings.context, limits=limits, trust_env=True)
        except ImportError as exc:
            raise ConfigurationError(f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names a SOCKS proxy: {exc}") from exc
        except (ValueError, self._httpx.InvalidURL):
            raise ConfigurationError(  # its URL may hold a password
                "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not the URL of a proxy; the form is http://host:port"
            ) from None

    def close(self) -> None:
        """Ends all connections; a request that is under way fails, at the latest when its answer comes."""
        self.is_closed = True
        self._client.close()

    def post(self, path: str, headers: Headers, body: Any, deadline: float) -> Answer:
        """
        Sends one request and reads its response.

        Args:
            path: Below the gateway's URL.
            headers: All that are sent beside Host and Content-Length: Memphis' own gateway makes every one a header of
                the message.
            body: Bytes, or an iterable of them, which is sent in chunks.
            deadline: By ``time.monotonic()``.

        Raises:
            Unsent, NoAnswer: There is no response.
            ClosedError: The client was closed.
        """
        httpx = self._httpx
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Unsent("there was no time left")
        connect_s = min(left_s, self._settings.timeout_s)
        timeout = {"connect": connect_s, "pool": left_s, "read": left_s, "write": left_s}
        request = httpx.Request(
            "POST", self.base + path, headers=list(headers), content=body, extensions={"timeout": timeout}
        )
        try:
            response = self._client.send(request, stream=True)
            try:
                parts, size = [], 0
                for part in response.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_ANSWER:
                        raise NoAnswer(f"its answer is longer than {MAX_ANSWER} bytes")
                    if time.monotonic() > deadline:
                        raise NoAnswer("its answer did not end in time", is_late=True)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as exc:
            raise Unsent(self._reason(exc)) from exc
        except httpx.TimeoutException as exc:
            raise NoAnswer("it did not answer in time", is_late=True) from exc
        except httpx.RequestError as exc:
            raise NoAnswer("the client was closed" if self.is_closed else self._reason(exc)) from exc
        except RuntimeError:
            if not self.is_closed:
                raise
            raise ClosedError("the client was closed") from None
        return Answer(response.status_code, response.headers, b"".join(parts))

    def is_broker(self, deadline: float) -> bool:
        """Whether a broker listens there, which does not speak HTTP; looks until *deadline*, or a second."""
        place, (least_s, most_s) = urlsplit(self.base), _BROKER_S
        limit_s = min(max(deadline - time.monotonic(), least_s), most_s)
        try:
            with socket.create_connection((place.hostname or "", place.port or 80), limit_s) as connection:
                return connection.recv(len(_BROKER_SAYS), socket.MSG_WAITALL) == _BROKER_SAYS
        except OSError:
            return False

    def _reason(self, exc: Exception) -> str:
        for cause in _causes(exc):
            if isinstance(cause, ssl.SSLError):  # OpenSSL's own error
                return tls_reason(cause).replace("the broker", "the gateway")
            if isinstance(cause, ConnectionRefusedError):
                return "connection refused: nothing listens on that port"
        name = type(exc).__name__
        return f"{exc} ({name})" if str(exc) else name


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An error of httpx, and those that are behind it."""
    seen: set[int] = set()
    at: Optional[BaseException] = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
