"""
The public API as text: every public name with its signature, its members with theirs, and the values of the enums.

``python tests/support/public_api.py`` writes it to tests/typing/public_api.txt; a test compares the two. So a name or a
default that changes is seen in a review, and so is one that became public unawares.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "typing" / "public_api.txt"
PACKAGE = "memphis_sync"
PARTS = ("", ".broker", ".http", ".memory", ".observer", ".testing")


def modules() -> list[Any]:
    """The public modules that say what is public in them, in ``__all__``."""
    root = importlib.import_module(PACKAGE)
    contrib = sorted((Path(root.__file__ or "").parent / "contrib").glob("*"))
    names = [f".contrib.{path.stem}" for path in contrib if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)]
    found = [importlib.import_module(PACKAGE + name) for name in (*PARTS, *names)]
    return [module for module in found if hasattr(module, "__all__")]


def as_text() -> str:
    """A line a name, those of a class indented below it."""
    lines = []
    for module in modules():
        for name in sorted(module.__all__):
            lines += described(f"{module.__name__}.{name}", getattr(module, name))
    return "\n".join(lines) + "\n"


def described(path: str, thing: Any) -> Iterator[str]:
    """The lines of one public name."""
    if inspect.isclass(thing):
        bases = [base.__name__ for base in thing.__mro__[1:] if is_told(base)]
        yield f"class {path}({', '.join(bases)})"
        for name, member in members(thing):
            yield f"    {member_line(name, member)}"
    elif inspect.isroutine(thing):
        yield f"def {path}{signature(thing)}"
    else:
        yield path


def is_told(base: type) -> bool:
    """Whether a base class is one that users may know: public, or Python's."""
    return base is not object and "._" not in base.__module__ and not base.__name__.startswith("_")


def members(thing: type) -> list[tuple[str, Any]]:
    """What a class has of its own, and from bases of ours that are not public: a field by its annotation."""
    found: dict[str, Any] = {}
    for base in reversed(thing.__mro__):
        if not base.__module__.startswith(PACKAGE) or (base is not thing and is_told(base)):
            continue
        # The two bindings of the C core tell their signatures differently; their stub is compared with both.
        found.update({name: None if "._core" in base.__module__ else value for name, value in vars(base).items()})
        if "._core" not in base.__module__:
            found.update({name: Field(kind) for name, kind in vars(base).get("__annotations__", {}).items()})
    hidden = importlib.import_module(f"{PACKAGE}._base.completion").hidden_in(thing)
    return sorted((name, member) for name, member in found.items() if not name.startswith("_") and name not in hidden)


class Field:
    """A field of a dataclass or of a named tuple, or another annotated name."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


def member_line(name: str, member: Any) -> str:
    """One member."""
    if isinstance(member, Field):
        return f"{name}: {short(member.kind)}"
    if isinstance(member, (classmethod, staticmethod)):
        return f"{type(member).__name__} {name}{signature(member.__func__)}"
    if isinstance(member, property):
        return f"{name}: {returned(member.fget)}"
    if isinstance(member, cached_property):
        return f"{name}: {returned(member.func)}"
    if isinstance(member, (enum.Enum, str, int, float, bool)):
        return f"{name} = {getattr(member, 'value', member)!r}"
    return f"def {name}{signature(member)}" if callable(member) else name


def returned(function: Any) -> str:
    """The annotation of a property."""
    return short(getattr(function, "__annotations__", {}).get("return", "?"))


def signature(function: Any) -> str:
    """With its annotations as they are written, and no addresses in its defaults."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    parts, was_star = [], False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not was_star:
            parts.append("*")
        was_star = was_star or parameter.kind in {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL}
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {short(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {default_of(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{kind}{default}")
    result = "" if found.return_annotation is found.empty else f" -> {short(found.return_annotation)}"
    return f"({', '.join(parts)}){result}"


def default_of(value: Any) -> str:
    """A default, without what differs from run to run and from Python to Python."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def short(kind: Any) -> str:
    """A type without the modules that its parts are from."""
    kind = getattr(kind, "__forward_arg__", kind)
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)


if __name__ == "__main__":
    PAGE.write_text(as_text(), encoding="utf-8")
