"""
memphis_sync in a Flask application: a client for each application, described in its config, opened at its first use.

    memphis = FlaskMemphis()

    def create_app():
        app = flask.Flask(__name__)
        memphis.init_app(app)
        return app

A view uses ``memphis.client``. One client serves all threads of a process; it is opened by the first request that needs
it, so after a server has forked, and nothing closes it at the end of a request: the end of the process drains it.
"""

from __future__ import annotations

import json
import signal
import weakref
from contextlib import AbstractContextManager
from typing import Any, Optional

import click
import flask
from flask.cli import AppGroup

from memphis_sync import (
    ConfigurationError,
    Handler,
    Memphis,
    MemphisError,
    Message,
    UsageError,
    load_handler,
    run_handler,
)
from memphis_sync.contrib._opening import Arguments, SharedClient
from memphis_sync.contrib._settings import did_you_mean, plan, station_problem, take_options
from memphis_sync.contrib._stations import compare

__all__ = ["FlaskMemphis"]

# Keys of the config behind the prefix, with the argument of connect() that they give.
_ARGUMENTS = {"URL": "host", "USERNAME": "username", "PASSWORD": "password", "TOKEN": "connection_token"}
_KEYS = (*_ARGUMENTS, "OPTIONS", "STATIONS")
_INSTEAD = {"HOST": "URL", "PORT": "URL", "URI": "URL", "USER": "USERNAME", "CONNECTION_TOKEN": "TOKEN"}
_DEFAULT = "default"


class _Config:
    """What an application's config says; raises ConfigurationError, before any IO, for what cannot be."""

    def __init__(self, config: flask.Config, prefix: str) -> None:
        self._prefix = prefix
        given = {key[len(prefix) + 1 :]: value for key, value in config.items() if key.startswith(f"{prefix}_")}
        for key in given:
            self._check_key(key)
        self.arguments = Arguments()
        for key, argument in _ARGUMENTS.items():
            value = given.get(key)
            if value is not None and value != "":
                self.arguments[argument] = self._text(key, value)
        url = self.arguments.get("host")
        if url is not None and "://" not in url:
            raise ConfigurationError(f"{prefix}_URL is not a URL; the form is memphis://user:password@host:6666")
        keys = {f"{prefix}_{key}": argument for key, argument in _ARGUMENTS.items()}
        for problem in take_options(given.get("OPTIONS") or {}, self.arguments, keys):
            raise ConfigurationError(f"{prefix}_OPTIONS{problem}")
        self.stations: Any = given.get("STATIONS") or {}
        self._check_stations()
        try:
            plan(self.arguments)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{prefix}: {exc}") from None

    def _check_key(self, key: str) -> None:
        if key in _KEYS or key.endswith(tuple(f"_{known}" for known in _KEYS)):  # the second: of a longer prefix
            return
        near = f"did you mean {_INSTEAD[key]!r}?" if key in _INSTEAD else did_you_mean(key, _KEYS)
        near = near.replace("'", f"'{self._prefix}_", 1) if "'" in near else near
        raise ConfigurationError(f"the config has the unknown key {self._prefix}_{key}; {near}")

    def _text(self, key: str, value: object) -> str:
        """A setting that is a text: ``from_prefixed_env()`` reads JSON, so the password 12345 arrives as a number."""
        if isinstance(value, str):
            return value
        if isinstance(value, int) and key != "URL":
            return json.dumps(value)
        quoted = (
            "" if key == "URL" else f"; in the environment, put it into quotes: FLASK_{self._prefix}_{key}='\"...\"'"
        )
        raise ConfigurationError(f"{self._prefix}_{key} is of type {type(value).__name__}; it must be a text{quoted}")

    def _check_stations(self) -> None:
        if not isinstance(self.stations, dict):
            kind = type(self.stations).__name__
            raise ConfigurationError(
                f"{self._prefix}_STATIONS is of type {kind}; it must be a dict of station to keywords"
            )
        for station, options in self.stations.items():
            problem = station_problem(station, options)
            if problem:
                raise ConfigurationError(f"{self._prefix}_STATIONS[{station!r}]{problem}")


