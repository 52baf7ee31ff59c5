"""An outbox in a file, through either binding: what is accepted can be read and taken over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memphis_sync._core import Link, Route, Ticket
from memphis_sync._core._codes import FileFault
from memphis_sync._core.outbox_file import OutboxFile, adopt, outbox_file_size, recovered, sync_file, use_file

BYTES, MESSAGES = 65536, 64


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    """Descriptors of two files."""
    opened = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("old", "new")]
    for fd in opened:
        os.posix_fallocate(fd, 0, outbox_file_size(BYTES, MESSAGES))
    yield opened
    for fd in opened:
        os.close(fd)


def link_in(fd: int, token: bytes) -> Link:
    link = Link(token, BYTES, MESSAGES, 16, 1 << 20)
    use_file(link, os.dup(fd), 12345, b"a boot")
    return link


def route_of(link: Link) -> Route:
    return Route(link, b"orders$1.final", b"Nats-Msg-Id", b"", link.owner_new(), True, None)


def test_an_accepted_message_can_be_read_from_the_file(files: list[int]) -> None:
    link = link_in(files[0], b"token")
    route_of(link).send(b"payload", b"color: red\r\n", b"", 10**10, Ticket)
    route_of(link).send("text", b"", b"mine", 10**10, Ticket)
    file = OutboxFile(files[0])
    assert len(file) == 2
    subject, msg_id, headers, payload, accepted_s, was_written = file.message(0)
    assert (subject, msg_id, headers, payload) == (b"orders$1.final", b"token-0", b"color: red\r\n", b"payload")
    assert abs(accepted_s - time.time()) < 60
    assert not was_written
    assert file.message(1)[1:4] == (b"mine", b"", b"text")
    with pytest.raises(IndexError, match="there is no message 2"):
        file.message(2)
    info = file.info()
    assert (info["fault"], info["boot"], info["pid"]) == (FileFault.WHOLE, b"a boot", os.getpid())
    assert (info["max_bytes"], info["max_messages"], info["damaged"]) == (BYTES, MESSAGES, 0)


def test_messages_are_taken_over_with_their_ids(files: list[int]) -> None:
    old = link_in(files[0], b"old")
    route_of(old).send(b"payload", b"", b"", 10**10, Ticket)
    new = link_in(files[1], b"new")
    assert adopt(new, OutboxFile(files[0]), b"msg-id") == 1
    assert recovered(new) == (1, 0)
    assert new.stats()["accepted"] == new.outstanding() == 1
    assert OutboxFile(files[1]).message(0)[:2] == (b"orders$1.final", b"old-0")
    assert sync_file(new) == 0
    new.close()
    assert new.abandon() == 1
    assert new.release()
    assert len(OutboxFile(files[1])) == 1  # it waits there for the next process


def test_a_foreign_file_is_no_outbox_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("something else entirely")
    with (tmp_path / "notes").open() as file:
        assert OutboxFile(file.fileno()).info()["fault"] == FileFault.FOREIGN
        assert len(OutboxFile(file.fileno())) == 0
