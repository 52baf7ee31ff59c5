"""What stands in a page of Markdown: its links, the anchors that links may lead to, and its fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Optional

from sybil import Document, Region
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

FENCES = FencedCodeBlockLexer(language=r"[^\n]*")


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


def regions(document: Document) -> Iterator[Region]:
    """
    All fenced blocks of a page in their order, as sybil finds them, each parsed to a ``Block``; a ``text`` block behind
    no program is one of its own.
    """
    found: list[Region] = []
    for region in sorted(FENCES(document), key=lambda region: region.start):
        headings = re.findall(r"^## (.*)$", document.text[: region.start], re.MULTILINE)
        block = Block(document.path, headings[-1] if headings else "", region.lexemes["language"].strip(), "")
        block = block._replace(code=str(region.lexemes["source"]))
        last: Optional[Block] = found[-1].parsed if found else None
        is_run = last is not None and last.language in {"python", "sh"} and last.output is None
        if is_run and last is not None and block.language == "text" and last.heading == block.heading:
            found[-1].parsed = last._replace(output=block.code)
        else:
            region.parsed = block
            found.append(region)
    yield from found


def blocks(page: str, text: str) -> list[Block]:
    """All fenced blocks of a text."""
    return [region.parsed for region in regions(Document(text, page))]


def section(text: str, heading: str) -> str:
    """What stands below a heading."""
    assert text.count(f"\n## {heading}\n") == 1
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def program(text: str, heading: str) -> str:
    """The one Python block below a heading."""
    (found,) = (block for block in blocks("", section(text, heading)) if block.language == "python")
    return found.code
