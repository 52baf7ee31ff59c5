"""Outbox files that cannot be used: refused before any connection, by name, with what is wrong; left as they are."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

import memphis_sync
from memphis_sync.errors import ConfigurationError


@pytest.fixture
def nowhere():
    """A URL where nobody answers; a test fails if anybody has asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield f"memphis://root:memphis@127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(socket.timeout):
            server.accept()


@pytest.fixture
def file(broker, tmp_path) -> Path:
    """A file that was used and closed."""
    path = tmp_path / "outbox"
    memphis_sync.connect(broker.url, outbox=path, outbox_max_messages=64, outbox_max_bytes=65536).close()
    return path


def refused(url: str, path, **options) -> str:
    """The text of the refusal; the file is as it was, and nothing else is left beside it."""
    path = Path(path)
    before = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else None
    with pytest.raises(ConfigurationError) as caught:
        memphis_sync.connect(url, outbox=path, **options)
    assert f"{str(path)!r}" in str(caught.value)
    if before is not None:
        assert path.read_bytes() == before
    if beside is not None:
        assert sorted(path.parent.iterdir()) == beside
    return str(caught.value)


def test_a_file_in_use_names_the_process_that_has_it(nowhere, broker, start_python, tmp_path):
    path = tmp_path / "outbox"
    program = (
        "import os, time, memphis_sync\nc = memphis_sync.connect(os.environ['U'], outbox=os.environ['P'])\n"
        "print('open', flush=True)\ntime.sleep(600)"
    )
    child = start_python("-c", program, env={"U": broker.url, "P": str(path)})
    child.line()
    told = refused(nowhere, path)
    assert told.startswith(f"outbox {str(path)!r} is in use by process {child.process.pid};")
    child.process.kill()
    child.process.wait()
    memphis_sync.connect(broker.url, outbox=path).close()  # a pid that is gone keeps nobody out


def test_a_second_client_of_the_same_process_is_refused(nowhere, broker, tmp_path):
    with memphis_sync.connect(broker.url, outbox=tmp_path / "outbox"):
        assert "is in use by this process" in refused(nowhere, tmp_path / "outbox")
    memphis_sync.connect(broker.url, outbox=tmp_path / "outbox").close()


def test_a_file_that_is_none_of_ours_is_left_alone(nowhere, tmp_path):
    path = tmp_path / "notes"
    for content in (b"x", b"dear diary" * 1000, b"\0" * 100_000):
        path.write_bytes(content)
        assert "is not an outbox file; give another path, or remove it" in refused(nowhere, path)


def test_a_file_that_was_cut_or_grown_is_refused(nowhere, file):
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 20, len(whole) + 1):
        file.write_bytes(whole.ljust(size, b"\0")[:size])
        assert "is cut off or grown: it says that it has" in refused(nowhere, file)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (8, struct.pack("<I", 0x04030201), "a machine of another byte order"),
        (12, struct.pack("<I", 2), "is of format 2, which a later release of memphis_sync has written"),
        (32, b"changed", "its header does not match its checksum"),
    ],
    ids=["byte-order", "newer-format", "header"],
)
def test_a_file_of_another_kind_is_refused(nowhere, file, at, value, told):
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(value)
    assert told in refused(nowhere, file)


def test_a_damaged_message_is_refused_and_the_whole_ones_are_counted(nowhere, file, broker, run_python):
    program = (
        "import os, memphis_sync\nc = memphis_sync.connect(os.environ['U'], outbox=os.environ['P'],"
        " outbox_max_messages=64, outbox_max_bytes=65536)\np = c.producer('damaged', 'p')\n"
        "c._session._data.core.detach()\n"
        "[p.produce(b'message %d' % n, nonblocking=True) for n in range(3)]\nos._exit(0)"
    )
    run_python("-c", program, env={"U": broker.url, "P": str(file)}, timeout_s=60)
    content = bytearray(file.read_bytes())
    content[content.index(b"message 1")] ^= 1
    file.write_bytes(content)
    told = refused(nowhere, file)
    assert "is damaged: 1 entries are not whole, 2 messages are" in told
    assert f"memphis-sync outbox {file} --export FILE" in told


