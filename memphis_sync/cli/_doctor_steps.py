"""The steps of doctor: the same handshake that every client makes, then a request, and a message there and back."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from memphis_sync._nats.connecting import Steps, Wait, run
from memphis_sync._nats.handshake import STEPS, Connected, Handshake, Login
from memphis_sync._options.connect import connect_options
from memphis_sync._options.table import ConnectArguments, ConnectOptions
from memphis_sync._options.url import is_loopback
from memphis_sync._protocol.info import ServerInfo, connect_request
from memphis_sync.errors import ConnectError, MemphisError

from ._cures import CONTROL, JETSTREAM, SETTINGS, STORED, Place, cure_of
from ._origins import Setting, origins, place_of, unused
from ._secrets import ask_for_password

if TYPE_CHECKING:
    from memphis_sync import Memphis
    from memphis_sync.types import ServerAddress

_PAYLOAD = b"memphis-sync doctor"
_WAIT_S = 10.0


class Result(NamedTuple):
    """
    One step.

    Attributes:
        step: Its name.
        seconds: How long it took.
        detail: What was found, or the error.
        cure: "" when all is well.
        settings: Of the first step.
        address: Of a broker, for the steps that each of several addresses takes.
    """

    step: str
    seconds: float
    detail: str
    cure: str = ""
    settings: tuple[Setting, ...] = ()
    address: str = ""


class Examination:
    """One run; the results come as they are found, and end with the first that has a cure."""

    def __init__(self, url: Optional[str]) -> None:
        self._url = url
        self._environ = dict(os.environ)
        self._options: Optional[ConnectOptions] = None
        self._password = ""
        self._secret_from = ""
        self._said: list[str] = []  # by the broker, about what it refused
        self._station = f"memphis-sync-doctor-{uuid.uuid4().hex[:12]}"

    def results(self) -> Iterator[Result]:
        """All steps."""
        started = time.perf_counter()
        try:
            found = self._settings()
        except MemphisError as exc:
            yield Result(SETTINGS, time.perf_counter() - started, str(exc), self._cure(SETTINGS, exc))
            return
        yield found
        assert self._options is not None
        for address in self._options.addresses:
            for result in self._connection(address):
                yield result
                if result.cure:
                    return
        yield from self._work()

    def _cure(self, step: str, error: Exception, address: Optional[ServerAddress] = None) -> str:
        host, port = ("", 0) if address is None else (address.host, address.port)
        return cure_of(step, error, Place(host, port, place_of(self._url, self._environ), self._secret_from))

    def _settings(self) -> Result:
        started = time.perf_counter()
        self._password = ask_for_password(self._url)
        was_asked = bool(self._password) or os.environ.get("MEMPHIS_PASSWORD") != self._environ.get("MEMPHIS_PASSWORD")
        self._options = connect_options(ConnectArguments(host=self._url, password=self._password))
        rows = origins(self._options, self._url, self._environ, was_asked=was_asked)
        self._secret_from = next(row.source for row in rows if row.value == "set")
        notes = unused(self._url, self._environ)
        return Result(SETTINGS, time.perf_counter() - started, "; ".join(notes) or "as follows", settings=tuple(rows))

    # ---- one address: DNS, TCP, INFO, TLS, login --------------------------------------------------------------------

    def _connection(self, address: ServerAddress) -> Iterator[Result]:
        options = self._options
        assert options is not None
        before = time.monotonic()
        handshake, steps = _try(address, options, before)
        error: Optional[ConnectError] = None
        details = {}
        try:
            connected = run(steps)[1]
        except ConnectError as exc:
            error = exc
        else:
            details = self._details(handshake, connected)
            connected.close()
        for step, at in handshake.passed:
            yield Result(step, at - before, details.get(step, ""), address=str(address))
            before = at
        if error is None:
            yield self._jetstream(handshake)
            return
        step = STEPS[len(handshake.passed)]
        seconds = time.monotonic() - before
        yield Result(step, seconds, str(error), self._cure(step, error, address), address=str(address))

    def _details(self, handshake: Handshake, connected: Connected) -> dict[str, str]:
        assert self._options is not None
        host = handshake.address.host
        peer = connected.sock.getpeername()[0]
        info = connected.info
        size = f"messages up to {info.max_payload:,} bytes"
        login = self._options.credentials
        who = "a connection token" if login.token else f"user {login.username!r}, account {login.account_id}"
        if connected.tls is not None:
            until = f", certificate until {connected.tls.expires}" if connected.tls.expires else ""
            tls = f"{connected.tls.version}{until}"
        elif is_loopback(host):
            tls = "not used, on this machine only"
        else:
            tls = "NOT USED: the password and all messages cross the network in the clear"
        values = (
            "no lookup needed" if peer == host else f"{host} is {peer}",
            f"connected to {handshake.address}",
            f"{_name_of(info)}, {size}",
            tls,
            who,
        )
        return dict(zip(STEPS, values))

    def _jetstream(self, handshake: Handshake) -> Result:
        is_on = handshake.info is not None and handshake.info.fields.get("jetstream") is True
        error = ConnectError(f"the server at {handshake.address} has no JetStream, so it stores nothing")
        detail = "on" if is_on else str(error)
        cure = "" if is_on else self._cure(JETSTREAM, error, handshake.address)
        return Result(JETSTREAM, 0.0, detail, cure, address=str(handshake.address))

    # ---- through a client -------------------------------------------------------------------------------------------

    def _work(self) -> Iterator[Result]:
        assert self._options is not None
        from memphis_sync import Memphis

        client = Memphis()
        # A table, so that another question about the broker is another row.
        steps: tuple[tuple[str, Callable[[Memphis], str]], ...] = ((CONTROL, self._control), (STORED, self._stored))
        try:
            for step, work in steps:
                started = time.perf_counter()
                try:
                    detail, cure = work(client), ""
                except MemphisError as exc:
                    detail = "; ".join([str(exc), *self._said[-1:]])
                    cure = self._cure(step, MemphisError(detail) if self._said else exc, self._options.addresses[0])
                yield Result(step, time.perf_counter() - started, detail, cure)
                if cure:
                    return
        finally:
            if client.is_connected():
                with contextlib.suppress(MemphisError):  # what failed before is what matters
                    client.destroy_station(self._station, 0)
                client.close()

    def _control(self, client: Memphis) -> str:
        """Connects as every program does, and has the broker do something."""
        from memphis_sync import Storage

        client.connect(
            self._url, password=self._password, name="doctor", on_error=lambda event: self._said.append(event.reason)
        )
        client.station(self._station, storage_type=Storage.MEMORY, retention_value=60, timeout_retries=0)
        return f"answers in {client.ping(_WAIT_S) * 1000:.1f} ms; station {self._station} is created"

    def _stored(self, client: Memphis) -> str:
        client.produce(self._station, "doctor", _PAYLOAD)
        messages = client.fetch_messages(self._station, "doctor", batch_size=1, timeout_s=_WAIT_S)
        if [each.data for each in messages] != [_PAYLOAD]:
            raise MemphisError(
                f"a message was stored in station {self._station}, but in {_WAIT_S:g} s it did not come back"
            )
        messages[0].ack(wait=True)
        return "a message was produced, stored, consumed and acknowledged; its station is destroyed"


def server_text(url: Optional[str], password: str) -> str:
    """Name and version of the server behind a URL, or behind that of the environment; "" when it cannot be reached."""
    options = connect_options(ConnectArguments(host=url, password=password))
    handshake, steps = _try(options.addresses[0], options, time.monotonic())
    with contextlib.suppress(ConnectError):
        run(steps)[1].close()
    return "" if handshake.info is None else _name_of(handshake.info)


def _name_of(info: ServerInfo) -> str:
    return f"{'Memphis broker' if info.is_memphis else 'nats-server'} {info.fields.get('version', '')}".rstrip()


def _try(address: ServerAddress, options: ConnectOptions, now: float) -> tuple[Handshake, Steps]:
    """A connection as every client makes it, which is not begun yet."""
    request, deadline = connect_request(options.credentials, uuid.uuid4().hex), now + options.timeout_ms / 1000
    handshake = Handshake(address, deadline, Login(lambda *_: request, options.tls))
    return handshake, _alone(handshake, deadline)


def _alone(handshake: Handshake, deadline: float) -> Steps:
    """One try at one address."""
    try:
        while True:
            ready = yield Wait([handshake], deadline)
            connected = handshake.go_on() if handshake in ready else None
            if connected is not None:
                return handshake.address, connected
    finally:
        handshake.close()
