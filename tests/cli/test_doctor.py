"""memphis-sync doctor: each cause of a failure is found in its step, and the cure says what to do about it."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from fix_proxy import AsMemphis
from limited_server import LIMITED, PASSWORD, LimitedServer

from memphis_sync.broker import BrokerOptions
from memphis_sync.broker.server.nats_server import find_nats_server
from memphis_sync.cli import main

ENOUGH_MS = 30_000  # for a handshake, on a busy machine
SILENT_MS = 3000  # where nobody will ever answer
STEPS = ["settings", "DNS", "TCP", "INFO", "TLS", "login", "JetStream", "control", "stored"]


class Found(NamedTuple):
    """What doctor says."""

    code: int
    steps: dict[str, dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        return list(self.steps.values())[-1]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Runs it in this process, with this environment alone."""

    def run(*args: str, **environ: str) -> Found:
        for name in [
            name for name in os.environ if name.startswith("MEMPHIS_") and not name.startswith("MEMPHIS_SYNC")
        ]:
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(["--json", *args, "doctor"])
        captured = capsys.readouterr()
        assert "canary" not in captured.out + captured.err
        return Found(code, {each["step"]: each for each in map(json.loads, captured.out.splitlines())})

    return run


def url_of(server: Any, login: str = "root:memphis", scheme: str = "memphis") -> str:
    return f"{scheme}://{login}@{server.host}:{server.port}/?timeout_ms={ENOUGH_MS}"


def failed(found: Found, step: str, code: int) -> dict[str, Any]:
    """The step that must be the one that fails, after all before it."""
    assert list(found.steps) == STEPS[: STEPS.index(step) + 1]
    assert [each["ok"] for each in found.steps.values()] == [True] * (len(found.steps) - 1) + [False]
    assert found.code == code
    assert found.last["detail"]
    return found.last


def test_all_is_well(doctor: Any, broker: Any, memphis: Any) -> None:
    found = doctor(MEMPHIS_URL=url_of(broker, f"root:{broker.password}"))
    assert found.code == 0
    assert list(found.steps) == STEPS
    assert all(each["ok"] and each["seconds"] >= 0 for each in found.steps.values())
    assert found.steps["INFO"]["detail"].startswith("nats-server ")
    assert "stored" in found.steps["stored"]["detail"]
    assert [each.name for each in memphis.stations() if "doctor" in each.name] == []


def test_a_memphis_broker_is_told_from_ours(doctor: Any, broker: Any) -> None:
    proxy = AsMemphis((broker.host, broker.port))
    try:
        found = doctor(MEMPHIS_URL=url_of(proxy, f"root:{broker.password}"))
        assert found.steps["INFO"]["detail"].startswith("Memphis broker ")
        assert found.steps["login"]["ok"]
    finally:
        proxy.close()


def test_a_wrong_port(doctor: Any, refused_address: tuple[str, int]) -> None:
    url = "memphis://root:canary@{}:{}/?timeout_ms={}".format(*refused_address, ENOUGH_MS)
    said = failed(doctor(MEMPHIS_URL=url), "TCP", 3)
    assert f"is {refused_address[1]} its port?" in said["cure"]
    assert "correct MEMPHIS_URL" in said["cure"]


def test_a_wrong_port_of_its_own_variable(doctor: Any, refused_address: tuple[str, int]) -> None:
    host, port = refused_address
    variables = {"MEMPHIS_HOST": host, "MEMPHIS_PORT": str(port), "MEMPHIS_USERNAME": "root"}
    said = failed(doctor(**variables, MEMPHIS_PASSWORD="canary"), "TCP", 3)
    assert "correct MEMPHIS_PORT" in said["cure"]


def test_a_wrong_host_name(doctor: Any) -> None:
    said = failed(doctor("--url", "memphis://root:canary@no-such-host.invalid"), "DNS", 3)
    assert "is 'no-such-host.invalid' in --url spelt right?" in said["cure"]


