"""What stands in a page of Markdown: its links, the anchors that links may lead to, and its fenced blocks."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

FENCED = r"^## (?P<heading>.*)$|^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$"


def links(text: str) -> list[str]:
    """The targets of a page's links."""
    return re.findall(r"\]\(([^)]+)\)", text)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Block(NamedTuple):
    """A fenced block; one that is run has the ``text`` block behind it as its output, where ``...`` is anything."""

    page: str
    heading: str  # of its section; "" above the first
    language: str
    code: str
    output: Optional[str] = None


def blocks(page: str, text: str) -> list[Block]:
    """All fenced blocks of a page, in their order; a ``text`` block behind no program is one of its own."""
    found: list[Block] = []
    heading = ""
    for part in re.finditer(FENCED, text, re.MULTILINE):
        heading = part["heading"] or heading
        if part["code"] is None:
            continue
        block = Block(page, heading, part["language"].strip(), part["code"])
        last = found[-1] if found else None
        is_run = last is not None and last.language in {"python", "sh"} and last.output is None
        if is_run and block.language == "text" and last.heading == heading:
            found[-1] = last._replace(output=block.code)
        else:
            found.append(block)
    return found


def section(text: str, heading: str) -> str:
    """What stands below a heading."""
    assert text.count(f"\n## {heading}\n") == 1
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def program(text: str, heading: str) -> str:
    """The one Python block below a heading."""
    (found,) = (block for block in blocks("", section(text, heading)) if block.language == "python")
    return found.code
