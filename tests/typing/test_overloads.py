"""Overloads say every parameter that there is: type checkers see nothing else of the function."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from memphis_sync import Memphis, Producer
from memphis_sync._producing.produce_types import ProduceMethod


@pytest.mark.parametrize(
    ("function", "owner", "name"),
    [(Memphis.produce, ProduceMethod, "__call__"), (Producer.produce, Producer, "produce")],
)
def test_the_last_overload_has_the_parameters_of_the_function(
    function: Callable[..., object], owner: type, name: str
) -> None:
    tree = ast.parse(Path(inspect.getfile(owner)).read_text())
    (body,) = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner.__name__]
    overloads = [
        node.args
        for node in body
        if isinstance(node, ast.FunctionDef)
        and node.name == name
        and any(ast.unparse(mark) == "overload" for mark in node.decorator_list)
    ]
    last = overloads[-1]
    names = [parameter.arg for parameter in (*last.args, *last.kwonlyargs)]
    assert names == [name for name in inspect.signature(function).parameters if name != "unexpected"]