@pytest.mark.parametrize(("login", "secret"), [("root:canary", "MEMPHIS_URL"), ("nobody:canary", "MEMPHIS_URL")])
def test_a_wrong_password(doctor: Any, broker: Any, login: str, secret: str) -> None:
    said = failed(doctor(MEMPHIS_URL=url_of(broker, login)), "login", 3)
    assert f"the secret in {secret}" in said["cure"]
    assert "root with password memphis" in said["cure"]


def test_a_wrong_password_in_a_file_of_its_own(doctor: Any, broker: Any, tmp_path: Any) -> None:
    file = tmp_path / "secret"
    file.write_text("canary\n")
    said = failed(doctor(MEMPHIS_URL=url_of(broker, "root"), MEMPHIS_PASSWORD_FILE=str(file)), "login", 3)
    assert "the user name in MEMPHIS_URL and the secret in MEMPHIS_PASSWORD_FILE" in said["cure"]


def test_tls_that_is_expected_and_not_there(doctor: Any, broker: Any) -> None:
    said = failed(doctor(MEMPHIS_URL=url_of(broker, "root:canary", "memphis+tls")), "TLS", 3)
    assert "--tls-cert" in said["cure"]
    assert "write memphis:// in MEMPHIS_URL" in said["cure"]


def test_tls_that_is_there_and_not_expected(doctor: Any, tls_broker: Any) -> None:
    said = failed(doctor(MEMPHIS_URL=url_of(tls_broker, "root:canary")), "TLS", 3)
    assert "write memphis+tls:// instead of memphis:// in MEMPHIS_URL" in said["cure"]


def test_a_certificate_of_a_ca_that_is_not_trusted(doctor: Any, tls_broker: Any) -> None:
    said = failed(doctor(MEMPHIS_URL=url_of(tls_broker, "root:canary", "memphis+tls")), "TLS", 3)
    assert "name the CA" in said["cure"]
    assert "?ca_file=ca.pem in MEMPHIS_URL" in said["cure"]


def test_tls_that_is_well(doctor: Any, tls_broker: Any, authority: Any) -> None:
    url = f"{url_of(tls_broker, f'root:{tls_broker.password}', 'memphis+tls')}&ca_file={authority.file}"
    found = doctor(MEMPHIS_URL=url)
    assert found.code == 0, found.last
    assert found.steps["TLS"]["detail"].startswith("TLSv1.")
    assert ", certificate until " in found.steps["TLS"]["detail"]


@pytest.fixture
def nats_server(refused_address: tuple[str, int], tmp_path: Any, until: Any) -> Iterator[Callable[..., str]]:
    """``nats_server("-js", ...)`` starts a plain one and gives its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> str:
        host, port = refused_address
        command = [str(find_nats_server()), "-a", host, "-p", str(port), *options]
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        until(lambda: b"Server is ready" in (tmp_path / "log").read_bytes(), 60)
        return f"memphis://root:canary@{host}:{port}/?timeout_ms={ENOUGH_MS}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_server_without_jetstream(doctor: Any, nats_server: Any) -> None:
    said = failed(doctor(MEMPHIS_URL=nats_server()), "JetStream", 1)
    assert "nats-server -js" in said["cure"]
    assert "memphis-sync broker" in said["cure"]


def test_a_server_without_a_control_plane(doctor: Any, nats_server: Any, tmp_path: Any) -> None:
    found = doctor(MEMPHIS_URL=nats_server("-js", "-sd", str(tmp_path / "js")))
    said = failed(found, "control", 1)
    assert "run 'memphis-sync broker --nats nats://127.0.0.1:" in said["cure"]


class Page(http.server.BaseHTTPRequestHandler):
    """A web server that has a page, and is silent about it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_an_http_port(doctor: Any) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, name="test-http")
        thread.start()
        try:
            url = f"memphis://root:canary@127.0.0.1:{server.server_port}/?timeout_ms={SILENT_MS}"
            said = failed(doctor(MEMPHIS_URL=url), "INFO", 3)
        finally:
            server.shutdown()
            thread.join()
    assert f"port {server.server_port} is HTTP" in said["cure"]


