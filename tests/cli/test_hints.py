"""What is misspelt, or stands in the wrong place, is answered with what was probably meant, before any IO."""

from __future__ import annotations

from typing import Any

import pytest

from memphis_sync.cli import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pubb orders x", "No such command 'pubb'. Did you mean 'pub'?"),
        ("publish orders x", "Did you mean 'pub'?"),
        ("subscribe orders", "Did you mean 'sub'?"),
        ("list", "Did you mean 'ls'?"),
        ("zzzz", "The known ones are bench, broker"),
        ("station creat orders", "No such command 'creat'. Did you mean 'create'?"),
        ("station delete orders", "Did you mean 'rm'?"),
        ("dls list orders", "Did you mean 'ls'?"),
        ("schema attach order orders", "No such command 'attach'. Did you mean"),
        ("sub orders --cuont 3", "No such option '--cuont'. Did you mean '--count'?"),
        ("pub orders x --heder a=b", "Did you mean '--header'?"),
        ("station create orders --partitions 3", "Did you mean '--partitions-number'?"),
        ("station create orders --storage memory", "Did you mean '--storage-type'?"),
        ("gateway --token-life 3", "Did you mean '--token-life-s'?"),
        ("ls --json", "It stands in front of the command: memphis-sync --json ls"),
        ("dls ls orders -q", "It stands in front of the command: memphis-sync -q dls ls"),
        ("pub orders x --password secret", "set MEMPHIS_PASSWORD"),
        ("--token secret ls", "MEMPHIS_TOKEN_FILE"),
        ("ls --zzzz", "No such option '--zzzz'. The known ones are --groups, --help"),
    ],
)
def test_what_was_meant_is_named(capsys: Any, monkeypatch: Any, line: str, said: str) -> None:
    monkeypatch.setenv("MEMPHIS_URL", "memphis://root:memphis@192.0.2.1")  # where nothing answers
    assert main(line.split()) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert said in text
    assert "secret" not in text.replace("takes a secret", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("station create orders --partitions-number 70000", "--partitions-number is 70000"),
        ("station create orders --retention-value 0", "--retention-value is 0"),
        ("station create orders --idempotency-window-ms 5", "--idempotency-window-ms is 5"),
        ("station create no/name", "name is 'no/name'"),
        ("station create orders --storage-type disc", "'disc' is not one of"),
    ],
)
def test_a_keyword_that_is_not_allowed_is_named_as_the_option(memphis_sync: Any, line: str, said: str) -> None:
    done = memphis_sync(*line.split())
    assert done.returncode == 2
    assert said in done.stderr.decode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--prot 7777", "no such option '--prot'. Did you mean '--port'?"),
        ("--readyfile F", "Did you mean '--ready-file'?"),
        ("--password=secret-word", "MEMPHIS_SYNC_BROKER_ROOT_PASSWORD"),
        ("--root-password secret-word", "MEMPHIS_SYNC_BROKER_ROOT_PASSWORD"),
        ("--zzzz secret-word", "The known ones are --help, --host"),
        ("start", "there is no argument 'start'; all settings are options"),
    ],
)
def test_the_broker_names_what_was_meant(capsys: Any, line: str, said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["broker", *line.split()])
    text = " ".join(capsys.readouterr().err.split())
    assert said in text
    assert "secret-word" not in text
