"""
Handlers: functions of one message that say themselves which station and group they are for.

    @memphis_sync.handler("orders", group="billing")
    def on_order(message):
        ...

The function stays what it was, and may be called. Nothing starts by itself: a program finds the handler by its path
(load_handler) and runs it (run_handler).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, TypeVar, Union

from memphis_sync._base.hints import nearest
from memphis_sync._base.stop_signals import StopSignals
from memphis_sync._consuming.run_loop import RunArguments, check_run, run_until
from memphis_sync._consuming.until import Until
from memphis_sync._options.checks import MAX_BATCH_SIZE, check_callable, check_int, check_str, show
from memphis_sync._options.handling import HandlerArguments, check_delays, check_handler
from memphis_sync._options.rows import takes
from memphis_sync.errors import ConfigurationError
from memphis_sync.message import Message
from memphis_sync.types import OnError

if TYPE_CHECKING:
    from memphis_sync.client import Memphis

F = TypeVar("F", bound=Callable[[Message], object])
Around = Callable[[Message], AbstractContextManager[Any]]
_MARK = "memphis_handler"


@dataclasses.dataclass(frozen=True)
class Handler:
    """
    A function and what it handles; the attribute ``memphis_handler`` of a function that handler() has marked.

    Attributes:
        function: Called with each message.
        station_name, group, alias, consumer_name, create_station: As given to handler(), names in lower case.
        on_error, delay_ms, max_delay_ms: The same.
        batch_size, max_ack_time_ms, max_msg_deliveries: The same.
    """

    function: Callable[[Message], object]
    station_name: str
    group: str
    alias: str = "default"
    consumer_name: str = ""
    on_error: OnError = "retry"
    delay_ms: int = 1000
    max_delay_ms: int = 60_000
    batch_size: int = 10
    max_ack_time_ms: int = 30_000
    max_msg_deliveries: int = 2
    create_station: bool = True

    @property
    def path(self) -> str:
        """Where its function is: ``shop.handlers.on_order``."""
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', type(self.function).__name__)}"

    def __call__(self, message: Message) -> object:
        """Calls the function."""
        return self.function(message)


class Marking(Protocol):
    """What handler() returns."""

    def __call__(self, function: F) -> F:
        """Marks a function, and returns it."""
        ...


@takes(HandlerArguments)
def handler(given: HandlerArguments) -> Marking:
    """
    Marks a function of one message as the handler of a station for a group.

        @memphis_sync.handler("orders", group="billing", on_error="dead_letter")
        def on_order(message):
            charge(message.json())

    Its return means that the message is done, an error what *on_error* says. The function is returned as it was, with
    its Handler in the attribute ``memphis_handler``. Nothing is started: run_handler() does that, and
    ``manage.py memphis_consume``, ``flask memphis consume``.

    Returns:
        A decorator. It raises ConfigurationError for what cannot be called with one message, a coroutine function, a
        generator, or a function that is a handler already.

    Raises:
        ConfigurationError: An argument is not allowed.
    """
    given = given.checked()
    check_delays(given.delay_ms, given.max_delay_ms)

    def mark(function: F) -> F:
        check_handler("the handler", function)
        before = getattr(function, _MARK, None)
        if before is not None:
            raise ConfigurationError(
                f"{before.path} is the handler of {before.station_name!r} for {before.group!r} already; a function "
                "handles one station: write another one that calls it"
            )
        setattr(function, _MARK, Handler(function, **vars(given)))
        return function

    return mark


def load_handler(path: str) -> Handler:
    """
    Imports a handler by its path.

        on_order = memphis_sync.load_handler("shop.handlers.on_order")

    Args:
        path: ``package.module.function``, or ``package.module:function``.

    Returns:
        The Handler, with the function that the path leads to, also when other decorators have wrapped it.

    Raises:
        ConfigurationError: There is no such module or function, or it is no handler; the text has the nearest one.
        Exception: What the module raised while it was imported.
    """
    check_str("the handler's path", path, empty_ok=False)
    separator = ":" if ":" in path else "."
    module_name, _, name = path.rpartition(separator)
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(
            f"the handler's path is {show(path)}; it must be package.module.function or package.module:function, as in "
            "shop.handlers.on_order"
        )
    module = _module(module_name, path)
    found = getattr(module, name, None)
    if found is None and not hasattr(module, name):
        raise ConfigurationError(f"{path}: the module {module_name} has no {name!r}{_hint(name, module)}")
    return handler_of(found, path)


def run_handler(
    client: Memphis,
    handler: Union[Handler, Callable[[Message], object]],
    *,
    around: Optional[Around] = None,
    batch_size: Optional[int] = None,
    max_messages: Optional[int] = None,
    idle_exit_s: Optional[float] = None,
    stop_signals: Collection[int] = (),
) -> int:
    """
    Runs a handler on the calling thread until it is told to stop, as Consumer.run() does.

        memphis_sync.run_handler(memphis, on_order, max_messages=1, stop_signals=(signal.SIGTERM,))

    Its group keeps its position in the station afterwards, for the next run.

    Args:
        client: Whose connection is used.
        handler: A Handler, or a function that handler() has marked.
        around: Called with each message; what it returns is a context manager in which the function runs. An error
            that it raises is the handler's; one that it suppresses is none.
        batch_size: Instead of the handler's.
        max_messages: Returns after so many messages, from 1; None: no limit.
        idle_exit_s: Returns when nothing has arrived for so long, in seconds, above 0; None: goes on for ever.
        stop_signals: Signals that end it after the current message; a second one ends it at once. On the main thread
            only.

    Returns:
        How many messages the function was called with.

    Raises:
        ConfigurationError: An argument is not allowed, or *handler* is no handler.
        UsageError: *stop_signals* is given, and this is not the main thread.
        MemphisError: As consumer() and Consumer.run().
        Exception: What the function raised, with ``on_error="stop"``.
    """
    made = handler_of(handler, "handler")
    if around is not None:
        check_callable("around", around, parameters="message")
    size = made.batch_size if batch_size is None else check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
    given = check_run(
        RunArguments(
            made.function if around is None else _within(around, made.function),
            on_error=made.on_error,
            delay_ms=made.delay_ms,
            max_delay_ms=made.max_delay_ms,
            max_messages=max_messages,
            idle_exit_s=idle_exit_s,
            stop_signals=stop_signals,
        )
    )
    until = Until(given.idle_exit_s)
    with StopSignals(given.stop_signals, "run_handler()", until.tell):
        consumer = client.consumer(
            made.station_name,
            made.consumer_name or made.group,
            made.group,
            batch_size=size,
            max_ack_time_ms=made.max_ack_time_ms,
            max_msg_deliveries=made.max_msg_deliveries,
            create_station=made.create_station,
        )
        with consumer:
            return run_until(consumer, given, until)


def handler_of(value: object, what: str) -> Handler:
    """
    The handler that something is.

    Args:
        value: A Handler, or a function that handler() has marked, perhaps wrapped by other decorators.
        what: How the program calls it.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(value, Handler):
        return value
    made = getattr(value, _MARK, None)
    if not isinstance(made, Handler) or not callable(value):
        name = getattr(value, "__qualname__", None)
        shown = f"the function {name}" if name else show(value)
        raise ConfigurationError(
            f"{what} is {shown}, which is no handler: mark the function with @memphis_sync.handler(STATION, GROUP)"
        )
    return dataclasses.replace(made, function=value)


def _within(around: Around, function: Callable[[Message], object]) -> Callable[[Message], object]:
    def call(message: Message) -> object:
        with around(message):
            return function(message)

    return call


def _module(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise  # a module that the handler's module needs
    parent, _, last = missing.rpartition(".")
    beside = getattr(importlib.import_module(parent), "__path__", ()) if parent else None
    near = nearest(last, [module.name for module in pkgutil.iter_modules(beside)])
    hint = f"; did you mean {(f'{parent}.{near}' if parent else near)!r}?" if near else ""
    raise ConfigurationError(f"{path}: there is no module {missing!r}{hint}")


def _hint(name: str, module: ModuleType) -> str:
    """What a module has instead of *name*: the handler that was probably meant, or all of them."""
    names = sorted(each for each, value in vars(module).items() if isinstance(getattr(value, _MARK, None), Handler))
    near = nearest(name, names)
    if near:
        return f"; did you mean {near!r}?"
    return f"; its handlers are {', '.join(names)}" if names else "; it has no handlers"
