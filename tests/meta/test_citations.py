"""
What the code cites is there: "protocol reference 5.3" is a heading of docs/reference/protocol.md, "B6" and "D-py-6" are
rows.

The page is held to the same: its links, tests and recordings exist, what it shows of a recording is in it, and it knows
every subject that the code speaks of, and every text that our broker refuses with.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import anchors, links
from reference.murmur3 import murmur3_x86_32

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "protocol.md"
RECORDINGS = ROOT / "tests" / "transcripts"
CITING = ("memphis_sync", "csrc", "tests", "bench", "setup.py")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxi", ".pxd", ".c", ".h", ".js", ".json", ".md", ".sh", ".txt"}
GENERATED = {"_cython.c", "_cffi_core.c"}
LEAST = 75  # citations that there were at the least; none found would mean that they are looked for in vain

# What makes an error text of our broker's, and how much of it says too little to look for.
REFUSING = {"Refusal", "RequestError", "SettingError", "NameRuleError", "require"}
SHORT = 6
NEVER_SENT = {"the partition's last sequence is needed to start with its last messages"}  # a mistake in our own code

# A section, an appendix, a defect of the broker, one of an SDK. A citation may have several, with commas between them.
ID = r"(?:\d{1,2}\.\d{1,2}|D-(?:py|js|go)-\d{1,2}|B\d{1,2}|[A-E])(?![\w-])"
BETWEEN = r"(?:\s|#|\*)+"  # two words may stand on two lines of a comment
CITATION = re.compile(rf"protocol{BETWEEN}reference{BETWEEN}({ID}(?:,{BETWEEN}{ID})*)")
NAMED = re.compile(rf"protocol{BETWEEN}reference\b", re.IGNORECASE)
OTHER_SPELLINGS = (
    re.compile(r"\breference \d{1,2}\.\d"),
    re.compile(r"\bD-(?:py|js|go)-\d"),
    re.compile(r"\b(?:broker|sdk-api|rest-gateway)\.md\b"),
)
TABLE_ROW = re.compile(r"^\| (B\d{1,2}(?:, B\d{1,2})*) ", re.MULTILINE)  # in a table about the broker's defects

HEADING = re.compile(r"^#{2,4} (?:Appendix )?(\d{1,2}(?:\.\d{1,2})?|[A-E])\b(.*)$", re.MULTILINE)
ROW = re.compile(r"^\| (B\d{1,2}|D-(?:py|js|go)-\d{1,2}) \| \S", re.MULTILINE)


class Citation(NamedTuple):
    """One place that cites one number."""

    where: str
    id: str


def sources() -> Iterator[Path]:
    """The files that may cite: what is written by hand, without this test and its made-up citations."""
    for name in CITING:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.suffix not in SUFFIXES or path.name in GENERATED or path == Path(__file__) or not path.is_file():
                continue
            if not any(part.startswith(".") or part in {"build", "node_modules", "__pycache__"} for part in parts):
                yield path


def citations(where: str, text: str) -> list[Citation]:
    """What *text* cites; the rows of its table count when it has cited the list of the broker's defects."""
    found: list[Citation] = []
    for match in CITATION.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found += [Citation(f"{where}:{line}", each) for each in re.findall(ID, match[1])]
    if any(citation.id == "12.1" for citation in found):
        for match in TABLE_ROW.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found += [Citation(f"{where}:{line}", each) for each in match[1].split(", ")]
    return found


def misspelt(where: str, text: str) -> list[str]:
    """Citations that nobody would find: another spelling, or no number behind the words."""
    rest = CITATION.sub(lambda match: "\n" * match[0].count("\n"), text)
    wrong = [match.start() for spelling in (NAMED, *OTHER_SPELLINGS) for match in spelling.finditer(rest)]
    lines = text.splitlines()
    numbers = sorted({rest.count("\n", 0, at) for at in wrong})
    return [f"{where}:{number + 1}: {lines[number].strip()}" for number in numbers]


def known(page: str) -> list[str]:
    """The numbers that the page has, in its order."""
    places = [(match.start(), match[1]) for pattern in (HEADING, ROW) for match in pattern.finditer(page)]
    return [number for _, number in sorted(places)]


def missing(found: list[Citation], page: str) -> list[str]:
    """The citations of what the page does not have."""
    there = set(known(page))
    return [f"{citation.where} cites {citation.id}" for citation in found if citation.id not in there]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found() -> list[Citation]:
    return [
        citation
        for path in sources()
        for citation in citations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]


def test_every_citation_is_in_the_page(page: str, found: list[Citation]) -> None:
    assert not missing(found, page)


def test_there_are_citations_of_all_kinds(found: list[Citation]) -> None:
    assert len(found) >= LEAST
    assert len({citation.where.rpartition(":")[0] for citation in found}) >= 12
    assert {kind[0] for kind in (citation.id for citation in found)} >= {"1", "5", "B", "C", "D"}


def test_citations_have_one_spelling() -> None:
    wrong = [
        line
        for path in sources()
        for line in misspelt(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_number_of_the_page_stands_there_once(page: str) -> None:
    numbers = known(page)
    assert len(numbers) > 100
    assert sorted(numbers) == sorted(set(numbers))
    chapters = [[int(part) for part in number.split(".")] for number in numbers if number[0].isdigit()]
    assert chapters == sorted(chapters)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("as protocol reference 5.3 says", ["5.3"]),
        ("(protocol reference 5.3, 99.1).", ["5.3", "99.1"]),
        ("# see protocol\n# reference 7.3,\n#  7.4, and more", ["7.3", "7.4"]),
        ("/* protocol\n * reference 5.2 */", ["5.2"]),
        ("protocol reference B6, D-py-6, C", ["B6", "D-py-6", "C"]),
        ("protocol reference 12.1\n| B1 `x` |\n| B31, B35 y |", ["12.1", "B1", "B31", "B35"]),
        ("a protocol, the reference 5.3\n| B1 `x` |", []),
    ],
)
def test_citations_are_found(text: str, ids: list[str]) -> None:
    assert [citation.id for citation in citations("f.py", text)] == ids