class FlaskMemphis:
    """
    The extension. One object serves any number of applications, each with a client of its own.

    Args:
        app: Calls init_app() with it.
        config_prefix: What the keys of the config begin with: ``MEMPHIS_URL`` (without it the environment of connect()
            is read), ``MEMPHIS_USERNAME``, ``MEMPHIS_PASSWORD``, ``MEMPHIS_TOKEN``, ``MEMPHIS_OPTIONS`` (a dict of
            keywords of connect()), ``MEMPHIS_STATIONS`` (a dict of station to keywords of station()). Another prefix
            gives an application another client.
    """

    def __init__(self, app: Optional[flask.Flask] = None, *, config_prefix: str = "MEMPHIS") -> None:
        if not isinstance(config_prefix, str) or not config_prefix.isidentifier() or not config_prefix.isupper():
            raise ConfigurationError(
                f"config_prefix is {config_prefix!r}; it must be a name in capitals, as Flask's keys are"
            )
        self._prefix = config_prefix
        self._clients: weakref.WeakKeyDictionary[flask.Flask, SharedClient] = weakref.WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    @property
    def _name(self) -> str:
        return self._prefix.lower()

    def init_app(self, app: flask.Flask) -> None:
        """
        Sets an application up: checks its config, and adds the commands ``flask memphis``. Opens nothing.

        Args:
            app: Its config is complete, or says all but where the broker is.

        Raises:
            ConfigurationError: The config has an unknown key, or a value that connect() or station() would refuse.
            UsageError: The application was set up before, with this prefix.
        """
        if self._name in app.extensions:
            raise UsageError(
                f"the application {app.name!r} has a client with the prefix {self._prefix} already: call init_app() "
                "once, either by FlaskMemphis(app) or in the application factory, or give a second one another "
                "config_prefix"
            )
        _Config(app.config, self._prefix)
        self._clients[app] = SharedClient()
        app.extensions[self._name] = self
        app.cli.add_command(_commands(self), self._name.replace("_", "-"))

    @property
    def client(self) -> Memphis:
        """
        The client of the current application. The first use in a process connects.

        Raises:
            UsageError: There is no application context, or its application was not set up.
            ConfigurationError, ConnectError, AuthenticationError: As memphis_sync.connect(); the next use tries again.
        """
        if not flask.has_app_context():
            raise UsageError(
                "there is no application context; in a thread or a script use client_for(app), or keep the client: "
                "it needs no context"
            )
        return self.client_for(flask.current_app)

    def client_for(self, app: flask.Flask) -> Memphis:
        """
        The client of an application, for threads and scripts: no context is needed. Otherwise as `client`.

            client = memphis.client_for(app)

        Raises:
            UsageError: The application was not set up.
            ConfigurationError, ConnectError, AuthenticationError: As `client`.
        """
        app = _unwrapped(app)
        return self._shared(app).get(lambda: _Config(app.config, self._prefix).arguments)

    def _shared(self, app: flask.Flask) -> SharedClient:
        shared = self._clients.get(app)
        if shared is None:
            raise UsageError(f"the application {app.name!r} was not set up: call init_app(app) when it is created")
        return shared

    def __repr__(self) -> str:
        return f"<FlaskMemphis {self._prefix}>"


def _unwrapped(app: flask.Flask) -> flask.Flask:
    """The application itself, also behind current_app."""
    unwrap = getattr(app, "_get_current_object", None)
    return app if unwrap is None else unwrap()


def _loaded(path: str, extension: FlaskMemphis) -> Handler:
    """A handler by its path, which is for this extension."""
    try:
        loaded = load_handler(path)
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    if loaded.alias not in (_DEFAULT, extension._name):
        raise click.UsageError(
            f"{path} is for the alias {loaded.alias!r}, and this command for {extension._name!r}; start the command "
            "that is named like the alias, or leave the alias out"
        )
    return loaded


# ---- commands ------------------------------------------------------------------------------------------------------


def _commands(extension: FlaskMemphis) -> AppGroup:
    """``flask memphis``."""
    group = AppGroup("memphis", help="Look at the broker, create stations, handle messages.")

    def current() -> flask.Flask:
        return _unwrapped(flask.current_app)

    @group.command("ping")
    def ping() -> None:
        """Measure a round trip to the broker."""
        try:
            seconds = extension.client.ping(5.0)
        except MemphisError as exc:
            raise click.ClickException(str(exc)) from exc
        click.echo(f"{1000 * seconds:.3f} ms")

    @group.command("stations")
    @click.option("--check", is_flag=True, help="Create nothing; exit with 1 if a station is missing or differs.")
    def stations(*, check: bool) -> None:
        """Create the stations of the config that are missing, and print how the others differ from it."""
        is_as_told = True
        try:
            wanted = _Config(current().config, extension._prefix).stations
            for station in compare(extension.client, wanted, creates=not check):
                is_as_told = is_as_told and station.is_as_told
                for text in station.texts:
                    click.echo(f"{station.name}: {text}")
        except MemphisError as exc:
            raise click.ClickException(str(exc)) from exc
        if not wanted:
            click.echo(f"the config lists no stations in {extension._prefix}_STATIONS", err=True)
        if check and not is_as_told:
            raise click.exceptions.Exit(1)

    @group.command("consume")
    @click.argument("handler", metavar="PACKAGE.MODULE:FUNCTION")
    @click.option("--batch-size", type=click.IntRange(1, Memphis.MAX_BATCH_SIZE), help="Instead of the handler's own.")
    @click.option("--max-messages", type=click.IntRange(1), help="End after so many messages.")
    @click.option(
        "--idle-exit",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="End when nothing has come for so long.",
    )
    def consume(
        handler: str, batch_size: Optional[int], max_messages: Optional[int], idle_exit: Optional[float]
    ) -> None:
        """
        Handle messages, each in an application context of its own.

        A function that memphis_sync.handler() has marked; SIGTERM and Ctrl-C end it after the current message, a second
        one at once.
        """
        app, loaded = current(), _loaded(handler, extension)

        def around(_: Message) -> AbstractContextManager[Any]:
            return app.app_context()

        try:
            run_handler(
                extension.client,
                loaded,
                around=around,
                batch_size=batch_size,
                max_messages=max_messages,
                idle_exit_s=idle_exit,
                stop_signals=(signal.SIGTERM, signal.SIGINT),
            )
        except MemphisError as exc:
            raise click.ClickException(str(exc)) from exc
        finally:
            extension._shared(app).close()

    return group
