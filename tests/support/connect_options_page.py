"""
The table in docs/reference/connect-options.md, made from the rows of connect().

``python tests/support/connect_options_page.py`` writes it into the page; a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from memphis_sync._options.table import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "connect-options.md"
HEAD = "| option | type | default | URL | environment | what it is |"


def as_markdown() -> str:
    """One line an option, in the order of the parameters."""
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for row in OPTIONS:
        env = f"`MEMPHIS_{row.env}`" if row.env else ""
        text = row.doc.replace("``", "`")
        cells = (f"`{row.name}`", f"`{short(row.type)}`", f"`{row.default!r}`", "yes" if row.url else "", env, text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short(kind: Any) -> str:
    """A type without the modules that its parts are from."""
    return kind.__name__ if isinstance(kind, type) else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(kind))


def table_of(page: str) -> str:
    """The table as it stands in the page."""
    return HEAD + page.partition(HEAD)[2].partition("\n\n")[0].rstrip("\n")


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(table_of(text), as_markdown()), encoding="utf-8")