def test_what_is_no_file_is_refused(nowhere, tmp_path):
    assert "it is a directory; give the path of a file" in refused(nowhere, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in refused(nowhere, tmp_path / "fifo").replace("is not a", "it is not a")
    assert "its directory does not exist" in refused(nowhere, tmp_path / "none" / "outbox")
    with pytest.raises(ConfigurationError, match="outbox is empty"):
        memphis_sync.connect(nowhere, outbox="")
    with pytest.raises(ConfigurationError, match="outbox is 5"):
        memphis_sync.connect(nowhere, outbox=5)
    with pytest.raises(ConfigurationError, match="a path holds no NUL"):
        memphis_sync.connect(nowhere, outbox="a\0b")
    with pytest.raises(ConfigurationError, match="it must be one of 'none', 'second', 'produce'"):
        memphis_sync.connect(nowhere, outbox=tmp_path / "outbox", fsync="always")
    with pytest.raises(ConfigurationError, match="give outbox=PATH as well"):
        memphis_sync.connect(nowhere, fsync="second")


NO_ROOM = """
import os, resource, sys
import memphis_sync
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    memphis_sync.connect("memphis://root:memphis@127.0.0.1:1", outbox=os.environ["P"])
except memphis_sync.ConfigurationError as exc:
    print(exc, os.listdir(os.path.dirname(os.environ["P"])))
"""


def test_a_disk_without_room_is_an_error_of_connect(run_python, tmp_path):
    """A limit of the process's files stands for a full disk: both end in the same place."""
    told = run_python("-c", NO_ROOM, env={"P": str(tmp_path / "outbox")}, timeout_s=60).stdout.decode()
    assert "needs 1" in told
    assert "bytes on its disk: File too large. Free some, or give smaller outbox_max_bytes and" in told
    assert told.rstrip().endswith("[]")  # nothing is left behind


UNWRITABLE = """
import os
import memphis_sync
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    memphis_sync.connect("memphis://root:memphis@127.0.0.1:1", outbox=os.environ["P"])
except memphis_sync.ConfigurationError as exc:
    print(exc)
"""


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_that_may_not_be_written_is_refused(run_python, tmp_path, what):
    folder = tmp_path / "folder"
    folder.mkdir()
    if what == "file":
        (folder / "outbox").write_bytes(b"")
        (folder / "outbox").chmod(0o400)
    for path in (folder, *folder.parents):
        if path.owner() == folder.owner() and path.is_relative_to(tmp_path.parent.parent):
            path.chmod(0o755 if path != folder or what == "file" else 0o555)
    told = run_python("-c", UNWRITABLE, env={"P": str(folder / "outbox")}, timeout_s=60).stdout.decode()
    assert f"outbox {str(folder / 'outbox')!r} cannot be used: Permission denied;" in told
    assert "the file and its directory must be writable" in told


def test_a_place_made_for_it_is_used_and_nobody_else_may_read_it(broker, tmp_path):
    path = tmp_path / "outbox"
    path.write_bytes(b"")
    path.chmod(0o644)
    memphis_sync.connect(broker.url, outbox=path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_path_is_taken_from_where_connect_was_called(broker, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "outbox")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "there")
    with memphis_sync.connect(broker.url, outbox="relative") as client:
        os.chdir(tmp_path)
        client.produce("paths", "p", b"x")
    assert (tmp_path / "there" / "relative").exists()
    memphis_sync.connect(broker.url, outbox="~/home").close()
    assert (tmp_path / "home").exists()
    memphis_sync.connect(broker.url, outbox=tmp_path / "link").close()
    assert (tmp_path / "there" / "outbox").exists()
    assert (tmp_path / "link").is_symlink()


def test_a_url_and_the_environment_may_name_it(broker, tmp_path, monkeypatch):
    memphis_sync.connect(f"{broker.url}/?outbox={tmp_path}/url&fsync=second").close()
    assert (tmp_path / "url").exists()
    monkeypatch.setenv("MEMPHIS_HOST", "127.0.0.1")
    monkeypatch.setenv("MEMPHIS_PORT", str(broker.port))
    monkeypatch.setenv("MEMPHIS_USERNAME", "root")
    monkeypatch.setenv("MEMPHIS_PASSWORD", "memphis")
    monkeypatch.setenv("MEMPHIS_OUTBOX", str(tmp_path / "env"))
    memphis_sync.connect().close()
    assert (tmp_path / "env").exists()


def test_a_connect_that_fails_leaves_what_there_was(file, broker, tmp_path):
    before = file.read_bytes()
    for _ in range(2):
        with pytest.raises(memphis_sync.ConnectError):
            memphis_sync.connect("memphis://root:memphis@127.0.0.1:1", outbox=file)
        assert sorted(tmp_path.iterdir()) == [file]
    assert before[:8] == file.read_bytes()[:8]
    memphis_sync.connect(broker.url, outbox=file).close()


def test_an_unfinished_file_of_a_killed_process_is_removed(file, broker, tmp_path):
    old, young = tmp_path / "outbox.0123abcd.new", tmp_path / "outbox.77.4567abcd.new"
    for path in (old, young):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    memphis_sync.connect(broker.url, outbox=file).close()
    assert not old.exists()
    assert young.exists()  # perhaps a process is at it


def test_all_of_a_file_is_on_the_disk_before_the_first_message(broker, tmp_path):
    """A disk that is full later must not end the process at a write into a hole."""
    path = tmp_path / "outbox"
    with memphis_sync.connect(broker.url, outbox=path):
        file = path.stat()
    assert file.st_blocks * 512 >= file.st_size > 1 << 20
