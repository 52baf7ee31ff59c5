"""What the program hands us to be called: what it may raise, and what is refused before it is called at all."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading

import pytest

from memphis_sync import ConfigurationError, MemphisError

ERRORS = [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, ValueError]


def raised_in(caplog, text):
    return [record for record in caplog.records if record.exc_info and record.getMessage().endswith(text)]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_delivery_callback_that_raises_anything_costs_no_other_its_call(memphis, station_name, kind, until, caplog):
    def raises(_):
        raise kind("mine")

    producer = memphis.producer(station_name, "p")
    producer.produce(b"1", nonblocking=True, on_delivery=raises)
    assert memphis.flush(10) == 0
    called = []
    producer.produce(b"2", nonblocking=True, on_delivery=called.append).result(10)
    until(lambda: called)
    until(lambda: raised_in(caplog, "a callback raised"))
    assert memphis.stats().callback_errors == 1
    assert raised_in(caplog, "a callback raised")[0].exc_info[0] is kind

    async def wait():
        return await asyncio.wait_for(producer.produce(b"3", nonblocking=True), 30)

    assert asyncio.run(wait()).sequence == 3


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not KeyboardInterrupt])
def test_a_callback_for_a_known_outcome_raises_nothing_to_its_giver(memphis, station_name, kind):
    def raises(_):
        raise kind("mine")

    delivery = memphis.producer(station_name, "p").produce(b"1", nonblocking=True)
    delivery.result(10)
    delivery.add_done_callback(raises)
    assert memphis.stats().callback_errors == 1


def test_ctrl_c_in_a_callback_on_the_main_thread_reaches_the_program(memphis, station_name):
    def raises(_):
        raise KeyboardInterrupt

    delivery = memphis.producer(station_name, "p").produce(b"1", nonblocking=True)
    delivery.result(10)
    with pytest.raises(KeyboardInterrupt):
        delivery.add_done_callback(raises)
    assert memphis.stats().callback_errors == 1


@pytest.mark.parametrize("kind", ERRORS)
def test_a_handler_that_raises_anything_is_told_of_it_and_gets_the_next_message(
    memphis, station_name, kind, until, caplog
):
    producer = memphis.producer(station_name, "p")
    told, seen = [], []

    def handle(messages, error, _):
        if error is not None:
            told.append(error)
            return
        seen.extend(message.data for message in messages)
        for message in messages:
            message.ack()
        if b"bad" in seen and b"good" not in seen:
            raise kind("mine")

    consumer = memphis.consumer(station_name, "c", pull_interval_ms=10)
    consumer.consume(handle)
    producer.produce(b"bad")
    until(lambda: told)
    producer.produce(b"good")
    until(lambda: b"good" in seen)
    assert isinstance(told[0].__cause__, kind)
    assert isinstance(told[0], MemphisError)
    assert memphis.stats().callback_errors == 1
    assert raised_in(caplog, "the callback failed")[0].exc_info[0] is kind
    assert consumer.stop_consume(20)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_event_callback_that_raises_anything_does_not_silence_the_next_one(
    broker, proxy_to, station_name, kind, until
):
    import memphis_sync

    calls = []

    def raises(event):
        calls.append(event)
        raise kind("mine")

    proxy = proxy_to(broker.host, broker.port)
    url = broker.url.replace(str(broker.port), str(proxy.port))
    with memphis_sync.connect(url, reconnect_interval_ms=20, on_disconnect=raises, on_reconnect=raises) as memphis:
        proxy.cut()
        until(lambda: len(calls) >= 2)
        until(memphis.is_connected)
        assert memphis.stats().callback_errors >= 1


def test_a_log_handler_that_raises_does_not_end_the_callbacks_thread(memphis, station_name, until):
    class Raises(logging.Handler):
        def emit(self, record):
            raise SystemExit("mine")

    def raises(_):
        raise ValueError("mine")

    handler = Raises()
    logging.getLogger("memphis_sync").addHandler(handler)
    try:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"1", nonblocking=True, on_delivery=raises).result(10)
        until(lambda: memphis.stats().callback_errors == 1)
        called = []
        producer.produce(b"2", nonblocking=True, on_delivery=called.append)
        until(lambda: called)
    finally:
        logging.getLogger("memphis_sync").removeHandler(handler)


def test_a_coroutine_that_a_callback_returns_is_an_error_of_it(memphis, station_name, until, caplog):
    async def told(_):
        """Never runs."""

    producer = memphis.producer(station_name, "p")
    producer.produce(b"1", nonblocking=True, on_delivery=lambda delivery: told(delivery)).result(10)  # noqa: PLW0108
    until(lambda: raised_in(caplog, "a callback raised"))
    assert "never awaited" in str(raised_in(caplog, "a callback raised")[0].exc_info[1])


SCRIPT = """
import memphis_sync, os, threading, time
with memphis_sync.connect(os.environ["TEST_URL"]) as client:
    producer = client.producer(os.environ["TEST_STATION"], "p")
    {use}
    deadline = time.monotonic() + 30
    while client.stats().callback_errors < {count} and time.monotonic() < deadline:
        time.sleep(0.01)
    print(client.stats().callback_errors)
