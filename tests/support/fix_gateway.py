"""A real gateway on a free port of loopback, in a process of its own, and requests to it over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import pytest
from programs import Program

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess

LIMIT_S = 60.0  # a hang, on a machine with much else to do


class Answer:
    """
    What was answered.

    Attributes:
        status: The HTTP status.
        headers: By name in lower case; the last one of each.
        body: The bytes.
    """

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        """The body, which says that it is JSON."""
        assert self.headers.get("content-type") == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.headers} {self.body[:500]!r}>"


class Gateway:
    """
    A gateway in a process of its own.

    Args:
        broker_url: The broker; a login in it is not used.
        folder: For its files.
        options: Of ``memphis-sync gateway``.
        env: Added to this process's environment.
    """

    def __init__(
        self, broker_url: str, folder: Path, *options: Union[str, Path], env: Optional[Mapping[str, str]] = None
    ) -> None:
        ready = folder / f"ready-{len(list(folder.glob('ready-*')))}"
        command = ["-m", "memphis_sync.cli", "gateway", "--url", broker_url, "--port", "0", "--ready-file", ready]
        self.program = Program([*command, *options], folder, env=env)
        told = json.loads(self.program.until(lambda: ready.exists() and ready.read_text(), LIMIT_S))
        self.url, self.host, self.port = told["url"], told["host"], told["port"]
        self.context: Optional[ssl.SSLContext] = None  # for one that serves HTTPS
        self._tokens: dict[tuple[str, str], str] = {}

    def output(self) -> str:
        """What it has logged."""
        return self.program.stderr

    def connection(self) -> http.client.HTTPConnection:
        """A connection for several requests."""
        if self.context is not None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=LIMIT_S, context=self.context)
        return http.client.HTTPConnection(self.host, self.port, timeout=LIMIT_S)

    def request(
        self,
        method: str,
        path: str,
        body: Union[bytes, str, list[Any], dict[str, Any], None] = None,
        headers: Optional[Mapping[str, str]] = None,
        *,
        token: Optional[str] = None,
    ) -> Answer:
        """
        One request, on a connection of its own.

        Args:
            body: A list or dict is sent as JSON, with that content type.
            token: Sent as ``Authorization: Bearer``.
        """
        sent = dict(headers or {})
        if isinstance(body, (list, dict)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        connection = self.connection()
        try:
            connection.request(method, path, body, sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def log_in(self, username: str = "root", password: str = "memphis", **fields: Any) -> dict[str, Any]:
        """The answer to a login that succeeds."""
        answer = self.request("POST", "/auth/authenticate", {"username": username, "password": password, **fields})
        assert answer.status == 200, answer
        return answer.json

    def token(self, username: str = "root", password: str = "memphis") -> str:
        """An access token, the same one for each user."""
        key = (username, password)
        if key not in self._tokens:
            self._tokens[key] = self.log_in(username, password)["jwt"]
        return self._tokens[key]

    def post(
        self,
        path: str,
        body: Any = None,
        content_type: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Answer:
        """A POST with a token of the user root."""
        sent = {**({} if content_type is None else {"Content-Type": content_type}), **(headers or {})}
        return self.request("POST", path, body, sent, token=self.token())

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.program.terminate()
        return self.program.wait(LIMIT_S)


class GatewayInside(Gateway):
    """
    The same on a thread of this process, which starts in a hundredth of the time: where nothing depends on the command,
    its process and what that writes.

    Args:
        broker_url: The broker; a login in it is not used.
        options: Of ``memphis-sync gateway``.
    """

    def __init__(self, broker_url: str, *options: Union[str, Path]) -> None:
        import uvicorn

        from memphis_sync.http.gateway.app import create_app
        from memphis_sync.http.gateway.server import uvicorn_config
        from memphis_sync.http.gateway.settings import GatewaySettings

        given = {str(name)[2:].replace("-", "_"): value for name, value in zip(options[::2], options[1::2])}
        kinds = {name: type(field.default) for name, field in GatewaySettings.__dataclass_fields__.items()}
        chosen = {
            name: kinds[name](value) if kinds[name] in (int, float) else Path(value) for name, value in given.items()
        }
        settings = GatewaySettings(broker_url, port=0, **chosen)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self.url = f"{settings.scheme}://{self.host}:{self.port}"
        self.context = None
        self._tokens = {}
        self._server = uvicorn.Server(uvicorn_config(create_app(settings), settings))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.should_exit = True
        self._thread.join(LIMIT_S)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def gateway_inside() -> Iterator[Callable[..., Gateway]]:
    """``gateway_inside(broker_url, *options)`` starts a gateway of the test's own on a thread."""
    started: list[GatewayInside] = []

    def start(broker_url: str, *options: Union[str, Path]) -> Gateway:
        started.append(GatewayInside(broker_url, *options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def gateway(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway of the session's broker for the whole session; tests keep apart by station names."""
    started = Gateway(broker.url, tmp_path_factory.mktemp("gateway"))
    yield started
    started.program.close()


@pytest.fixture
def fresh_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """``fresh_gateway(broker_url, *options, env=)`` starts a gateway of the test's own."""
    started: list[Gateway] = []

    def start(broker_url: str, *options: Union[str, Path], env: Optional[Mapping[str, str]] = None) -> Gateway:
        started.append(Gateway(broker_url, tmp_path, *options, env=env))
        return started[-1]

    yield start
    for each in started:
        each.program.close()
