"""
Prints everything public in memphis-py as JSON; runs on an interpreter that has it, not on the tests' own.

Public is every name without a leading underscore that a module of the package defines: modules, classes, functions,
constants, methods with their parameters and defaults, enum members, and the attributes that a class sets on itself.
Nothing is left out by judgement here: what of it is not in memphis_sync stands in differences.py, by name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import textwrap
from enum import Enum
from typing import Any, Callable

import memphis

Json = Any


def plain(value: object) -> Json:
    """A default or constant in a form that two interpreters can compare."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def parameters(function: Callable[..., object]) -> list[Json]:
    """Name, kind and default of each, ``self`` left out."""
    return [
        {
            "name": parameter.name,
            "kind": parameter.kind.name,
            "required": parameter.default is parameter.empty,
            "default": None if parameter.default is parameter.empty else plain(parameter.default),
        }
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


def attributes(cls: type) -> list[str]:
    """What methods of the class assign to ``self``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    return sorted(
        {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and not node.attr.startswith("_")
        }
    )


def describe(cls: type) -> Json:
    """A class as JSON."""
    own = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    functions = {name: value for name, value in own.items() if inspect.isfunction(value)}
    is_enum = issubclass(cls, Enum)
    return {
        "bases": [base.__name__ for base in cls.__mro__[1:] if base is not object],
        "init": parameters(cls.__init__) if "__init__" in vars(cls) else None,
        "methods": {
            name: {"parameters": parameters(value), "coroutine": inspect.iscoroutinefunction(value)}
            for name, value in functions.items()
        },
        "members": {member.name: member.value for member in cls} if is_enum else {},
        "constants": {} if is_enum else {name: plain(own[name]) for name in own if name not in functions},
        "attributes": [] if is_enum else attributes(cls),
    }


def surface() -> Json:
    """The whole package."""
    found: Json = {"exports": [], "modules": {}}
    names = [memphis.__name__, *(f"memphis.{module.name}" for module in pkgutil.iter_modules(memphis.__path__))]
    submodules = {name.rpartition(".")[2] for name in names}
    for name in names:
        module = importlib.import_module(name)
        public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        if module is memphis:
            found["exports"] = sorted(key for key in public if key not in submodules)
            continue
        classes = {k: v for k, v in public.items() if inspect.isclass(v) and v.__module__ == name}
        functions = {k: v for k, v in public.items() if inspect.isfunction(v) and v.__module__ == name}
        constants = {k: v for k, v in public.items() if isinstance(v, (str, int, float))}
        found["modules"][name] = {
            "classes": {key: describe(value) for key, value in classes.items()},
            "functions": {key: parameters(value) for key, value in functions.items()},
            "constants": sorted(constants),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(surface()))
