"""``memphis-sync gateway``: its options, what it says, and its end."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from fix_process import run_python

from memphis_sync.cli import main
from memphis_sync.http.gateway.connection import MOST_HANDSHAKES

KEY = "k" * 32


class Done(NamedTuple):
    """How a command has ended."""

    returncode: int
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Done]]:
    """
    Runs a gateway that must not start, in this process: an interpreter takes longer than all that it does. Logging is
    afterwards what it was: the command sends it to a stream that ends with the test.
    """
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    handlers, levels = list(root.handlers), (root.level, uvicorn.level)

    def run(*options: Any, env: Optional[dict[str, str]] = None) -> Done:
        for name, value in {"MEMPHIS_URL": "", "MEMPHIS_HOST": "", **(env or {})}.items():
            monkeypatch.setenv(name, value)
        return Done(main(["gateway", *map(str, options)]), capsys.readouterr().err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    uvicorn.setLevel(levels[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "70000"), "--port is 70000; it must be 0 to 65535"),
        (("--host", "a b"), "--host is 'a b'; it must be an IP address or a name"),
        (("--tls-cert", "cert.pem"), "--tls-cert and --tls-key belong together"),
        (("--tls-cert", "cert.pem", "--tls-key", "key.pem"), "--tls-cert is 'cert.pem', which is not a file"),
        (("--jwt-keys-file", "no-keys"), "--jwt-keys-file is 'no-keys', which cannot be read: No such file"),
        (("--body-limit", "1"), "--body-limit is 1; it must be 1024 to"),
        (("--idle-s", "nan"), "--idle-s is nan; it must be"),
        (("--threads", "0"), "--threads is 0; it must be 1 to"),
        (("--ready-file", "/no/such/folder/ready"), "--ready-file is '/no/such/folder/ready'; its folder"),
        (("--url", "http://host"), "--url has no scheme of memphis"),
        (("--url", "root:secret@host"), "--url has no scheme of memphis"),
    ],
)
def test_a_wrong_option_is_named(run: Any, options: tuple[str, ...], said: str) -> None:
    given = options if "--url" in options else ("--url", "memphis://root:secret@127.0.0.1", *options)
    done = run(*given)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}"), done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "no broker is named: give --url memphis://host:port, or set MEMPHIS_URL"),
        (
            {"MEMPHIS_HOST": "h", "MEMPHIS_SYNC_GATEWAY_JWT_KEYS": ""},
            "MEMPHIS_SYNC_GATEWAY_JWT_KEYS is set and holds no key",
        ),
        (
            {"MEMPHIS_HOST": "h", "MEMPHIS_SYNC_GATEWAY_JWT_KEYS": f"{KEY} short"},
            "MEMPHIS_SYNC_GATEWAY_JWT_KEYS holds a key of 5",
        ),
    ],
)
def test_a_wrong_environment_is_named(run: Any, env: dict[str, str], said: str) -> None:
    done = run(env=env)
    assert (done.returncode, done.stderr.startswith(f"error: {said}")) == (2, True), done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize("content", ["", "# no key\n\n", f"{KEY}\nshort\n", b"\xff\xfe"])
def test_a_file_without_good_keys_is_refused(run: Any, tmp_path: Path, content: Any) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("--url", "memphis://127.0.0.1", "--jwt-keys-file", file)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --jwt-keys-file is '{file}', which "), done.stderr


def test_a_port_that_is_taken(run: Any, gateway: Any) -> None:
    done = run("--url", "memphis://127.0.0.1", "--port", str(gateway.port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"memphis-sync gateway: --port {gateway.port}: cannot listen on 127.0.0.1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_after_a_signal(broker: Any, fresh_gateway: Any, number: int, code: int, station_name: str) -> None:
    gateway = fresh_gateway(broker.url)
    assert gateway.post(f"/stations/{station_name}/produce/single", b"x", "text/plain").status == 200
    os.kill(gateway.program.pid, number)
    assert gateway.program.wait() == code
    said = gateway.output()
    assert "Traceback" not in said
    assert "Warning" not in said
    assert f"POST /stations/{station_name}/produce/single" in said, "the access log"


def test_a_waiting_consumer_does_not_hold_up_the_end(
    broker: Any, fresh_gateway: Any, memphis: Any, control: Any, station_name: str, until: Any
) -> None:
    gateway = fresh_gateway(broker.url)
    memphis.station(station_name)
    gateway.token()
    answers: list[Any] = []

    def consume() -> None:
        body = {"consumer_name": "c", "batch_size": 2, "batch_max_wait_time_ms": 600_000}
        answers.append(gateway.post(f"/stations/{station_name}/consume/batch", body))

    thread = threading.Thread(target=consume)
    thread.start()
    memphis.produce(station_name, "p", "got")
    until(lambda: (control.durable(f"{station_name}$1", "rest-gateway") or {}).get("num_ack_pending") == 1)
    assert gateway.stop() == 0
    thread.join(60)
    assert [row["message"] for row in answers[0].json] == ["got"]


def test_https(broker: Any, fresh_gateway: Any, authority: Any, station_name: str) -> None:
    made = authority.issue("127.0.0.1")
    gateway = fresh_gateway(broker.url, "--tls-cert", made.cert, "--tls-key", made.key)
    assert gateway.url.startswith("https://127.0.0.1:")
    gateway.context = ssl.create_default_context(cafile=authority.file)
    answer = gateway.post(f"/stations/{station_name}/produce/single", b"x", "text/plain")
    assert (answer.status, answer.json["success"]) == (200, True)


def test_handshakes_that_do_not_end_are_bounded(
    broker: Any, fresh_gateway: Any, authority: Any, until: Callable[..., Any]
) -> None:
    made = authority.issue("127.0.0.1")
    options = ("--tls-cert", made.cert, "--tls-key", made.key, "--max-connections", "3")
    gateway = fresh_gateway(broker.url, *options)
    gateway.context = ssl.create_default_context(cafile=authority.file)

    def is_served() -> bool:
        try:
            return bool(gateway.request("GET", "/healthz").status == 200)
        except OSError:
            return False

    with contextlib.ExitStack() as stack:
        address = (gateway.host, gateway.port)
        silent = [stack.enter_context(socket.create_connection(address, 60)) for _ in range(150)]
        until(lambda: len(select.select(silent, [], [], 0)[0]) == 150 - 3 - MOST_HANDSHAKES, 60)  # those are closed
        assert not is_served()
    until(is_served, 60)


def test_it_starts_with_the_keys_of_the_environment_and_says_where_it_is(broker: Any, fresh_gateway: Any) -> None:
    gateway = fresh_gateway(broker.url, env={"MEMPHIS_SYNC_GATEWAY_JWT_KEYS": KEY})
    assert f"{gateway.url} serves memphis://127.0.0.1:{broker.port}" in gateway.output()
    assert KEY not in gateway.output()


def test_a_password_in_its_url_is_warned_of_and_not_shown(run: Callable[..., Done]) -> None:
    done = run("--url", "memphis://root:canary@127.0.0.1", "--port", "70000")
    assert "can read the password in --url" in done.stderr
    assert "canary" not in done.stderr
    assert "can read" not in run("--url", "memphis://127.0.0.1", "--port", "70000").stderr


@pytest.mark.parametrize("missing", ["uvicorn", "click"])
def test_without_its_extra_it_says_what_is_missing(missing: str) -> None:
    hide = (
        f"import sys; sys.modules['{missing}'] = None; from memphis_sync.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run_python("-c", hide, "gateway", "--url", "memphis://127.0.0.1", check=False)
    assert done.returncode == 2
    assert b"needs the extra 'gateway': pip install 'memphis-sync[gateway]'" in done.stderr
