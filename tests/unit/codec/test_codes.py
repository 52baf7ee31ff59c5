"""The enums of the C core in Python are those of its headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memphis_sync._core import _codes, _event, _translate

HEADER = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parents[3] / "csrc").glob("memphis_*.h"))


def enum_of(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} \{{(.*?)\}}", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL), re.DOTALL)
    assert body, name
    return {key: int(value) for key, value in re.findall(r"MCORE_(\w+) = (-?\d+)", body[1])}


@pytest.mark.parametrize(
    ("kind", "name", "prefix"),
    [
        (_codes.Error, "mcore_error", "E_"),
        (_codes.TicketOutcome, "mcore_outcome", ""),
        (_codes.FileFault, "mcore_file_fault", "FILE_"),
        (_codes.LinkEnd, "mcore_link_end", "LINK_"),
        (_codes.Next, "mcore_next", "NEXT_"),
    ],
)
def test_an_enum_has_the_names_and_numbers_of_the_header(kind, name: str, prefix: str) -> None:
    assert {key.removeprefix(prefix): value for key, value in enum_of(name).items()} == {
        member.name: member.value for member in kind
    }


def test_events_and_limits_are_those_of_the_header() -> None:
    names = {"OK": "+OK", "ERR": "-ERR"}
    kinds = {value: key.removeprefix("EV_") for key, value in enum_of("mcore_event_kind").items()}
    assert tuple(names.get(kinds[i], kinds[i]) for i in range(1, len(_event.KINDS))) == _event.KINDS[1:]
    assert enum_of("mcore_limit")["MAX_ROUTES"] == _translate.MAX_ROUTES