def test_a_port_where_nobody_answers(doctor: Any, deaf_address: tuple[str, int]) -> None:
    url = "memphis://root:canary@{}:{}/?timeout_ms={}".format(*deaf_address, SILENT_MS)
    said = failed(doctor(MEMPHIS_URL=url), "INFO", 3)
    assert "is not a Memphis broker, or it hangs" in said["cure"]


@pytest.mark.parametrize(
    ("args", "environ", "detail"),
    [
        ((), {}, "no broker is named"),
        (("--url", "memphis://root:canary@h?timeout=1"), {}, "did you mean 'timeout_ms'?"),
        (("--url", "memphis://root@h"), {"MEMPHIS_PASSWORD": "canary"}, "neither is given"),
        ((), {"MEMPHIS_HOST": "h", "MEMPHIS_USERNAME": "u", "MEMPHIS_PORT": "tcp://10.0.0.1:6666"}, "Kubernetes"),
    ],
)
def test_wrong_settings_are_usage(doctor: Any, args: tuple[str, ...], environ: dict[str, str], detail: str) -> None:
    said = failed(doctor(*args, **environ), "settings", 2)
    assert detail in said["detail"]
    assert "MEMPHIS_URL=memphis://USER:PASSWORD@HOST:6666" in said["cure"]


def test_each_setting_has_its_source(doctor: Any, refused_address: tuple[str, int]) -> None:
    host, port = refused_address
    found = doctor(
        MEMPHIS_URL=f"memphis://shop:canary-url@{host}:{port}/?timeout_ms=500",
        MEMPHIS_PASSWORD="canary",
        MEMPHIS_USERNAME="other",
        MEMPHIS_PASWORD="canary",
    )
    first = found.steps["settings"]
    rows = {each["name"]: (each["value"], each["source"]) for each in first["settings"]}
    assert rows == {
        "broker": (f"{host}:{port}", "MEMPHIS_URL"),
        "TLS": ("no", "MEMPHIS_URL"),
        "username": ("shop", "MEMPHIS_URL"),
        "password": ("set", "MEMPHIS_PASSWORD"),
        "account_id": ("1", "default"),
        "timeout_ms": ("500", "MEMPHIS_URL"),
    }
    assert "MEMPHIS_USERNAME is set, but not used: MEMPHIS_URL names the broker" in first["detail"]
    assert "MEMPHIS_PASWORD is set, but there is no such setting; did you mean MEMPHIS_PASSWORD?" in first["detail"]


@pytest.mark.slow  # a broker does not answer what it forbids, so the request's own limit is waited for
def test_a_user_who_may_not_create_stations(doctor: Any, tmp_path: Path, until: Any) -> None:
    server = LimitedServer(BrokerOptions(port=0, users={LIMITED: PASSWORD}), tmp_path / "nats")
    server.prepare()
    server.spawn()
    try:
        until(server.is_up, 60)
        said = failed(
            doctor(MEMPHIS_URL=f"memphis://{LIMITED}:{PASSWORD}@127.0.0.1:{server.port}/?timeout_ms={ENOUGH_MS}"),
            "control",
            1,
        )
    finally:
        server.stop()
    assert "this user may not create stations" in said["cure"]


def test_for_people_it_is_a_line_a_step(broker: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memphis_sync.cli", "doctor"],
        env={**os.environ, "MEMPHIS_URL": broker.url},
        capture_output=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"all is well\n")
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == STEPS
    assert all(" ok " in line and " ms" in line for line in lines if not line.startswith(" "))
    assert "  password   set  (MEMPHIS_URL)" in lines
