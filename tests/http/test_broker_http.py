"""``memphis-sync broker --http``: one command, two programs, one end; and the keys of the tokens."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from programs import Program

from memphis_sync.broker import BrokerError, BrokerOptions, BrokerProcess
from memphis_sync.errors import ConfigurationError

LIMIT_S = 90.0


def ask(url: str, body: Any = None, *, token: str = "", context: Optional[ssl.SSLContext] = None) -> tuple[int, Any]:
    """The status and the JSON that a request is answered with."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers),
            timeout=LIMIT_S,
            context=context,
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        return exc.code, json.load(exc)


def log_in(url: str, **options: Any) -> str:
    status, body = ask(f"{url}/auth/authenticate", {"username": "root", "password": "memphis"}, **options)
    assert status == 200, body
    token: str = body["jwt"]
    return token


def gateways(broker_pid: int) -> list[int]:
    """The process ids of a broker's gateways."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"gateway" in command and int(parent) == broker_pid:
            found.append(int(entry.name))
    return found


def test_messages_go_through_the_gateway_of_the_same_command(
    fresh_broker: Callable[..., BrokerProcess], until: Callable[..., Any]
) -> None:
    broker = fresh_broker(http_port=0)
    assert broker.http_url == f"http://127.0.0.1:{broker.http_port}"
    until(lambda: f"\n{broker.http_url}\n" in broker.output(), 60)  # it says where
    token = log_in(broker.http_url)
    status, body = ask(f"{broker.http_url}/stations/st/produce/single", {"a": 1}, token=token)
    assert (status, body["success"], body["seq"]) == (200, True, 1)
    (gateway,) = gateways(broker.pid)
    seen, environment = (Path(f"/proc/{gateway}/{what}").read_bytes() for what in ("cmdline", "environ"))
    assert b"@" not in seen, "no login"
    assert b"MEMPHIS_SYNC_BROKER" not in environment


def test_a_gateway_that_dies_is_replaced_on_its_port(
    fresh_broker: Callable[..., BrokerProcess], until: Callable[..., Any]
) -> None:
    broker = fresh_broker(http_port=0)
    (first,) = gateways(broker.pid)
    os.kill(first, signal.SIGKILL)
    token = log_in(broker.http_url)  # it waits for the next one, and is not refused
    (second,) = until(lambda: gateways(broker.pid))
    assert second != first
    assert ask(f"{broker.http_url}/stations/st/produce/single", 1, token=token)[0] == 200
    assert f"the gateway for HTTP (pid {first}) ended with code -9; restarting it" in broker.output()
    until(lambda: f"the gateway for HTTP is back (pid {second})" in broker.output())


def test_the_end_of_the_broker_is_that_of_the_gateway(fresh_broker: Callable[..., BrokerProcess], until: Any) -> None:
    broker = fresh_broker(http_port=0)
    port, (gateway,) = broker.http_port, gateways(broker.pid)
    broker.stop()
    assert not Path(f"/proc/{gateway}").exists()
    assert broker.start().http_port == port
    (gateway,) = gateways(broker.pid)
    broker.kill()
    until(lambda: not Path(f"/proc/{gateway}/cmdline").exists() or not Path(f"/proc/{gateway}/cmdline").read_bytes())
    broker.start()
    assert (broker.http_port, log_in(broker.http_url) != "") == (port, True)


def test_the_keys_are_kept_with_the_data(tmp_path: Path, fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker(http_port=0, data_dir=tmp_path / "data")
    file = tmp_path / "data" / "http-jwt.keys"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = file.read_text()
    assert len(keys.strip()) >= 32
    (gateway,) = gateways(broker.pid)
    for what in ("cmdline", "environ"):
        assert keys.strip().encode() not in Path(f"/proc/{gateway}/{what}").read_bytes()
    broker.stop()
    broker.start()
    assert file.read_text() == keys


def test_the_keys_of_a_broker_that_keeps_nothing_are_in_its_memory(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = Program(
        ["-m", "memphis_sync.broker", "--ephemeral", "--port", "0", "--http", "0", "--ready-file", ready], tmp_path
    )
    try:
        facts = json.loads(program.until(lambda: ready.exists() and ready.read_text()))
        assert facts["http_url"] == f"http://127.0.0.1:{facts['http_port']}"
        (gateway,) = gateways(program.pid)
        assert not Path(facts["data_dir"], "http-jwt.keys").exists()
        environment = Path(f"/proc/{gateway}/environ").read_bytes()
        assert len(environment.partition(b"MEMPHIS_SYNC_GATEWAY_JWT_KEYS=")[2].partition(b"\0")[0]) >= 32
        program.terminate()
        assert program.wait() == 0
    finally:
        program.close()


def test_a_broker_with_tls_has_a_gateway_with_tls(authority: Any, broker_with: Any) -> None:
    broker = broker_with(authority.issue("127.0.0.1"), tls_ca=Path(authority.file), http_port=0)
    context = ssl.create_default_context(cafile=str(authority.file))
    assert broker.http_url.startswith("https://127.0.0.1:")
    token = log_in(broker.http_url, context=context)
    status, body = ask(f"{broker.http_url}/stations/st/produce/single", 1, token=token, context=context)
    assert (status, body["seq"]) == (200, 1)


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} for HTTP cannot be used: Address already in use"):
            BrokerProcess(BrokerOptions(port=0, ephemeral=True, http_port=port), timeout_s=LIMIT_S).start()


def test_bad_ports_and_a_missing_extra_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="http_port is 70000; it must be 1 to 65535, or 0 for a free one"):
        BrokerOptions(http_port=70_000)
    with pytest.raises(ConfigurationError, match="http_port and port are both 6666; they must differ"):
        BrokerOptions(http_port=6666)
    with pytest.raises(ConfigurationError, match="http_port and sdk_port are both 6667; they must differ"):
        BrokerOptions(sdk_port=6667, http_port=6667)
    hidden = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "from memphis_sync.cli import main\n"
        "sys.exit(main(['broker', '--http', '0', '--port', '0', '--ephemeral']))\n"
    )
    program = Program(["-c", hidden], tmp_path)
    assert program.wait() == 2
    assert "--http is 0, and a gateway needs the extra 'gateway', of which uvicorn is not installed" in program.stderr
    assert "pip install 'memphis-sync[gateway]'" in program.stderr
