"""
Every argument of the public calls is checked here, before any IO.

Each failure is a ConfigurationError that names the option, the value and the bound. A password or a token is never
shown: such options go through check_secret. Where the arguments of ``connect()`` come from: the arguments, else the
environment, never a mixture (a password from the environment must not go to a host from an argument, nor the reverse).
"""

from __future__ import annotations

import functools
import inspect
import ipaddress
import math
import numbers
import operator
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, Callable, Optional, TypeVar, Union

from memphis_sync._options.tls import check_context, file_context
from memphis_sync._options.url import ParsedUrl, looks_like_url, parse_url
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import ConnectOptions, Credentials, RetryPolicy, ServerAddress

DEFAULT_PORT = 6666  # the broker's own
DEFAULT_NAME = "memphis-sync"
DEFAULT_RECONNECT_INTERVAL_MS = 1500  # as memphis.py; an outage of a second costs one try
DEFAULT_TIMEOUT_MS = 2000  # as memphis.py, but for the whole connect()
DEFAULT_OUTBOX_MAX_BYTES = 64 * 1024 * 1024  # holds about a second of the wire's own rate
DEFAULT_OUTBOX_MAX_MESSAGES = 1_000_000  # 48 bytes of book-keeping each, so about as much again
DEFAULT_MAX_IN_FLIGHT = 16384  # enough to cover a round trip of 40 ms at 400,000 messages a second
DEFAULT_EXIT_TIMEOUT_S = 5.0  # process managers send SIGKILL after 10 s and more
DEFAULT_PING_INTERVAL_S = 20.0  # a stalled connection is lost after 40 s at most; two PINGs a minute cost nothing
DEFAULT_NO_RESPONDERS_RETRY = RetryPolicy()
DEFAULT_WAIT_S = 0.0  # a broker that is away is an error at once, unless the program says that it starts with it
LEAST_PING_INTERVAL_S = 0.01  # a round trip on a slow link must fit
MAX_RETRY_ATTEMPTS = 100
MAX_RETRY_PAUSE_MS = 60_000

MAX_BATCH_SIZE = 5000  # the limit of every Memphis SDK
MAX_TIME_MS = 24 * 3600 * 1000
_HOST_RE = re.compile(r"[\w.:%-]+\Z")
_NAME_RE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_ENV_NAMES = (
    *("HOST", "PORT", "USERNAME", "PASSWORD", "TOKEN", "ACCOUNT_ID"),
    *("CA_FILE", "CERT_FILE", "KEY_FILE", "WAIT_S"),
)

_CALLABLES = ("on_disconnect", "on_reconnect", "on_error", "json_default")

E = TypeVar("E", bound=Enum)


def check_int(option: str, value: object, low: int, high: Optional[int] = None) -> int:
    """
    A whole number within low..high, both included; a bool is not a number here.

    Returns:
        An int, also for other types that are whole numbers (those of numpy): use it, not *value*.
    """
    bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
    number = as_int(value)
    if number is None:
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be a whole number {bound}")
    if number < low or (high is not None and number > high):
        raise ConfigurationError(f"{option} is {number}; it must be a whole number {bound}")
    return number


def as_int(value: object) -> Optional[int]:
    """An int, or what says of itself that it is one (``__index__``); None for anything else, a bool included."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or is_numpy_bool(value) or not hasattr(type(value), "__index__"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # an array of numpy's that holds more than one number, or none
        return None


def is_numpy_bool(value: object) -> bool:
    """Whether a value is numpy's True or False, or an array of them: older versions took them for 1 and 0."""
    return getattr(getattr(value, "dtype", None), "kind", None) == "b"


def check_seconds(option: str, value: object, *, allow_zero: bool = True, least: float = 0.0) -> float:
    """A finite, non-negative number of seconds, at most a day."""
    bound = f"a number of seconds {f'from {least:g}' if allow_zero else 'above 0'} to {MAX_TIME_MS // 1000}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be {bound}")
    try:
        seconds = float(value)
    except OverflowError:  # an int of more than 308 digits
        seconds = math.inf
    is_within = math.isfinite(seconds) and least <= seconds <= MAX_TIME_MS / 1000
    if not is_within or (seconds == 0 and not allow_zero):
        raise ConfigurationError(f"{option} is {show(value)}; it must be {bound}")
    return seconds


