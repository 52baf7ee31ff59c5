"""Where sub begins, what it leaves to a group, and what it writes; pub's --count."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest


@pytest.fixture
def ten(memphis: Any, station_name: str) -> str:
    """A station with the messages 1 to 10 in one partition."""
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(1, 11))
    return station_name


def lines(done: Any) -> list[bytes]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--last", "3"), [b"8", b"9", b"10"]),
        (("--last", "0"), []),
        (("--last", "50"), [b"%d" % number for number in range(1, 11)]),
        (("--from", "9"), [b"9", b"10"]),
        (("--from", "1", "--count", "2"), [b"1", b"2"]),
        (("--from", "11"), []),
        (("--group", "new", "--last", "1"), [b"10"]),
        (("--group", "new", "--from", "10"), [b"10"]),
        (("--no-ack", "--last", "1"), [b"10"]),
    ],
)
def test_where_it_begins(run_here: Any, ten: str, options: tuple[str, ...], expected: list[bytes]) -> None:
    assert lines(run_here("sub", ten, "--end", *options)) == expected


def test_a_beginning_holds_for_each_partition(run_here: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(30))
    assert len(lines(run_here("sub", station_name, "--end", "--last", "2"))) == 6


def test_a_group_that_exists_has_its_own_place(run_here: Any, ten: str) -> None:
    assert lines(run_here("sub", ten, "--group", "G", "--count", "2")) == [b"1", b"2"]
    for option in ("--last", "--from"):
        done = run_here("sub", ten, "--group", "G", option, "1")
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"group 'G' exists already, and goes on where it stopped: leave out {option}" in done.stderr.decode()
    assert lines(run_here("sub", ten, "--group", "g", "--count", "1")) == [b"3"], "nothing was taken"


def test_no_ack_leaves_the_messages_to_the_group(run_here: Any, memphis: Any, ten: str) -> None:
    consumer = memphis.consumer(ten, "own", "g", max_ack_time_ms=1000)
    assert len(lines(run_here("sub", ten, "--group", "g", "--no-ack", "--count", "4"))) == 4
    read = [message.data for message in consumer.read_all() if not message.ack()]
    assert sorted(read, key=int) == [b"%d" % number for number in range(1, 11)]


def test_a_group_keeps_its_settings(run_here: Any, memphis: Any, ten: str) -> None:
    memphis.consumer(ten, "own", "g", max_ack_time_ms=12_345, max_msg_deliveries=7)
    assert lines(run_here("sub", ten, "--group", "G", "--count", "1")) == [b"1"]
    (group,) = memphis.station(ten).info().groups
    assert (group.max_ack_time_ms, group.max_msg_deliveries) == (12_345, 7)


def test_no_ack_ends_at_the_end(run_here: Any, memphis: Any, ten: str) -> None:
    assert len(lines(run_here("sub", ten, "--group", "g", "--no-ack", "--end"))) == 10
    (group,) = memphis.station(ten).info().groups
    assert group.unacknowledged == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--last", "1", "--from", "2"), "give --last or --from, not both"),
        (("--group", "g", "--no-ack"), "--no-ack needs --count or --end"),
        (("--format", "%x"), "there is no '%x'; there are %s payload"),
        (("--format", r"\q"), r"there is no '\\q'; there are \n"),
        (("--format", "50%"), "there is no '%'"),
        (("--format", "%s", "--split", "nul"), "give --format or --split nul, not both"),
        (("--from", "0"), "0 is not in the range"),
        (("--last", "-1"), "-1 is not in the range"),
    ],
)
def test_options_that_exclude_each_other(run_here: Any, ten: str, options: tuple[str, ...], said: str) -> None:
    done = run_here("sub", ten, *options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in " ".join(done.stderr.decode().split())


def test_a_format_and_json_exclude_each_other(run_here: Any, ten: str) -> None:
    assert b"--format or --json" in run_here("--json", "sub", ten, "--format", "%s").stderr


def test_a_format_writes_what_it_names(run_here: Any, memphis: Any, station_name: str) -> None:
    payload = b"\xff\0 [/red] %p\n"
    memphis.produce(station_name, "p", payload, headers={"kind": "test", "x": "ü"})
    done = run_here("sub", station_name, "--end", "--format", r"%t %p/%o %S|%s|%h %% %T\n\x41\t\0\\")
    head, _, rest = done.stdout.partition(b"|")
    assert head == f"{station_name} 1/1 {len(payload)}".encode()
    assert rest.startswith(payload + b"|")
    headers, percent, tail = rest[len(payload) + 1 :].split(b" ", 2)
    assert (sorted(headers.decode().split(",")), percent) == (["kind=test", "x=ü"], b"%")
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT[\d:.+]+\nA\t\0\\", tail)


def test_an_empty_format_writes_nothing(run_here: Any, ten: str) -> None:
    assert lines(run_here("sub", ten, "--end", "--format", "")) == []


def test_the_newest_as_json(run_here: Any, ten: str) -> None:
    row = json.loads(run_here("--json", "sub", ten, "--last", "1", "--end").stdout)
    assert (row["station"], row["partition"], row["sequence"], row["data"]) == (ten, 1, 10, "10")


def test_a_body_is_produced_so_many_times(run_here: Any, station_name: str) -> None:
    assert run_here("pub", station_name, "again", "--count", "3", "--id", "x").returncode == 0
    assert b"3 duplicates" in run_here("pub", station_name, "again", "--count", "3", "--id", "x").stderr
    assert lines(run_here("sub", station_name, "--end")) == [b"again"] * 3


def test_the_first_messages_of_an_input_are_produced(run_here: Any, station_name: str, tmp_path: Any) -> None:
    source = tmp_path / "input"
    source.write_bytes(b"1\n2\n3\n4\n")
    assert run_here("pub", station_name, "--file", str(source), "--count", "2").returncode == 0
    assert lines(run_here("sub", station_name, "--end")) == [b"1", b"2"]


def test_headers_in_a_table_of_the_terminal_are_not_markup(run_here: Any, memphis: Any, station_name: str) -> None:
    """A payload never goes through rich, which swallows what it takes for markup."""
    memphis.produce(station_name, "p", b"[red]a[/red]")
    assert lines(run_here("sub", station_name, "--end")) == [b"[red]a[/red]"]
    assert b"[red]a[/red]" in run_here("peek", station_name).stdout
