"""memphis_sync.contrib.flask: applications, their config and their clients, in this process."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import pytest
from programs import check_arrived

import memphis_sync
from memphis_sync import ConfigurationError, ConnectError, UsageError
from memphis_sync.contrib.flask import FlaskMemphis

SECRET = "canary-secret"


@pytest.fixture
def memphis() -> Iterator[FlaskMemphis]:
    """The extension, as a program has it at the top of a module; its clients are closed after the test."""
    extension = FlaskMemphis()
    yield extension
    for shared in list(extension._clients.values()):
        shared.close()


@pytest.fixture
def stored(broker: Any) -> Iterator[memphis_sync.Memphis]:
    """A client to look with."""
    with memphis_sync.connect(broker.url) as client:
        yield client


def application(memphis: FlaskMemphis, **config: Any) -> flask.Flask:
    app = flask.Flask("shop")
    app.config.update(config)
    memphis.init_app(app)
    return app


# ---- clients --------------------------------------------------------------------------------------------------------


def test_two_applications_have_two_brokers(
    memphis: FlaskMemphis, broker: Any, stored: Any, fresh_broker: Any, station_name: str
) -> None:
    other = fresh_broker()
    first, second = application(memphis, MEMPHIS_URL=broker.url), application(memphis, MEMPHIS_URL=other.url)
    for app, text in ((first, "first"), (second, "second"), (first, "third")):
        with app.app_context():
            memphis.client.produce(station_name, "web", text)
    assert memphis.client_for(first) is not memphis.client_for(second)
    check_arrived(stored, station_name, ["first", "third"])
    with memphis_sync.connect(other.url) as client:
        check_arrived(client, station_name, ["second"])


def test_one_application_may_have_two_clients(memphis: FlaskMemphis, broker: Any) -> None:
    app = application(memphis, MEMPHIS_URL="memory://", MEMPHIS_ARCHIVE_URL=broker.url)
    archive = FlaskMemphis(app, config_prefix="MEMPHIS_ARCHIVE")
    assert app.extensions["memphis"] is memphis
    assert app.extensions["memphis_archive"] is archive
    with app.app_context():
        assert archive.client is not memphis.client
        archive.client.close()


def test_eight_threads_share_one_client(memphis: FlaskMemphis, broker: Any) -> None:
    app = application(memphis, MEMPHIS_URL=broker.url)
    together = threading.Barrier(8)

    def use(_: int) -> str:
        together.wait(60)
        return memphis.client_for(app).connection_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1


def test_nothing_is_opened_before_the_first_use_and_nothing_closed_after_a_request(
    memphis: FlaskMemphis, refused_address: tuple[str, int], broker: Any
) -> None:
    host, port = refused_address
    application(memphis, MEMPHIS_URL=f"memphis://root:memphis@{host}:{port}")
    app = application(memphis, MEMPHIS_URL=broker.url)

    @app.get("/")
    def view() -> str:
        return memphis.client.connection_id

    test = app.test_client()
    assert test.get("/").text == test.get("/").text
    assert memphis.client_for(app).is_connected()


def test_requests_do_not_queue_behind_a_broker_that_is_away(memphis: FlaskMemphis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(8) as pool:
        url = f"memphis://root:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/?timeout_ms=3000"
        app = application(memphis, MEMPHIS_URL=url)

        def use(_: int) -> str:
            with pytest.raises(ConnectError) as caught:
                memphis.client_for(app)
            return str(caught.value)

        start = time.monotonic()
        texts = list(pool.map(use, range(8)))
        assert time.monotonic() - start < 18  # eight after the other would take 24
    assert all("127.0.0.1" in text and SECRET not in text for text in texts)


def test_an_application_that_is_forgotten_takes_its_client_along_without_a_warning(broker: Any) -> None:
    memphis = FlaskMemphis()
    app = application(memphis, MEMPHIS_URL=broker.url)
    client = weakref.ref(memphis.client_for(app))
    del app
    gc.collect()
    deadline = time.monotonic() + 60
    while client() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert client() is None
    while any(thread.name.startswith("memphis-retire") for thread in threading.enumerate()):
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_opens_a_client_of_its_own(memphis: FlaskMemphis, broker: Any, station_name: str) -> None:
    """Also when another thread of the parent was about to open one at the fork."""
    app = application(memphis, MEMPHIS_URL=broker.url)
    place_taken, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with memphis._clients[app].lock:
            place_taken.set()
            may_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert place_taken.wait(60)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if memphis.client_for(app).produce(station_name, "web", "child").sequence == 1 else 1)
    may_go.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_a_client_needs_no_context_once_it_is_held(memphis: FlaskMemphis) -> None:
    app = application(memphis, MEMPHIS_URL="memory://")
    with pytest.raises(UsageError, match="client_for\\(app\\)"):
        _ = memphis.client
    with app.app_context():
        client = memphis.client
        assert memphis.client_for(flask.current_app) is client
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(client.produce, "orders", "web", b"x").result().station == "orders"


def test_an_application_is_set_up_once(memphis: FlaskMemphis) -> None:
    app = application(memphis, MEMPHIS_URL="memory://")
    for extension in (memphis, FlaskMemphis()):
        with pytest.raises(UsageError, match=r"'shop' has a client with the prefix MEMPHIS already.*config_prefix"):
            extension.init_app(app)
    with pytest.raises(UsageError, match="'other' was not set up: call init_app"):
        memphis.client_for(flask.Flask("other"))
    with pytest.raises(UsageError, match="was not set up"), flask.Flask("other").app_context():
        _ = memphis.client


def test_a_typo_is_an_attribute_error_and_no_call_is_passed_on(memphis: FlaskMemphis) -> None:
    with pytest.raises(AttributeError):
        memphis.produce  # type: ignore[attr-defined]  # noqa: B018


# ---- config ---------------------------------------------------------------------------------------------------------


def test_the_prefixed_environment_is_a_config(
    memphis: FlaskMemphis, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask reads JSON there, so the password arrives as a number; a broker in password mode refuses another one."""
    monkeypatch.setenv("FLASK_MEMPHIS_URL", f"memphis://127.0.0.1:{broker.port}")
    monkeypatch.setenv("FLASK_MEMPHIS_USERNAME", "root")
    monkeypatch.setenv("FLASK_MEMPHIS_PASSWORD", "12345")
    monkeypatch.setenv("FLASK_MEMPHIS_OPTIONS__name", "web")
    app = flask.Flask("shop")
    app.config.from_prefixed_env()
    assert app.config["MEMPHIS_PASSWORD"] == 12345
    memphis.init_app(app)
    with pytest.raises(memphis_sync.AuthenticationError):
        memphis.client_for(app)
    app.config["MEMPHIS_PASSWORD"] = "memphis"
    assert repr(memphis.client_for(app)).startswith("<Memphis 'web' connected")


