"""
The parameters of a public call, one row each.

A class made with arguments() is the table of a call: its fields say name, type and default, in the order of the
parameters, and option() what else there is to know of one. From these rows come the call's signature (type checkers
follow it through ParamSpec, inspect and help() find it at run time), the Args of its docstring, the hint for a misspelt
keyword, and the checks. So a parameter is written down once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TypeVar

from memphis_sync._base.hints import wrong_keyword

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec, dataclass_transform

    P = ParamSpec("P")
else:

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:  # at run time only Python 3.11 has it
        return lambda decorated: decorated


A = TypeVar("A")
R = TypeVar("R")
S = TypeVar("S")
_EMPTY: Any = inspect.Parameter.empty
_WIDTH = 116  # of the text that help() shows, without its own indentation


class Row(NamedTuple):
    """
    One parameter.

    Attributes:
        name: As the caller writes it.
        type: As the signature shows it.
        default: inspect.Parameter.empty when it must be given.
        check: Called with name and value; returns the value to use or raises ConfigurationError. None: it is checked
            where it is used.
        doc: Its text among the Args; "" leaves it out there.
        kw_only: Whether it can be given by name only.
        url: Whether a broker's URL may hold it.
        env: Its environment variable without ``MEMPHIS_``; "" for none.
        needs_host: Whether it says where or who, and so is not mixed with an environment that says the same.
    """

    name: str
    type: Any
    default: Any
    check: Optional[Callable[[str, Any], Any]]
    doc: str
    kw_only: bool
    url: bool
    env: str
    needs_host: bool


def option(
    *,
    default: Any = _EMPTY,
    check: Optional[Callable[[str, Any], Any]] = None,
    doc: str = "",
    kw_only: bool = False,
    url: bool = False,
    env: str = "",
    needs_host: bool = False,
) -> Any:
    """What a row holds besides name and type; see Row."""
    row = Row("", None, default, check, doc, kw_only, url, env, needs_host)
    return dataclasses.field(default=dataclasses.MISSING if default is _EMPTY else default, metadata={"row": row})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(option,))
def arguments(table: type[A]) -> type[A]:
    """Makes a class the table of a call; an instance holds the arguments of one call, as they were given."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(table)
    types = typing.get_type_hints(table)
    rows = []
    for field in dataclasses.fields(made):
        plain = Row("", None, field.default, None, "", False, False, "", False)
        rows.append(field.metadata.get("row", plain)._replace(name=field.name, type=types[field.name]))
    made.ROWS = tuple(rows)
    return table


def rows_of(table: Any) -> tuple[Row, ...]:
    """The rows of a class made with arguments(), or of an instance of it."""
    rows: tuple[Row, ...] = table.ROWS
    return rows


def checked(given: A) -> A:
    """
    The arguments of a call as they are to be used.

    Raises:
        ConfigurationError: One of them is wrong; the first by the order of the rows.
    """
    values = vars(given)
    return type(given)(
        **{row.name: row.check(row.name, values[row.name]) if row.check else values[row.name] for row in rows_of(given)}
    )


def takes(table: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Gives a function of one argument, an instance of *table*, the parameters that the table has."""
    return functools.partial(_taking, table, False)


def method_takes(table: Callable[P, A]) -> Callable[[Callable[[S, A], R]], Callable[Concatenate[S, P], R]]:
    """The same for a method."""
    return functools.partial(_taking, table, True)


def _taking(table: Any, is_method: bool, function: Callable[..., R]) -> Callable[..., R]:
    rows = rows_of(table)
    names = frozenset(row.name for row in rows)
    own = int(is_method)
    most = own + sum(not row.kw_only for row in rows)
    parameters = [
        inspect.Parameter(
            row.name,
            inspect.Parameter.KEYWORD_ONLY if row.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=row.default,
            annotation=row.type,
        )
        for row in rows
    ]
    whole = inspect.signature(function)
    signature = whole.replace(parameters=[*list(whole.parameters.values())[:own], *parameters])

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
    call.__annotations__ = {**{row.name: row.type for row in rows}, "return": whole.return_annotation}
    call.__doc__ = _with_args(function.__doc__, rows)
    return call


def _with_args(doc: Optional[str], rows: tuple[Row, ...]) -> Optional[str]:
    """A docstring with the text of each row, in front of what it returns and raises."""
    if doc is None:  # python -OO
        return None
    doc = inspect.cleandoc(doc)
    texts = [
        textwrap.fill(
            f"{row.name}: {row.doc}{f' MEMPHIS_{row.env} in the environment.' if row.env else ''}",
            _WIDTH,
            initial_indent="    ",
            subsequent_indent="        ",
        )
        for row in rows
        if row.doc
    ]
    later = re.search(r"^(?:Returns|Raises):", doc, re.MULTILINE)
    at = later.start() if later else len(doc)
    return "\n".join([f"{doc[:at].rstrip()}\n\nArgs:", *texts, f"\n{doc[at:]}"]).rstrip() + "\n"
