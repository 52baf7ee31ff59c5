"""The help of each command: as the reference page has it, with examples, and readable on a narrow terminal."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from command_line_page import PAGE, as_markdown, commands, help_of

import memphis_sync as library
from memphis_sync.cli._app import COMMANDS
from memphis_sync.http.gateway.settings import GatewaySettings

NARROW = 60
ALL = list(commands())
IDS = [" ".join(path) or "memphis-sync" for path in ALL]
FOLDER = Path(inspect.getfile(library)).parent / "cli"


def test_the_reference_page_is_what_the_commands_say() -> None:
    """``python tests/support/command_line_page.py`` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == as_markdown()


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_a_help_has_examples_and_fits_a_narrow_terminal(path: tuple[str, ...]) -> None:
    text = help_of(path, NARROW)
    examples = text.partition("\n  Examples:\n" if "\n  Examples:\n" in text else "\nExamples:\n")[2]
    assert f"{' '.join(('memphis-sync', *path))}" in examples or "--json" in examples, text
    assert [line for line in text.splitlines() if len(line) > NARROW] == []


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_no_option_takes_a_secret(path: tuple[str, ...]) -> None:
    options = re.findall(r"--[\w-]+", help_of(path).partition("Examples:")[0])
    assert [each for each in options if re.search("pass|secret|^--token$", each)] == []


def test_the_list_of_commands_imports_none_of_them(run_python: Any) -> None:
    program = (
        "import sys; from memphis_sync.cli import main; main(['--help']);"
        "sys.stderr.write(str([name for name in sys.modules if name.startswith('memphis_sync.cli._')]))"
    )
    done = run_python("-c", program)
    assert all(f"\n  {name} " in done.stdout.decode() for name in COMMANDS)
    loaded = {name.rpartition("._")[2] for name in ast.literal_eval(done.stderr.decode())}
    assert not loaded & set(COMMANDS)
    assert all((FOLDER / f"_{name}.py").exists() for name in COMMANDS)


def test_the_options_of_the_gateway_are_the_fields_of_its_settings() -> None:
    text = " ".join(help_of(("gateway",)).split())
    for name, field in GatewaySettings.__dataclass_fields__.items():
        if name not in {"url", "jwt_keys"}:
            option = f"--[no-]{name}" if isinstance(field.default, bool) else f"--{name}"
            assert f" {option.replace('_', '-')} " in text
    assert "is valid unless its request says otherwise, in seconds, from 1. [default: 900]" in text
    assert f"[default: {GatewaySettings('memphis://h').max_sessions}]" in text


def test_the_options_of_station_create_are_the_keywords_of_the_call() -> None:
    text = help_of(("station", "create"))
    for name in inspect.signature(library.Memphis.station).parameters:
        option = name.replace("_", "-")
        shown = f"--{option} " in text or f"--[no-]{option}" in text
        assert shown == (name not in {"self", "name", "create_station"}), name