@pytest.mark.parametrize(
    ("value", "text"), [("12345", "12345"), ("true", "true"), ("memphis", "memphis"), ('"12"', "12"), ("007", "007")]
)
def test_credentials_are_the_text_that_was_set(value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_MEMPHIS_TOKEN", value)
    app = flask.Flask("shop")
    app.config.from_prefixed_env()
    app.config["MEMPHIS_URL"], app.config["MEMPHIS_USERNAME"] = "memory://", "web"
    memphis = FlaskMemphis(app)
    client = memphis.client_for(app)
    try:
        assert memphis._clients[app].arguments == {"host": "memory://", "username": "web", "connection_token": text}
        assert SECRET not in repr(client)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"MEMPHIS_URI": "memory://"}, "unknown key MEMPHIS_URI; did you mean 'MEMPHIS_URL'"),
        ({"MEMPHIS_HOST": "b1"}, "unknown key MEMPHIS_HOST; did you mean 'MEMPHIS_URL'"),
        ({"MEMPHIS_PASWORD": SECRET}, "unknown key MEMPHIS_PASWORD; did you mean 'MEMPHIS_PASSWORD'"),
        ({"MEMPHIS_XYZZY": 1}, "unknown key MEMPHIS_XYZZY; the known ones are"),
        ({"MEMPHIS_URL": "localhost"}, "MEMPHIS_URL is not a URL; the form is memphis://"),
        ({"MEMPHIS_URL": f"memfis://u:{SECRET}@b1"}, "MEMPHIS: the URL's scheme 'memfis'"),
        (
            {"MEMPHIS_URL": f"memphis://u:{SECRET}@b1/?namex=x"},
            "MEMPHIS: unknown option 'namex' in the URL; did you mean",
        ),
        ({"MEMPHIS_URL": 7}, "MEMPHIS_URL is of type int; it must be a text"),
        (
            {"MEMPHIS_URL": "memory://", "MEMPHIS_PASSWORD": 1.5},
            "MEMPHIS_PASSWORD is of type float.*FLASK_MEMPHIS_PASS",
        ),
        ({"MEMPHIS_OPTIONS": {"timeout": 7}}, "MEMPHIS_OPTIONS has the unknown option 'timeout'; did you mean"),
        ({"MEMPHIS_OPTIONS": "x"}, "MEMPHIS_OPTIONS is of type str; it must be a dict"),
        ({"MEMPHIS_URL": "memory://", "MEMPHIS_OPTIONS": {"host": "b"}}, "also given by 'MEMPHIS_URL'"),
        ({"MEMPHIS_OPTIONS": {"timeout_ms": 0}}, "MEMPHIS: timeout_ms is 0"),
        ({"MEMPHIS_STATIONS": ["orders"]}, "MEMPHIS_STATIONS is of type list"),
        ({"MEMPHIS_STATIONS": {"a b": {}}}, r"MEMPHIS_STATIONS\['a b'\]: .*Only alphanumeric"),
        ({"MEMPHIS_STATIONS": {"orders": {"partitions": 3}}}, "did you mean 'partitions_number'"),
        ({"MEMPHIS_USERNAME": "root", "MEMPHIS_PASSWORD": SECRET}, "username is given without host"),
    ],
)
def test_a_wrong_setting_is_named_when_the_application_is_set_up(
    memphis: FlaskMemphis, config: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        application(memphis, **config)
    assert SECRET not in str(caught.value)


def test_what_names_the_broker_may_come_later(memphis: FlaskMemphis, broker: Any, monkeypatch: Any) -> None:
    """An image is built without it; the environment of connect() names it where the application runs."""
    for variable in ("MEMPHIS_URL", "MEMPHIS_HOST"):
        monkeypatch.delenv(variable, raising=False)
    app = application(memphis, MEMPHIS_OPTIONS={"name": "web"})
    with pytest.raises(ConfigurationError, match="MEMPHIS_URL"):
        memphis.client_for(app)
    monkeypatch.setenv("MEMPHIS_URL", broker.url)
    assert memphis.client_for(app).ping() > 0


@pytest.mark.parametrize("prefix", ["", "memphis", "MEMPHIS-2", 7])
def test_a_prefix_that_no_key_has_is_refused(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="config_prefix is"):
        FlaskMemphis(config_prefix=prefix)


# ---- commands -------------------------------------------------------------------------------------------------------


def test_ping_tells_a_broker_that_is_there_from_one_that_is_not(
    memphis: FlaskMemphis, broker: Any, refused_address: tuple[str, int]
) -> None:
    done = application(memphis, MEMPHIS_URL=broker.url).test_cli_runner().invoke(args=["memphis", "ping"])
    assert (done.exit_code, done.output[-4:]) == (0, " ms\n")
    url = f"memphis://root:{SECRET}@127.0.0.1:{refused_address[1]}"
    done = application(memphis, MEMPHIS_URL=url).test_cli_runner().invoke(args=["memphis", "ping"])
    assert done.exit_code == 1
    assert str(refused_address[1]) in done.output
    assert SECRET not in done.output


def test_stations_are_created_and_compared(memphis: FlaskMemphis, broker: Any, stored: Any, station_name: str) -> None:
    listed = {
        f"{station_name}-new": {"partitions_number": 2, "retention_type": "messages", "retention_value": 7},
        f"{station_name}-old": {"partitions_number": 3, "replicas": 1, "idempotency_window_ms": 120000},
    }
    stored.station(f"{station_name}-old", partitions_number=1)
    runner = application(memphis, MEMPHIS_URL=broker.url, MEMPHIS_STATIONS=listed).test_cli_runner()

    done = runner.invoke(args=["memphis", "stations", "--check"])
    different = f"{station_name}-old: partitions_number is 1, the settings say 3\n"
    assert (done.exit_code, done.output) == (1, f"{station_name}-new: is missing\n{different}")
    done = runner.invoke(args=["memphis", "stations"])
    assert (done.exit_code, done.output) == (0, f"{station_name}-new: created\n{different}")
    assert stored.station(f"{station_name}-new").info().retention_value == 7
    stored.destroy_station(f"{station_name}-old")
    runner.invoke(args=["memphis", "stations"])
    done = runner.invoke(args=["memphis", "stations", "--check"])
    assert done.exit_code == 0
    assert done.output.count("is as the settings say") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["flask_shop.shop:on_oder"], "did you mean 'on_order'"),
        (["flask_shop.shpo:on_order"], "did you mean 'flask_shop.shop'"),
        (["flask_shop.shop:unmarked"], "which is no handler"),
        (["flask_shop.shop:of_another_alias"], "is for the alias 'archive'"),
        (["flask_shop.shop:on_order", "--batch-size", "0"], "--batch-size"),
        (["flask_shop.shop:on_order", "--idle-exit", "0"], "--idle-exit"),
        (["flask_shop.shop:on_order", "--max-mesages", "1"], "--max-messages"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_argument_of_consume_is_named_before_anything_is_opened(
    memphis: FlaskMemphis, refused_address: Any, arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    app = application(memphis, MEMPHIS_URL=f"memphis://root:memphis@127.0.0.1:{refused_address[1]}")
    done = app.test_cli_runner().invoke(args=["memphis", "consume", *arguments])
    assert done.exit_code == 2, done.output
    assert text in done.output
