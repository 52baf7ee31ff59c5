"""The public API is the one that is written down, and says what it returns; pages are found from the first one."""

from __future__ import annotations

import re
from pathlib import Path

import public_api
import pytest

ROOT = Path(__file__).parents[2]
# Whatever JSON holds; what the class of logging returns; a producer, whose overloads know for one station and several.
RETURNS_ANY = {"json", "handle", "producer"}


def test_the_public_api_is_the_one_that_is_written_down() -> None:
    """A change is made known: ``python tests/support/public_api.py`` writes it, CHANGELOG and the pages tell it."""
    assert public_api.as_text() == public_api.PAGE.read_text()


def test_every_public_function_says_what_it_returns() -> None:
    lines = [
        line.strip() for line in public_api.as_text().splitlines() if re.match(r" *(def|classmethod|static)", line)
    ]
    assert len(lines) > 100
    silent = [line for line in lines if " -> " not in line]
    vague = [line for line in lines if re.search(r"\bAny\b", line.rpartition(" -> ")[2])]
    assert silent == []
    assert [line for line in vague if not re.match(rf"def ({'|'.join(RETURNS_ANY)})\(", line)] == []


@pytest.mark.parametrize("section", ["tutorial", "how-to", "reference", "explanation"])
def test_a_section_s_first_page_leads_to_all_others(section: str) -> None:
    folder = ROOT / "docs" / section
    linked = re.findall(r"\]\(([\w/-]+\.(?:md|rst))\)", (folder / "index.md").read_text())
    pages = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in {".md", ".rst"} and path.name != "index.md"
    }
    assert sorted(linked) == sorted(pages)
