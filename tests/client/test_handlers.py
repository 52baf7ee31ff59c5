"""Handlers: marked functions, found by their path, with the nearest name in each error; and their running."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import textwrap

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, Handler, UsageError, handler, load_handler, run_handler


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """``shop("module", source)`` writes a module of a package ``shop_of_test`` that can be imported; gives its name."""
    package = tmp_path / "shop_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, source):
        (package / f"{name}.py").write_text(textwrap.dedent(source))
        return f"shop_of_test.{name}"

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop_of_test"]:
        del sys.modules[name]


HANDLERS = """
    import memphis_sync

    @memphis_sync.handler("Orders", group="billing", on_error="dead_letter")
    def on_order(message):
        return message

    @memphis_sync.handler("refunds", "billing")
    def on_refund(message):
        pass

    def plain(message):
        pass
"""


def test_the_function_stays_what_it_was():
    @handler("Orders", group="Billing", on_error="stop", max_msg_deliveries=5)
    def on_order(message):
        """Says so."""
        return message

    assert on_order(7) == 7
    assert inspect.isfunction(on_order)
    assert on_order.__doc__ == "Says so."
    made = on_order.memphis_handler
    assert made == Handler(on_order, "orders", "billing", on_error="stop", max_msg_deliveries=5)
    assert made(8) == 8


def test_defaults_are_those_of_the_parameters():
    fields = {field.name: field.default for field in dataclasses.fields(Handler)}
    for name, parameter in inspect.signature(handler).parameters.items():
        if parameter.default is not parameter.empty:
            assert fields[name] == parameter.default, name


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_handler_is_found_by_its_path(shop, separator):
    module = shop("handlers", HANDLERS)
    found = load_handler(f"{module}{separator}on_order")
    assert (found.station_name, found.group, found.alias, found.on_error) == (
        "orders",
        "billing",
        "default",
        "dead_letter",
    )
    assert found.path == f"{module}.on_order"


def test_what_other_decorators_add_is_called(shop):
    module = shop(
        "wrapped",
        """
        import functools
        import memphis_sync

        def doubled(function):
            @functools.wraps(function)
            def call(message):
                return 2 * function(message)
            return call

        @doubled
        @memphis_sync.handler("orders", "billing")
        def above(message):
            return message

        @memphis_sync.handler("orders", "billing")
        @doubled
        def below(message):
            return message
        """,
    )
    assert load_handler(f"{module}.above")(3) == 6
    assert load_handler(f"{module}.below")(3) == 6


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("shop_of_test.handlers.on_ordr", "has no 'on_ordr'; did you mean 'on_order'?"),
        ("shop_of_test.handlers:refund", "did you mean 'on_refund'?"),
        ("shop_of_test.handlers.zzzzzz", "its handlers are on_order, on_refund"),
        ("shop_of_test.handler.on_order", "no module 'shop_of_test.handler'; did you mean 'shop_of_test.handlers'?"),
        ("shop_of_tset.handlers.on_order", "no module 'shop_of_tset'; did you mean 'shop_of_test'?"),
        ("shop_of_test.handlers.plain", "is the function plain, which is no handler"),
        ("shop_of_test.handlers.memphis_sync", "is no handler"),
        ("on_order", "must be package.module.function"),
        ("shop_of_test.handlers.", "must be package.module.function"),
        ("shop_of_test/handlers.py:on_order", "must be package.module.function"),
        (".handlers.on_order", "must be package.module.function"),
        ("", "empty"),
        (7, "must be a str"),
    ],
)
def test_a_wrong_path_is_answered_with_the_nearest(shop, path, text):
    shop("handlers", HANDLERS)
    with pytest.raises(ConfigurationError) as caught:
        load_handler(path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import shop_of_test.missing", ModuleNotFoundError),
        ("import nowhere_at_all", ModuleNotFoundError),
        ("1/0", ZeroDivisionError),
    ],
)
def test_an_error_of_the_module_itself_is_passed_on(shop, source, error):
    module = shop("broken", source)
    with pytest.raises(error):
        load_handler(f"{module}.on_order")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "dead-letter"}, "did you mean 'dead_letter'?"),
        ({"on_error": None}, "must be one of 'retry', 'dead_letter', 'stop'"),
        ({"delay_ms": -1}, "delay_ms is -1"),
        ({"delay_ms": 100, "max_delay_ms": 10}, "delay_ms is 100 and max_delay_ms is 10"),
        ({"batch_size": 5001}, "batch_size is 5001"),
        ({"max_msg_deliveries": 11}, "max_msg_deliveries is 11"),
        ({"alias": ""}, "alias is ''"),
        ({"consumer_name": "a b"}, "consumer_name is 'a b'"),
    ],
)
def test_a_wrong_option_is_named_where_the_function_is_marked(options, text):
    with pytest.raises(ConfigurationError) as caught:
        handler("orders", "billing", **options)
    assert text in str(caught.value)


def test_a_misspelt_option_is_answered_with_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'on_error'"):
        handler("orders", "billing", onerror="stop")
    with pytest.raises(TypeError, match="group"):
        handler("orders")


async def coroutine(message):
    """What a call does not run."""


def generator(message):
    """The same."""
    yield message


@pytest.mark.parametrize("function", [7, None, coroutine, generator, lambda: None, lambda a, b: None])
def test_what_cannot_be_called_with_a_message_is_refused(function):
    with pytest.raises(ConfigurationError, match="the handler is"):
        handler("orders", "billing")(function)


def test_a_function_handles_one_station():
    @handler("orders", "billing")
    def on_order(message):
        pass

    with pytest.raises(ConfigurationError, match="already"):
        handler("refunds", "billing")(on_order)


def test_it_handles_what_is_there_within_what_is_around(memphis, station_name):
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(5))
    events = []

    @contextlib.contextmanager
    def around(message):
        events.append("open")
        yield
        events.append("close")

    @handler(station_name, group="g")
    def on_order(message):
        events.append(int(message.data))

    assert run_handler(memphis, on_order, around=around, max_messages=2) == 2
    assert events == ["open", 0, "close", "open", 1, "close"]
    events.clear()
    assert run_handler(memphis, on_order.memphis_handler, idle_exit_s=0.5) == 3
    assert events == [2, 3, 4]
    info = memphis.station(station_name).info()
    assert [(group.name, group.lag, group.unacknowledged) for group in info.groups] == [("g", 0, 0)]


def test_an_error_of_what_is_around_is_the_handlers(memphis, station_name):
    """A transaction that fails when it is committed has not handled the message."""
    memphis.producer(station_name, "p").produce("one")

    @contextlib.contextmanager
    def around(message):
        yield
        raise RuntimeError("not committed")

    @handler(station_name, "g", on_error="stop")
    def on_order(message):
        pass

    with pytest.raises(RuntimeError, match="not committed"):
        run_handler(memphis, on_order, around=around)
    assert [message.data for message in memphis.consumer(station_name, "g").read_all()] == [b"one"]


def test_what_is_no_handler_is_refused_before_any_io():
    client = memphis_sync.Memphis()  # not connected: IO would be another error
    with pytest.raises(ConfigurationError, match="which is no handler"):
        run_handler(client, lambda message: None)
    with pytest.raises(ConfigurationError, match="which is no handler"):
        run_handler(client, functools.partial(print, 7))
    marked = handler("orders", "billing")(lambda message: None)
    with pytest.raises(ConfigurationError, match="max_messages is 0"):
        run_handler(client, marked, max_messages=0)
    with pytest.raises(ConfigurationError, match="around is"):
        run_handler(client, marked, around=7)
    with pytest.raises(UsageError):
        run_handler(client, marked)


def test_a_station_may_have_to_exist(memphis, station_name):
    marked = handler(station_name, "g", create_station=False)(lambda message: None)
    with pytest.raises(memphis_sync.StationNotFoundError):
        run_handler(memphis, marked)
