"""The rows of connect(): what follows from each, and what a table of parameters promises in general."""

from __future__ import annotations

import inspect
import pickle
import typing
from typing import Any, Optional

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, Memphis
from memphis_sync._options.connect import _WHERE, _WHO, connect_options
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, method_takes, option, takes
from memphis_sync._options.table import OPTIONS, ConnectArguments

LOGIN = "memphis://shop:canary@b1"
TEXTS = {bool: ("no", False), int: ("77", 77), float: ("7.5", 7.5), str: ("seven", "seven")}


KEPT = [
    row for row in OPTIONS if row.name not in _WHO | _WHERE and row.type in TEXTS
]  # what options have by its own name


def in_range(row: Any) -> tuple[str, Any]:
    others = {"outbox_max_bytes": ("77777", 77777), "fsync": ("second", "second")}
    return others.get(row.name, TEXTS[row.type])


def needed(row: Any) -> dict[str, Any]:
    """The arguments that the option is refused without."""
    return {"outbox": "queue.outbox"} if row.name == "fsync" else {}


def test_each_row_says_what_it_is_and_is_checked() -> None:
    assert len(OPTIONS) >= 26
    for row in OPTIONS:
        assert row.doc.endswith("."), row.name
        assert row.check is not None or row.name == "host", row.name


@pytest.mark.parametrize("function", [memphis_sync.connect, Memphis.connect])
def test_help_shows_the_text_of_each_option_and_the_rest_behind_it(function: Any) -> None:
    shown = " ".join(inspect.getdoc(function).split())
    assert [row.name for row in OPTIONS if f" {row.name}: {' '.join(row.doc.split())}" not in shown] == []
    assert "Connects" in shown.partition("Args:")[0]
    if function is memphis_sync.connect:
        assert shown.index("Args:") < shown.index("json_default:") < shown.index("Returns:") < shown.index("Raises:")
    assert max(len(line) for line in inspect.getdoc(function).splitlines()) <= 120


def test_the_types_of_the_parameters_are_types() -> None:
    hints = typing.get_type_hints(memphis_sync.connect)
    assert hints["timeout_ms"] is int
    assert hints["host"] == Optional[str]
    assert hints["return"] is Memphis
    assert inspect.signature(memphis_sync.connect).parameters["wait_s"].annotation is float


@pytest.mark.parametrize("row", [row for row in KEPT if row.url], ids=lambda row: row.name)
def test_what_the_table_marks_may_stand_in_a_url(row: Any) -> None:
    text, value = in_range(row)
    options = connect_options(ConnectArguments(f"{LOGIN}?{row.name}={text}", **needed(row)), {})
    assert getattr(options, row.name) == value
    assert type(getattr(options, row.name)) is row.type
    given = {row.name: row.default, **needed(row)}
    options = connect_options(ConnectArguments(f"{LOGIN}?{row.name}={text}", **given), {})
    assert getattr(options, row.name) == value, "an argument that is the default says nothing"


@pytest.mark.parametrize("row", [row for row in OPTIONS if not row.url], ids=lambda row: row.name)
def test_what_the_table_does_not_mark_may_not(row: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"in the URL"):
        connect_options(ConnectArguments(f"{LOGIN}?{row.name}=1"), {})


@pytest.mark.parametrize("row", [row for row in KEPT if row.env], ids=lambda row: row.name)
def test_what_the_table_names_a_variable_for_comes_from_the_environment(row: Any) -> None:
    text, value = in_range(row)
    environ = {"MEMPHIS_HOST": "b1", "MEMPHIS_USERNAME": "u", "MEMPHIS_PASSWORD": "p", f"MEMPHIS_{row.env}": text}
    assert getattr(connect_options(ConnectArguments(**needed(row)), environ), row.name) == value
    with pytest.raises(ConfigurationError, match=rf"^MEMPHIS_{row.env} is 'x y'; it must be "):
        connect_options(ConnectArguments(), {**environ, f"MEMPHIS_{row.env}": "x y"})


def test_options_have_no_secret_beside_the_credentials_and_can_be_pickled() -> None:
    for given in (ConnectArguments(LOGIN), ConnectArguments("b1", "shop", password="canary")):
        options = connect_options(given, {})
        others = {name: value for name, value in vars(options).items() if name != "credentials"}
        assert "canary" not in repr(others) + repr(options) + repr(options.credentials) + repr(given)
        assert options.credentials.password == "canary"
        read, made = vars(pickle.loads(pickle.dumps(options))), vars(options)
        assert vars(read.pop("observing")) == vars(made.pop("observing"))
        assert read == made
        with pytest.raises(AttributeError):
            given.host = "b2"


# ---- any table ------------------------------------------------------------------------------------------------------


def is_small(name: str, value: int) -> int:
    if value > 9:
        raise ConfigurationError(f"{name} is {value}; it must be small")
    return value


@arguments
class Pair(Arguments):
    """
    Two and more.

    Args:
        first: The first
            of the two.
        last: The last.
    """

    first: int = option(is_small)
    second: int = option(is_small, default=2)
    plain: str = "x"
    _: KW_ONLY
    last: int = 4


class Taker:
    @method_takes(Pair)
    def take(self, given: Pair) -> list[object]:
        """Takes them."""
        return list(vars(given.checked()).values())


@takes(Pair)
def take(given: Pair) -> list[object]:
    """
    Takes them.

    Raises:
        ConfigurationError: One is large.
    """
    return Taker().take(**vars(given))


def test_a_table_gives_a_function_and_a_method_the_same_parameters() -> None:
    assert (
        str(inspect.signature(take))
        == "(first: int, second: int = 2, plain: str = 'x', *, last: int = 4) -> 'list[object]'"
    )
    assert list(inspect.signature(Taker.take).parameters) == ["self", "first", "second", "plain", "last"]
    assert take(1) == Taker().take(1) == [1, 2, "x", 4]
    assert take(1, 3, "y", last=5) == Taker().take(1, plain="y", second=3, last=5) == [1, 3, "y", 5]
    assert take.__doc__.index("first: The first\n        of the two.") < take.__doc__.index("last: The last.")
    assert "second:" not in take.__doc__


@pytest.mark.parametrize("call", [take, Taker().take])
@pytest.mark.parametrize(
    ("args", "given", "words"),
    [
        ((), {}, "missing a required argument: 'first'"),
        ((1, 2, "x", 4), {}, "too many positional arguments"),
        ((1,), {"first": 1}, "multiple values for argument 'first'"),
        ((1,), {"secnd": 1}, r"take\(\) got an unexpected keyword argument 'secnd'; did you mean 'second'\?"),
    ],
)
def test_a_wrong_call_is_a_type_error_that_names_the_parameter(call: Any, args: Any, given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call(*args, **given)


def test_the_checks_run_in_the_order_of_the_rows() -> None:
    with pytest.raises(ConfigurationError, match="first is 11"):
        take(11, 12)
    with pytest.raises(ConfigurationError, match="second is 12"):
        take(1, 12)