def check_bool(option: str, value: object) -> bool:
    """True or False, nothing that merely behaves like it."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{option} is {_show_no_text(value)}; it must be True or False")
    return value


def check_callable(
    option: str, value: object, *, parameters: Optional[str] = None, is_optional: bool = False
) -> Callable[..., object]:
    """
    A plain function, or whatever is called like one: nothing whose call only makes a coroutine or a generator, for
    nobody would run that.

    Args:
        parameters: What it is called with, "messages, error, context": then it must take so many. One that does not
            tell what it takes, as some builtins, is believed.
        is_optional: Whether None would do as well, for the error.
    """
    kind = type(value)
    if kind is not FunctionType or value.__code__.co_flags & _RUNS_LATER:  # type: ignore[attr-defined]
        if not callable(value):
            raise ConfigurationError(
                f"{option} is {show(value)}; it must be callable{' or None' if is_optional else ''}"
            )
        if any(is_kind(one) for one in _as_called(value) for is_kind in _KINDS_THAT_RUN_LATER):
            raise ConfigurationError(
                f"{option} is {_name_of(value)}, a coroutine function or a generator: calling it runs nothing of it. "
                "It must be a plain function; one that hands work to an event loop may call "
                "asyncio.run_coroutine_threadsafe()"
            )
    if parameters is not None:
        _check_parameters(option, value, parameters)  # type: ignore[arg-type]
    return value  # type: ignore[return-value]


def check_optional_callable(option: str, value: object) -> Optional[Callable[..., object]]:
    """As check_callable(), or None."""
    return None if value is None else check_callable(option, value, is_optional=True)


_RUNS_LATER = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR
_KINDS_THAT_RUN_LATER = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)


def _as_called(value: object) -> Iterator[object]:
    """The object itself and what its call ends up in: through partials, and through the __call__ of its class."""
    while isinstance(value, functools.partial):
        value = value.func
    yield value
    if not inspect.isclass(value) and not inspect.isroutine(value):
        call = getattr(type(value), "__call__", None)  # noqa: B004  not whether there is one: which
        while isinstance(call, functools.partial):
            call = call.func
        yield call


def _name_of(value: object) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)


def _check_parameters(option: str, value: Callable[..., object], parameters: str) -> None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*parameters.split(", "))
    except TypeError as exc:
        raise ConfigurationError(
            f"{option} is {_name_of(value)}{signature}, which cannot be called with ({parameters}): {exc}"
        ) from None


def check_retry(option: str, value: object) -> Optional[RetryPolicy]:
    """A RetryPolicy within its bounds, or None."""
    if value is None:
        return None
    if not isinstance(value, RetryPolicy):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a RetryPolicy or None")
    return RetryPolicy(
        check_int(f"{option}.attempts", value.attempts, 1, MAX_RETRY_ATTEMPTS),
        check_int(f"{option}.pause_ms", value.pause_ms, 1, MAX_RETRY_PAUSE_MS),
    )


def check_str(option: str, value: object, *, empty_ok: bool = True) -> str:
    """A str. The value is shown when it is wrong; a secret goes through check_secret."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a str")
    if not value and not empty_ok:
        raise ConfigurationError(f"{option} is empty; it needs at least one character")
    return value


def check_path(option: str, value: object, *, empty_ok: bool = True) -> str:
    """A path as a str, from a str or an os.PathLike of one (a pathlib.Path)."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a str or an os.PathLike of one")
    return check_str(option, value, empty_ok=empty_ok)


def check_secret(option: str, value: object) -> str:
    """A str that no error may show."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} is of type {type(value).__name__}; it must be a str")
    return value


def check_enum(option: str, value: object, kind: type[E]) -> E:
    """A member of *kind*, or the text of one (its value or its name)."""
    if isinstance(value, kind):
        return value
    for member in kind:
        if isinstance(value, str) and value in (member.value, member.name):
            return member
    allowed = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
    raise ConfigurationError(f"{option} is {show(value)}; it must be one of {allowed}")


