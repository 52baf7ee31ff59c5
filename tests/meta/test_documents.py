"""README, CONTRIBUTING and docs/ say what is so: defaults, extras, commands and steps are compared with the code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from connect_options_page import PAGE as OPTIONS_PAGE, as_markdown, table_of
from pages import anchors, links, section

from memphis_sync import Memphis, connect
from memphis_sync._options.schema_source import SchemaArguments
from memphis_sync._schema import KINDS
from memphis_sync.broker import BrokerOptions
from memphis_sync.broker.options import DEFAULT_ROOT_PASSWORD, ROOT as ROOT_USER
from memphis_sync.message import Message
from memphis_sync.types import SchemaInfo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COSTS = (ROOT / "docs" / "explanation" / "costs.md").read_text()
MIB = 2**20


def default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


# ---- README ---------------------------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize(
    ("words", "value", "expected"),
    [
        ("messages for 1 hour on disk", default(Memphis.station, "retention_value"), 3600),
        ("on disk, read or not", default(Memphis.station, "retention_type").name, "MAX_MESSAGE_AGE_SECONDS"),
        ("on disk, read or not", default(Memphis.station, "storage_type").name, "DISK"),
        ("It has 1 **partition** or more", default(Memphis.station, "partitions_number"), 1),
        ("within 2 minutes", default(Memphis.station, "idempotency_window_ms"), 2 * 60 * 1000),
        ("at most 64 MiB", default(connect, "outbox_max_bytes"), 64 * MIB),
        ("from the oldest on", default(Memphis.consumer, "start_consume_from_sequence"), 1),
        ("within 30 seconds", default(Memphis.consumer, "max_ack_time_ms"), 30 * 1000),
        ("After 2 deliveries", default(Memphis.consumer, "max_msg_deliveries"), 2),
        ("are kept for 3 hours", BrokerOptions().dls_retention_hours, 3),
    ],
)
def test_a_default_of_the_concepts_is_the_code_s(words: str, value: object, expected: object) -> None:
    assert words in " ".join(section(README, "Concepts").split())
    assert value == expected


def test_the_end_of_a_process_waits_as_long_as_promised() -> None:
    assert "waits up to 5 seconds" in section(README, "Promises")
    assert default(connect, "exit_timeout_s") == 5.0


def test_the_url_of_a_broker_is_the_one_that_is_shown() -> None:
    options = BrokerOptions()
    url = f"{options.scheme}://{ROOT_USER}:{DEFAULT_ROOT_PASSWORD}@{options.host}:{options.port}"
    assert f"prints `{url}`" in section(README, "Five minutes to a message")


def test_every_extra_is_listed_and_no_other() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    rows = re.findall(r"^\| (.*) \|.*\|$", section(README, "Install"), re.MULTILINE)[1:]  # without the head
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))


def test_the_words_about_a_missing_compiler_are_setup_s() -> None:
    (words,) = re.findall(r"\*(memphis-sync is compiled [^*]*)\*", section(README, "Install"))
    said = (ROOT / "setup.py").read_text().replace("{' and '.join(missing)}", "a C compiler")
    assert " ".join(words.split()) in said


# ---- docs -----------------------------------------------------------------------------------------------------------


def test_every_command_of_the_costs_is_one() -> None:
    commands = re.findall(r"`python bench/(\w+\.py)([^`]*)`", COSTS)
    assert len(commands) == COSTS.count("`python ") >= 10
    for script, options in commands:
        source = (ROOT / "bench" / script).read_text() + (ROOT / "bench" / "_common.py").read_text()
        unknown = [option for option in re.findall(r"--[\w-]+", options) if f'"{option}"' not in source]
        assert not unknown, f"{script} has no {unknown}"


def test_the_table_of_options_is_made_from_their_rows() -> None:
    assert table_of(OPTIONS_PAGE.read_text()) == as_markdown()


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_of_schema_is_where_users_look_for_it(kind: str) -> None:
    docs = ROOT / "docs"
    assert f"\n| `{kind}` |" in (docs / "how-to" / "schemas.md").read_text()
    chapter = section((docs / "reference" / "protocol.md").read_text(), "8 Schemas")
    assert f"`{kind}`" in chapter.partition("### 8.2")[0]
    assert len(re.findall(rf"^\| {kind} \|", chapter, re.MULTILINE)) == 2, "the texts about its source, its bytes"
    assert f"``{kind}``" in (inspect.getdoc(SchemaArguments) or "")
    assert f"``{kind}``" in (inspect.getdoc(SchemaInfo) or "")
    assert kind in (inspect.getdoc(Message.get_data_deserialized) or "")


def test_the_kinds_that_a_broker_names_are_all() -> None:
    page = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    assert f"it has to be one of {', '.join(sorted(KINDS))}`" in page


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda page: page.name)
def test_each_how_to_leads_to_what_can_be_lost(page: Path) -> None:
    assert "../explanation/what-can-be-lost.md" in links(page.read_text())


# ---- CONTRIBUTING ---------------------------------------------------------------------------------------------------


def test_every_step_of_ci_is_explained_and_no_other() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (default,) = re.findall(r"STEPS=\$\{\*:-(.*)\}", script)
    steps = default.split()
    by_name = [step for step in re.findall(r"^step_(\w+)\(\)", script, re.MULTILINE) if step not in steps]
    rows = re.findall(r"^\| `(\w+)` \|", section(CONTRIBUTING, "The gates"), re.MULTILINE)
    assert rows == [*steps, *by_name]


# ---- the tree -------------------------------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Folders and files at the top of the tree, with which a path in a page begins.
TOP = r"(?:memphis_sync|csrc|tests|docs|bench|broker|_\w+)/|(?:\w+\.md|pyproject\.toml|setup\.py)$|\.ci/"


LINKING = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "tests/README.md", "bench/README.md"))]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in {link for link in links(page.read_text()) if "://" not in link}:
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    """In backticks; one that begins inside of the package, ``_data/tls_loops.py``, is looked for there."""
    code = re.findall(r"`([^`\s]+)`", page.read_text())
    paths = [path for path in code if re.match(TOP, path) and not set("<>*{(") & set(path)]
    missing = [
        path
        for path in paths
        if not any((base / path).exists() for base in (ROOT, ROOT / "memphis_sync", ROOT / "csrc"))
    ]
    assert missing == []


def test_every_example_of_a_recipe_is_in_the_code() -> None:
    names = re.findall(
        r"`(\w+)(?:\(\))?`", " ".join(re.findall(r"^.*Examples?: .*(?:\n.+)*", CONTRIBUTING, re.MULTILINE))
    )
    assert len(names) >= 5
    sources = [*(ROOT / "memphis_sync").rglob("*.py"), *(ROOT / "csrc").glob("*.[ch]")]
    text = "".join(path.read_text() for path in sources)
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_file_of_the_recipe_for_a_schema_kind_knows_its_example() -> None:
    """And what else of the package names it is there too, but for the example's own parts."""
    recipe = CONTRIBUTING.partition("\n### Add a schema kind\n")[2].partition("\n### ")[0]
    cells = re.findall(r"^\| (`.*?) \|", recipe, re.MULTILINE)
    listed = {path for cell in cells for path in re.findall(r"`(.*?)`", cell)}
    assert len(listed) > 20
    assert [path for path in sorted(listed) if "avro" not in (ROOT / path).read_text().lower()] == []
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "memphis_sync").rglob("*.py")
        if re.search(r"[\"`]avro[\"`]", path.read_text())
    }
    assert sorted(naming - listed) == []


def test_every_file_of_the_core_is_explained_and_no_other() -> None:
    table = section((ROOT / "docs/explanation/architecture.md").read_text(), "The C core")
    listed = re.findall(r"`(\w+\.c)`", "".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "csrc").glob("*.c"))


def test_the_layers_are_those_of_the_layer_test() -> None:
    """Row by row, but for the package itself."""
    table = section((ROOT / "docs/explanation/architecture.md").read_text(), "Layers")
    shown = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)]
    tree = ast.parse((ROOT / "tests" / "meta" / "test_layers.py").read_text())
    (rows,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS"
    )
    assert shown == [row - {""} for row in rows]
