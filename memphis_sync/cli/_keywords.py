"""Options made from the keywords of a public call: their defaults, their texts and their checks are the call's."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

import click

from memphis_sync._base.option_names import as_option

from ._group import Switch

if TYPE_CHECKING:
    from memphis_sync._options.rows import Arguments, Row

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class MemberOf(click.Choice):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """A member of an enumeration, by its name in lower case."""

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__([name.lower() for name in kind.__members__], case_sensitive=False)
        self._kind = kind

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        """The member."""
        return value if isinstance(value, Enum) else self._kind[super().convert(value, param, ctx).upper()]


def options_of(table: type[Arguments], *, without: Collection[str]) -> Callable[[Decorated], Decorated]:
    """An option for each keyword of a call; it is None in the command when it is not given."""

    def decorate(function: Decorated) -> Decorated:
        for row in reversed(table.ROWS):
            if row.name not in without and row.default is not inspect.Parameter.empty:
                function = _option(row)(function)
        return function

    return decorate


def _option(row: Row) -> Callable[[Decorated], Decorated]:
    name, default = as_option(row.name), row.default
    text = row.doc.replace("``", "").replace('"" for none', "by default none")
    if isinstance(default, bool):
        text = f"{text} [default: {'yes' if default else 'no'}]"
        return click.option(f"{name}/--no-{name[2:]}", row.name, cls=Switch, default=None, help=text)
    if isinstance(default, Enum):
        kind = MemberOf(type(default))
        text = f"{text} One of {', '.join(kind.choices)}. [default: {default.name.lower()}]"
        return click.option(name, row.name, type=kind, metavar="KIND", default=None, help=text)
    text = f"{text} [default: {default}]" if default != "" else text
    return click.option(name, row.name, type=type(default), default=None, help=text)