def check_client_name(value: object) -> str:
    """The name of a client: shown in logs and reprs, and the default name of its producers, so the same rule."""
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > 128 or not _NAME_RE.match(value):
        raise ConfigurationError(
            f"name is {show(value)}; it must be 1 to 128 ASCII letters, digits, '_', '-' or '.', "
            "with a letter or digit at both ends"
        )
    return value


def build_connect_options(
    *,
    host: Optional[str],
    username: Optional[str],
    account_id: int,
    connection_token: str,
    password: str,
    port: int,
    cert_file: Union[str, os.PathLike[str]],
    key_file: Union[str, os.PathLike[str]],
    ca_file: Union[str, os.PathLike[str]],
    tls: object = None,
    environ: Optional[Mapping[str, str]] = None,
    **others: Any,
) -> ConnectOptions:
    """
    Turns the arguments of ``connect()``, by their names, into checked options. *environ* is read only without a host.

    Raises:
        ConfigurationError: Anything is missing, of the wrong type, out of its bounds or contradictory.
    """
    values: dict[str, Any] = {
        "host": host,
        "username": username,
        "account_id": account_id,
        "connection_token": connection_token,
        "password": password,
        "port": port,
        "cert_file": cert_file,
        "key_file": key_file,
        "ca_file": ca_file,
        "ping_interval_s": DEFAULT_PING_INTERVAL_S,
        "no_responders_retry": DEFAULT_NO_RESPONDERS_RETRY,
        "wait_s": DEFAULT_WAIT_S,
        "tls": tls,
        **others,
    }
    for secret in ("password", "connection_token"):
        check_secret(secret, values[secret])
    if host is None:
        _take_environment(values, os.environ if environ is None else environ)
    url: Optional[ParsedUrl] = None
    where = check_str("host", values["host"], empty_ok=False) if values["host"] is not None else ""
    if looks_like_url(where):
        url = parse_url(where, frozenset(_QUERY_TYPES))
        _take_url(values, url)
    checked: dict[str, Any] = {
        "reconnect": check_bool("reconnect", values["reconnect"]),
        "max_reconnect": check_int("max_reconnect", values["max_reconnect"], -1),
        "reconnect_interval_ms": check_int("reconnect_interval_ms", values["reconnect_interval_ms"], 1, MAX_TIME_MS),
        "timeout_ms": check_int("timeout_ms", values["timeout_ms"], 1, MAX_TIME_MS),
        "outbox_max_bytes": check_int("outbox_max_bytes", values["outbox_max_bytes"], 65536, 2**40),
        "outbox_max_messages": check_int("outbox_max_messages", values["outbox_max_messages"], 1, 2**28),
        "max_in_flight": check_int("max_in_flight", values["max_in_flight"], 1, 2**20),
        "exit_timeout_s": check_seconds("exit_timeout_s", values["exit_timeout_s"]),
        "ping_interval_s": check_seconds("ping_interval_s", values["ping_interval_s"], least=LEAST_PING_INTERVAL_S),
        "no_responders_retry": check_retry("no_responders_retry", values["no_responders_retry"]),
        "wait_s": check_seconds("wait_s", values["wait_s"]),
        **{name: check_optional_callable(name, values.get(name)) for name in _CALLABLES},
    }
    return ConnectOptions(
        addresses=_addresses(where, check_int("port", values["port"], 1, 65535), url),
        credentials=_credentials(values),
        name=check_client_name(values["name"]),
        tls=_tls_context(values, wanted=url is not None and url.tls),
        **checked,
    )


