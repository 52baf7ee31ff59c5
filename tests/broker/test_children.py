"""What the broker starts: nothing of it runs code from the working directory, sees a password, or goes on for ever."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.server import nats_server
from memphis_sync.broker.server.go_runtime import usable_memory_bytes
from memphis_sync.broker.service import protoc
from memphis_sync.broker.service.schema_sources import compiled

StartBroker = Callable[..., BrokerProcess]
SMALL = 'syntax = "proto3"; message M { int32 a = 1; }'
# Takes protoc some seconds.
LARGE = 'syntax = "proto3";' + "".join(f"message M{at} {{ int32 a = 1; }}" for at in range(60_000))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def child_of(pid: int, word: str) -> Optional[int]:
    """A child process whose command line has the word."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            if word in command_line(child):
                return child
    return None


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory full of modules that leave a file when they are executed; gives that file."""
    work, mark = tmp_path / "work", tmp_path / "executed"
    for name in ("grpc_tools", "google"):
        (work / name).mkdir(parents=True)
    code = f"import os, sys; open({str(mark)!r}, 'a').write(__name__ + repr(dict(os.environ)))\n"
    for name in (
        "grpc_tools/__init__.py",
        "grpc_tools/protoc.py",
        "google/__init__.py",
        "resource.py",
        "usercustomize.py",
    ):
        (work / name).write_text(code)
    monkeypatch.chdir(work)
    return mark


def test_nothing_in_the_working_directory_is_executed(fresh_broker: StartBroker, trapped: Path) -> None:
    broker = fresh_broker(root_password="s3cret-pw")
    with ControlClient(broker) as client:
        assert client.schema("good", "protobuf", SMALL) == ""
        assert client.schema("bad", "protobuf", "nonsense").startswith("your Proto file is invalid: bad_1.proto:1:1")
    assert not trapped.exists(), trapped.read_text()


def test_protoc_is_found_outside_of_the_working_directory(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when an interpreter was started with -m, which puts it first."""
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), "", *sys.path])
    found = protoc.find()
    assert found is not None
    assert Path(found) != Path.cwd()
    assert b"int32" not in protoc.descriptor_set(found, "s.proto", SMALL.encode())
    assert not trapped.exists(), trapped.read_text()


def test_protoc_has_no_secrets_an_empty_folder_and_limits(
    fresh_broker: StartBroker, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    monkeypatch.setenv("MEMPHIS_PASSWORD", "an0ther-pw")
    broker = fresh_broker(root_password="s3cret-pw")

    def create() -> None:
        with ControlClient(broker) as client:
            client.schema("large", "protobuf", LARGE)

    asking = threading.Thread(target=create)
    asking.start()
    try:
        pid = until(lambda: child_of(broker.pid, "grpc_tools"))
        limits = until(lambda: "536870912" in Path(f"/proc/{pid}/limits").read_text() and Path(f"/proc/{pid}/limits"))
        rows = {line[:26].strip(): line[26:].split() for line in limits.read_text().splitlines()}
        assert rows["Max address space"][0] == "536870912"
        assert rows["Max cpu time"][0] == "10"
        assert rows["Max file size"][0] == str(64 << 20)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"pw" not in environment
        assert environment == b""
        assert list(Path(f"/proc/{pid}/cwd").resolve().iterdir()) == []
    finally:
        asking.join(60)


def test_nats_server_has_no_secrets_and_works_in_its_data_folder(
    fresh_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMPHIS_PASSWORD", "MEMPHIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "an0ther-pw")
    monkeypatch.setenv("GOMAXPROCS", "2")
    broker = fresh_broker(root_password="s3cret-pw", token="t0ken-pw")
    environment = Path(f"/proc/{broker.nats_pid}/environ").read_bytes()
    assert b"-pw" not in environment + command_line(broker.nats_pid).encode()
    assert b"GOMAXPROCS=2" in environment
    assert Path(f"/proc/{broker.nats_pid}/cwd").resolve() == broker.data_dir


@pytest.mark.parametrize("given", [{}, {"GOGC": "150"}, {"GOMEMLIMIT": "1GiB"}], ids=["defaults", "gogc", "limit"])
def test_nats_server_collects_garbage_less_often_within_the_memory(
    fresh_broker: StartBroker, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name in ("GOGC", "GOMEMLIMIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = Path(f"/proc/{fresh_broker().nats_pid}/environ").read_text().split("\0")
    memory_bytes = usable_memory_bytes()
    assert memory_bytes is not None
    expected = {"GOGC": "400", "GOMEMLIMIT": f"{memory_bytes * 3 // 4}B", **given}
    assert {f"{name}={value}" for name, value in expected.items()} <= set(environment)


@pytest.mark.parametrize(
    ("texts", "limit_bytes"),
    [(["max\n"], None), (["1073741824\n"], 2**30), (["9223372036854771712\n"], None), (["", "2097152"], 2**21)],
    ids=["v2_without_a_limit", "v2", "v1_without_a_limit", "v1"],
)
def test_the_memory_is_what_the_container_may_use(tmp_path: Path, texts: list[str], limit_bytes: Optional[int]) -> None:
    files = tuple(tmp_path / str(at) for at in range(len(texts)))
    for file, text in zip(files, texts):
        file.write_text(text)
    machine_bytes = usable_memory_bytes(())
    assert usable_memory_bytes((*files, tmp_path / "missing")) == (limit_bytes or machine_bytes)


def test_a_nats_server_in_the_working_directory_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nats-server").write_text("#!/bin/sh\n")
    (tmp_path / "nats-server").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nats_server.sysconfig, "get_path", lambda _: str(tmp_path / "none"))
    for path in (".", "", "./", f"relative{os.pathsep}."):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(nats_server.BrokerError, match="nats-server is not installed"):
            nats_server.find_nats_server()


@pytest.mark.parametrize(
    "source",
    [
        'syntax = "proto3"; message M {' + "".join(f"x a{at}={at};" for at in range(1, 300_000)) + "}",
        'syntax = "proto3";' + "".join(f"message M{at}{{int32 a=1;}}" for at in range(600_000)),
        'syntax = "proto3";' + "message M{" * 1_000_000,
    ],
    ids=["errors", "messages", "nesting"],
)
@pytest.mark.slow
def test_a_source_that_takes_too_much_is_refused_in_time(source: str) -> None:
    with pytest.raises(RequestError, match="your Proto file is invalid: ") as caught:
        compiled("s", "protobuf", 1, source)
    assert len(str(caught.value)) < 2000
