"""Examples in docstrings run: every indented paragraph that is Python, one that is added later without a word here."""

from __future__ import annotations

import ast
import logging
import re
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import memphis_sync
from memphis_sync import Memphis

PACKAGE = Path(memphis_sync.__file__).parent


def examples() -> Iterator[tuple[str, str]]:
    """Where each stands, and the code."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                assert not re.search(r"^\s*(>>>|```)", paragraph, re.MULTILINE), f"{file}: an example that nobody runs"
                if all(line.startswith("    ") for line in paragraph.splitlines()) and is_python(paragraph):
                    where = f"{file.relative_to(PACKAGE)}-{getattr(node, 'name', 'module')}"
                    yield where, textwrap.dedent(paragraph)


def is_python(paragraph: str) -> bool:
    """A drawing, a command or a list of names is not."""
    try:
        return bool(ast.parse(textwrap.dedent(paragraph)).body)
    except SyntaxError:
        return False


EXAMPLES = list(examples())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def of_django(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a Django project has imported, and a row that is not saved yet."""
    request.getfixturevalue("django_shop")
    from django.db import transaction
    from django_shop.models import Order

    from memphis_sync.contrib import django
    from memphis_sync.contrib.django import outbox

    names = {name: getattr(django, name) for name in django.__all__}
    return {**names, "outbox": outbox, "transaction": transaction, "order": Order(customer_id=1)}


def of_flask(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a Flask application has imported, and the application."""
    import flask

    from memphis_sync.contrib.flask import FlaskMemphis

    app = flask.Flask("shop")
    app.config["MEMPHIS_URL"] = "memory://"
    memphis = FlaskMemphis(app)
    request.addfinalizer(lambda: memphis.client_for(app).close())
    return {"flask": flask, "FlaskMemphis": FlaskMemphis, "memphis": memphis, "app": app}


@pytest.mark.parametrize(("where", "code"), EXAMPLES, ids=[where for where, _ in EXAMPLES])
def test_an_example_runs(
    where: str,
    code: str,
    broker: Any,
    memphis: Memphis,
    station_name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the names that a reader would think of, and the broker's address for the one that stands there."""
    memphis.produce(station_name, "p", b"hello")
    consumer = memphis.consumer(station_name, "c")
    handled: list[bytes] = []

    def handle(data: bytes) -> None:
        handled.append(data)
        consumer.stop_consume(0)

    given = {"memphis_sync": memphis_sync, "memphis": memphis, "consumer": consumer, "handle": handle}
    given.update(logging=logging, signal=signal, station=memphis.station(station_name))
    shop: Any = ModuleType("shop.handlers")
    shop.on_order = given["on_order"] = memphis_sync.handler(station_name, "g")(lambda message: None)
    monkeypatch.setitem(sys.modules, "shop.handlers", shop)
    if where.startswith("contrib/django"):
        given.update(of_django(request))
    elif where.startswith("contrib/flask"):
        given.update(of_flask(request))
    code = code.replace("memphis://user:password@host", broker.url)
    if "https://gateway:4444" in code:
        code = code.replace("https://gateway:4444", request.getfixturevalue("gateway").url)
    exec(compile(code, "docstring", "exec"), given)
    assert handled == ([b"hello"] if "handle(" in code else [])