# What a URL's query and an environment variable may hold, and how its text becomes a value.
_QUERY_TYPES: dict[str, type] = {
    "account_id": int,
    "reconnect": bool,
    "max_reconnect": int,
    "reconnect_interval_ms": int,
    "timeout_ms": int,
    "cert_file": str,
    "key_file": str,
    "ca_file": str,
    "name": str,
    "outbox_max_bytes": int,
    "outbox_max_messages": int,
    "max_in_flight": int,
    "exit_timeout_s": float,
    "ping_interval_s": float,
    "wait_s": float,
}
_DEFAULTS: dict[str, Any] = {
    "username": None,
    "account_id": 1,
    "connection_token": "",
    "password": "",
    "port": DEFAULT_PORT,
    "reconnect": True,
    "max_reconnect": -1,
    "reconnect_interval_ms": DEFAULT_RECONNECT_INTERVAL_MS,
    "timeout_ms": DEFAULT_TIMEOUT_MS,
    "cert_file": "",
    "key_file": "",
    "ca_file": "",
    "tls": None,
    "name": DEFAULT_NAME,
    "outbox_max_bytes": DEFAULT_OUTBOX_MAX_BYTES,
    "outbox_max_messages": DEFAULT_OUTBOX_MAX_MESSAGES,
    "max_in_flight": DEFAULT_MAX_IN_FLIGHT,
    "exit_timeout_s": DEFAULT_EXIT_TIMEOUT_S,
    "ping_interval_s": DEFAULT_PING_INTERVAL_S,
    "wait_s": DEFAULT_WAIT_S,
}


