"""
The parameters of a public call, one row each.

A class made with arguments() is the table of a call: its fields say name, type and default, in the order of the
parameters, option() what else there is to know of one, and the Args of its docstring what it means. From these rows
come the call's signature (type checkers follow it through ParamSpec, inspect and help() find it at run time), the Args
of its docstring, the hint for a misspelt keyword, and the checks. So a parameter is written down once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from typing import TYPE_CHECKING, Any, Callable, ClassVar, NamedTuple, Optional, TypeVar

from memphis_sync._base.hints import wrong_keyword

if TYPE_CHECKING:
    from dataclasses import KW_ONLY as KW_ONLY  # noqa: PLC0414  for the tables: before what is given by name only

    from typing_extensions import Concatenate, ParamSpec, Self, dataclass_transform

    P = ParamSpec("P")
else:  # Python 3.9 has none of them
    KW_ONLY = None

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:
        return lambda decorated: decorated


A = TypeVar("A", bound="Arguments")
R = TypeVar("R")
S = TypeVar("S")
Check = Callable[[str, Any], Any]
_EMPTY: Any = inspect.Parameter.empty
_TEXT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


class Row(NamedTuple):
    """
    One parameter.

    Attributes:
        check: Called with name and value; returns the value to use or raises ConfigurationError. None: it is checked
            where it is used.
        url: Whether a broker's URL may hold it.
        env: Its environment variable without ``MEMPHIS_``; "" for none.
        name: As the caller writes it.
        type: As the signature shows it.
        default: inspect.Parameter.empty when it must be given.
        kw_only: Whether it can be given by name only.
        doc: Its text among the Args; "" when there is none.
    """

    check: Optional[Check] = None
    url: bool = False
    env: str = ""
    name: str = ""
    type: Any = None
    default: Any = _EMPTY
    kw_only: bool = False
    doc: str = ""


class Arguments:
    """Base of the tables; an instance holds the arguments of one call, as they were given."""

    ROWS: ClassVar[tuple[Row, ...]] = ()

    def checked(self) -> Self:
        """
        The arguments as they are to be used.

        Raises:
            ConfigurationError: One of them is wrong; the first by the order of the rows.
        """
        values = vars(self).copy()
        values.update({row.name: row.check(row.name, values[row.name]) for row in self.ROWS if row.check})
        return type(self)(**values)


def option(
    check: Optional[Check] = None, *, default: Any = dataclasses.MISSING, url: bool = False, env: str = ""
) -> Any:
    """What a row holds besides name, type and text; see Row."""
    return dataclasses.field(default=default, metadata={"row": Row(check, url, env)})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(option,))
def arguments(table: type[A]) -> type[A]:
    """Makes a class the table of a call."""
    names = list(table.__annotations__)
    by_name = names[names.index("_") :] if table.__annotations__.pop("_", None) else ()
    types, texts = typing.get_type_hints(table), texts_of(table.__doc__, "Args")
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(table)
    table.ROWS = tuple(
        field.metadata.get("row", Row())._replace(
            name=field.name,
            type=types[field.name],
            default=_EMPTY if field.default is dataclasses.MISSING else field.default,
            kw_only=field.name in by_name,
            doc=texts.get(field.name, ""),
        )
        for field in dataclasses.fields(made)
    )
    return table


def takes(table: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Gives a function of one argument, an instance of *table*, the parameters that the table has."""
    return functools.partial(_taking, table, 0)


def method_takes(table: Callable[P, A]) -> Callable[[Callable[[S, A], R]], Callable[Concatenate[S, P], R]]:
    """The same for a method."""
    return functools.partial(_taking, table, 1)


def _taking(table: Any, own: int, function: Callable[..., R]) -> Callable[..., R]:
    rows: tuple[Row, ...] = table.ROWS
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(row.name for row in rows)
    most = own + sum(not row.kw_only for row in rows)
    parameters = [inspect.Parameter(r.name, kinds[r.kw_only], default=r.default, annotation=r.type) for r in rows]
    signature = inspect.signature(function)
    signature = signature.replace(parameters=[*list(signature.parameters.values())[:own], *parameters])

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        if not names.issuperset(kwargs):
            raise wrong_keyword(call, kwargs, function.__qualname__.rpartition(function.__name__)[0])
        try:
            if len(args) > most:
                raise TypeError
            given = table(*args[own:], **kwargs)
        except TypeError:
            signature.bind(*args, **kwargs)  # raises as well, and says what is wrong
            raise
        return function(*args[:own], given)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {**{row.name: row.type for row in rows}, "return": signature.return_annotation}
    call.__doc__ = _with_args(function.__doc__, table)
    return call


def texts_of(doc: Optional[str], part: str) -> dict[str, str]:
    """
    What a docstring says of each name in one of its parts, on one line each; {} for python -OO.

    Args:
        doc: The docstring.
        part: ``Args`` or ``Attributes``.
    """
    found = inspect.cleandoc(doc or "").partition(f"\n{part}:\n")[2]
    return {name: " ".join(text.split()) for name, text in _TEXT.findall(found.partition("\n\n")[0])}


def _args_of(table: type[Arguments]) -> str:
    """The Args of a table's docstring, which are its last part; "" for python -OO."""
    return inspect.cleandoc(table.__doc__ or "").partition("\nArgs:\n")[2]


def _with_args(doc: Optional[str], table: type[Arguments]) -> Optional[str]:
    """A docstring with a table's Args, in front of what the call returns and raises."""
    if doc is None:  # python -OO
        return None
    doc = inspect.cleandoc(doc)
    later = re.search(r"^(?:Returns|Raises):", doc, re.MULTILINE)
    at = later.start() if later else len(doc)
    parts = [doc[:at].rstrip(), f"Args:\n{_args_of(table)}"]
    variables = ", ".join(f"MEMPHIS_{row.env}" for row in table.ROWS if row.env)
    if variables:
        parts.append(f"Environment:\n{textwrap.fill(variables, 116, initial_indent='    ', subsequent_indent='    ')}")
    return "\n\n".join([*parts, doc[at:]]).rstrip() + "\n"