@pytest.mark.parametrize("made_up", ["5.99", "99.1", "B37", "D-py-99", "D-go-1", "0.1"])
def test_a_made_up_citation_is_missing(page: str, made_up: str) -> None:
    text = f"first\nsecond protocol reference 5.3, {made_up}"
    assert missing(citations("f.py", text), page) == [f"f.py:2 cites {made_up}"]
    assert missing(citations("f.py", text), f"{page}\n## {made_up} Title\n| {made_up} | text |\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "the reference 12.5",
        "Protocol reference 12.5",
        "protocol reference, 5.3",
        "see D-py-6",
        "broker.md 12.1",
        "sdk-api.md, 7",
    ],
)
def test_another_spelling_is_told(text: str) -> None:
    assert misspelt("f.py", f"first\n{text}\n") == [f"f.py:2: {text}"]


def test_links_of_the_page_resolve(page: str) -> None:
    found, there = links(page), anchors(page)
    assert len(found) > 20
    wrong = [link for link in found if link.startswith("#") and link[1:] not in there]
    wrong += [link for link in found if not link.startswith("#") and not (PAGE.parent / link).exists()]
    assert not wrong
    numbers = set(known(page))
    assert {match[1] for match in HEADING.finditer(page) if "." not in match[1]} <= {
        number for number in numbers if f"[{number} " in page or f"[Appendix {number} " in page
    }, "each chapter is in the contents"


def test_numbers_that_the_page_itself_names_are_there(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.DOTALL)
    asides = " ".join(re.findall(r"\(([^()]*)\)", text))
    inside = set(re.findall(rf"(?<![\w.-]){ID}", asides))
    inside |= set(re.findall(r"\b(B\d{1,2}|D-(?:py|js|go)-\d{1,2})\b", text))
    assert len(inside) > 60
    assert inside <= set(known(page)), inside - set(known(page))


def test_what_the_page_names_as_proof_exists(page: str) -> None:
    tests = set(re.findall(r"tests/[\w/]+\.py", page))
    recordings = set(re.findall(r"`([a-z]+-[a-z-]+\.jsonl)`", page))
    assert len(tests) > 15
    assert len(recordings) > 15
    assert not [name for name in tests if not (ROOT / name).is_file()]
    assert not [name for name in recordings if not (RECORDINGS / name).is_file()]


def test_what_is_shown_of_a_recording_is_in_it(page: str) -> None:
    """JSON equals a whole payload of the recording, or its INFO or CONNECT; text is lines of one frame."""
    shown = re.findall(r"[Ff]rom\s+`([\w-]+\.jsonl)`[^`]*?:\n\n```(json|text)\n(.*?)```", page, re.DOTALL)
    assert len(shown) >= 15
    assert len(shown) == page.count("```json\n") + page.count("```text\n"), "each block says where it is from"
    for name, kind, block in shown:
        frames = [json.loads(line) for line in (RECORDINGS / name).read_text(encoding="utf-8").splitlines()]
        if kind == "json":
            value = json.loads(block.replace("\n", ""))
            assert any(value in (frame.get("json"), _json(frame.get("payload"))) for frame in frames), (name, block)
        else:
            lines = set(block.splitlines())
            assert any(lines <= _lines(frame) for frame in frames), (name, block)


def _json(payload: object) -> object:
    try:
        return json.loads(payload) if isinstance(payload, str) else None
    except ValueError:
        return None


def _lines(frame: dict[str, object]) -> set[str]:
    parts = (str(frame.get(key) or "") for key in ("line", "headers", "payload"))
    return {line for part in parts for line in part.splitlines()}


def test_the_page_knows_every_subject(page: str) -> None:
    """Of requests, updates and reports; a subject that is only begun in the code is one that a name follows."""
    spoken = {
        subject
        for path in sorted((ROOT / "memphis_sync").rglob("*.py"))
        for subject in re.findall(r"[\"'`](\$memphis_[a-z_]+)", path.read_text(encoding="utf-8"))
    }
    assert len(spoken) > 25
    assert not sorted(subject for subject in spoken if subject not in page)


def test_the_page_knows_every_text_that_our_broker_refuses_with(page: str) -> None:
    """The longest part of each that has no value in it; a text may stand in several lines here and there."""
    texts = list(refusals())
    assert len(texts) > 40
    words = " ".join(page.split())
    assert not [f"{where}: {text}" for where, text in texts if " ".join(text.split()) not in words]


def refusals() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "memphis_sync").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] not in REFUSING:
                continue
            for text in node.args:
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                fixed = [str(part.value).strip() for part in parts if isinstance(part, ast.Constant)]
                longest = max(fixed, key=len, default="")
                if len(longest) > SHORT and longest not in NEVER_SENT:
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", longest


def test_the_hash_vectors_are_computed(page: str) -> None:
    rows = re.findall(r"^\| (\(empty\)|`[^`]+`) \| (\d+) \| (\d) \| (\d) \| (\d) \| (\d) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    for key, *numbers in rows:
        value = murmur3_x86_32(b"" if key == "(empty)" else key.strip("`").encode(), 31)
        assert [int(number) for number in numbers] == [value, *(value % count for count in (2, 3, 5, 10))], key