"""


def test_a_handler_that_always_raises_is_seen_without_any_logging(run_python, broker, station_name):
    use = """
    for number in range(5):
        producer.produce(b"%d" % number)
    client.consumer(os.environ["TEST_STATION"], "c", batch_size=1, pull_interval_ms=0).consume(
        lambda messages, error, context: messages[0].dta
    )
"""
    done = run_python("-c", SCRIPT.format(use=use, count=5), env={"TEST_URL": broker.url, "TEST_STATION": station_name})
    text = done.stderr.decode()
    assert int(done.stdout) >= 5
    assert "AttributeError: 'Message' object has no attribute 'dta'" in text
    assert 1 <= text.count("AttributeError") <= 3  # once a second at most
    assert "the callback failed" in text


@pytest.mark.parametrize("configure", ["logging.basicConfig(filename=os.devnull)", "logging.lastResort = None"])
def test_a_program_that_configured_logging_gets_nothing_on_standard_error(run_python, broker, station_name, configure):
    use = f"""
    import logging
    {configure}
    producer.produce(b"1", nonblocking=True, on_delivery=lambda delivery: delivery.nothing)
"""
    done = run_python("-c", SCRIPT.format(use=use, count=1), env={"TEST_URL": broker.url, "TEST_STATION": station_name})
    assert done.stdout == b"1\n"
    assert done.stderr == b""


# ---- what is refused ------------------------------------------------------------------------------------------------


async def coroutine_function(*_):
    """Would never run."""


async def asynchronous_generator(*_):
    """Would never run."""
    yield 1


def generator(*_):
    """Would never run."""
    yield 1


class AsyncCall:
    """Its call makes a coroutine."""

    async def __call__(self, *_):
        """Would never run."""

    async def method(self, *_):
        """Would never run."""


REFUSED = {
    "coroutine function": coroutine_function,
    "coroutine lambda's partial": functools.partial(coroutine_function, 1),
    "partial of a partial": functools.partial(functools.partial(coroutine_function, 1), 2),
    "asynchronous generator": asynchronous_generator,
    "its partial": functools.partial(asynchronous_generator, 1),
    "generator": generator,
    "object with an asynchronous call": AsyncCall(),
    "its partial too": functools.partial(AsyncCall(), 1),
    "asynchronous method": AsyncCall().method,
    "str": "no function",
    "number": 7,
    "coroutine object": None,  # made in the test
}


@pytest.fixture(params=list(REFUSED))
def refused(request):
    if request.param != "coroutine object":
        yield REFUSED[request.param]
        return
    made = coroutine_function()
    yield made
    made.close()


def test_what_would_never_run_is_refused_everywhere(broker, memphis, station_name, refused):
    import memphis_sync

    producer = memphis.producer(station_name, "p")
    several = memphis.producer([station_name, station_name + "-2"], "p")
    delivery = producer.produce(b"1", nonblocking=True)
    delivery.result(10)
    deliveries = several.produce(b"1", nonblocking=True)
    deliveries.result(10)
    consumer = memphis.consumer(station_name, "c")
    threads = threading.active_count()
    calls = {
        **{
            name: functools.partial(memphis_sync.connect, broker.url, **{name: refused})
            for name in ("on_disconnect", "on_reconnect", "on_error")
        },
        "producer": lambda: memphis.producer(station_name, "q", on_delivery=refused),
        "produce": lambda: producer.produce(b"2", nonblocking=True, on_delivery=refused),
        "produce to several": lambda: several.produce(b"2", nonblocking=True, on_delivery=refused),
        "client.produce": lambda: memphis.produce(station_name, "p", b"2", nonblocking=True, on_delivery=refused),
        "add_done_callback": lambda: delivery.add_done_callback(refused),
        "add_done_callback of several": lambda: deliveries.add_done_callback(refused),
        "consume": lambda: consumer.consume(refused),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigurationError, match=r"must be (callable|a plain function)"):
            call()
        assert threading.active_count() <= threads + 1, name
    assert memphis.stats().accepted == 3


@pytest.mark.parametrize(
    "callback",
    [
        lambda: None,
        lambda messages, error: None,
        lambda messages, error, context, more: None,
        lambda *, messages, error, context: None,
        functools.partial(lambda a, b, c: None, 1),
        [].clear,
    ],
)
def test_a_handler_that_cannot_take_its_three_arguments_is_refused(memphis, station_name, callback):
    consumer = memphis.consumer(station_name, "c")
    with pytest.raises(ConfigurationError, match=r"cannot be called with \(messages, error, context\)"):
        consumer.consume(callback)


@pytest.mark.parametrize(
    "callback",
    [lambda *a: None, lambda m, e, c=None, d=1: None, functools.partial(print, "x"), print, type],
)
def test_a_handler_that_takes_three_arguments_or_does_not_tell_is_accepted(memphis, station_name, callback):
    consumer = memphis.consumer(station_name, "c")
    consumer.consume(callback)
    assert consumer.stop_consume(20)