def _take_environment(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Fills host and credentials from MEMPHIS_* variables; arguments that say where or who need a host beside them."""
    for option in (
        "username",
        "password",
        "connection_token",
        "account_id",
        "port",
        "cert_file",
        "key_file",
        "ca_file",
        "tls",
    ):
        if values[option] != _DEFAULTS[option]:
            raise ConfigurationError(
                f"{option} is given without host; give both, or neither and set MEMPHIS_URL (the two are never mixed)"
            )
    env = {name: environ.get(f"MEMPHIS_{name}", "") for name in ("URL", *_ENV_NAMES)}
    for secret in ("PASSWORD", "TOKEN"):
        env[secret] = _secret_from_environment(secret, environ)
    if env["URL"]:
        if "://" in env["URL"] and not looks_like_url(env["URL"]):
            parse_url(env["URL"], frozenset())  # http://name, which is fine as a host: the error names the scheme
        if not looks_like_url(env["URL"]):
            raise ConfigurationError("MEMPHIS_URL is not a URL; the form is memphis://user:password@host:port")
        values["host"] = env["URL"]
    elif env["HOST"]:
        values["host"] = env["HOST"]
        values["username"] = env["USERNAME"] or None
        for name in ("PORT", "ACCOUNT_ID"):
            if env[name]:
                values[name.lower()] = _environment_int(name, env[name])
        for name in ("CA_FILE", "CERT_FILE", "KEY_FILE"):
            values[name.lower()] = env[name]
        if env["WAIT_S"] and values["wait_s"] == DEFAULT_WAIT_S:
            values["wait_s"] = _environment_seconds("WAIT_S", env["WAIT_S"])
    else:
        raise ConfigurationError(
            "no broker is named: give host (a name or memphis://user:password@host:port) and username, "
            "or set MEMPHIS_URL, or MEMPHIS_HOST and MEMPHIS_USERNAME"
        )
    values["password"], values["connection_token"] = env["PASSWORD"], env["TOKEN"]


def _secret_from_environment(name: str, environ: Mapping[str, str]) -> str:
    """MEMPHIS_PASSWORD, or the content of the file that MEMPHIS_PASSWORD_FILE names (a mounted secret)."""
    direct, path = environ.get(f"MEMPHIS_{name}", ""), environ.get(f"MEMPHIS_{name}_FILE", "")
    if direct and path:
        raise ConfigurationError(f"MEMPHIS_{name} and MEMPHIS_{name}_FILE are both set; unset one")
    if not path:
        return direct
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
    raise ConfigurationError(f"MEMPHIS_{name}_FILE is {path!r}, which cannot be read: {reason}")


def _environment_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        hint = ""
        if "://" in text:
            hint = "; Kubernetes sets this variable for a service called memphis: set MEMPHIS_URL instead"
        raise ConfigurationError(f"MEMPHIS_{name} is {text!r}; it must be a whole number{hint}") from None


def _environment_seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"MEMPHIS_{name} is {text!r}; it must be a number of seconds") from None


def _take_url(values: dict[str, Any], url: ParsedUrl) -> None:
    """Puts the URL's parts into *values*; an argument that differs from its default wins over the URL."""
    for option, text in url.options.items():
        if values[option] == _DEFAULTS[option]:
            values[option] = _from_text(option, text, _QUERY_TYPES[option])
    if values["username"] is None:
        values["username"] = url.username
    if not values["password"] and not values["connection_token"] and url.secret:
        values["connection_token" if url.is_token else "password"] = url.secret


def _from_text(option: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise ConfigurationError(f"{option} in the URL is {text!r}; it must be true or false")
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ConfigurationError(f"{option} in the URL is {text!r}; it must be {noun}") from None


def _addresses(where: str, port: int, url: Optional[ParsedUrl]) -> tuple[ServerAddress, ...]:
    if url is not None:
        hosts: Iterable[tuple[str, Optional[int]]] = url.hosts
    else:
        lowered = where.lower()
        for prefix in ("http://", "https://"):  # the official SDKs cut these off; neither implies TLS
            if lowered.startswith(prefix):
                where = where[len(prefix) :].rstrip("/")
                break
        if where.startswith("[") and where.endswith("]"):
            where = where[1:-1]
        hosts = [(where, None)]
    found: list[ServerAddress] = []
    for name, own_port in hosts:
        # The text may be a URL that somebody broke, password and all, so only a plain word is shown.
        if not _HOST_RE.match(name):
            raise ConfigurationError(
                "host holds a character that no host name has; give a name, an IP address or "
                "memphis://user:password@host:port"
            )
        if ":" in name and not _is_ipv6(name):
            raise ConfigurationError(
                "host holds a ':'; give the port as port=..., or a URL memphis://user:password@host:port"
            )
        address = ServerAddress(name, port if own_port is None else own_port)
        if address not in found:
            found.append(address)
    return tuple(found)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.partition("%")[0])  # the part behind the % is the interface
    except ValueError:
        return False
    return True


def _credentials(values: Mapping[str, Any]) -> Credentials:
    if isinstance(values["account_id"], str):
        raise ConfigurationError(
            "account_id is a str; it must be a whole number. If it was meant to be the password, write password=..."
        )
    account_id = check_int("account_id", values["account_id"], 1, 2**31 - 1)
    if values["username"] is None:
        raise ConfigurationError("username is missing; give username=..., or memphis://user:password@host:port as host")
    username = check_str("username", values["username"], empty_ok=False)
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in username) or "$" in username or "::" in username:
        raise ConfigurationError(
            f"username is {show(username)}; it must hold no blank, no control character, no '$' "
            "(the account goes into account_id) and no '::'"
        )
    password, token = values["password"], values["connection_token"]
    if bool(password) == bool(token):
        given = "both are" if password else "neither is"
        raise ConfigurationError(
            f"You have to connect with one of the following methods: connection token / password; {given} given "
            "(connection_token, password)"
        )
    return Credentials(username, password or None, token or None, account_id)


def _tls_context(values: Mapping[str, Any], *, wanted: bool) -> Optional[ssl.SSLContext]:
    """The context for both links, or None for plain TCP. A CA alone is enough; without one the system's are trusted."""
    cert, key, ca = (check_path(option, values[option]) for option in ("cert_file", "key_file", "ca_file"))
    context = check_context(values["tls"])
    if context is not None:
        if cert or key or ca:
            raise ConfigurationError("tls excludes ca_file, cert_file and key_file: load them into the context")
        return context
    return file_context(ca, cert, key) if wanted or cert or key or ca else None


def show(value: object) -> str:
    """A short form of a wrong value."""
    text = (
        repr(value)
        if isinstance(value, (str, int, float, bool, type(None), Enum))
        else f"of type {type(value).__name__}"
    )
    return text if len(text) <= 80 else f"{text[:77]}..."


def _show_no_text(value: object) -> str:
    """The same where a number or a switch is wanted: a text there may be a password that stands in the wrong place."""
    return "a str" if isinstance(value, str) else show(value)
