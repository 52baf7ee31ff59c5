"""
What connect() may be told: one row an option, in the order of the parameters.

The parameters that memphis.py has come first and may be given by position. A default's reason stands beside it.
"""

from __future__ import annotations

import os
import ssl
from typing import Callable, Optional, Union

from memphis_sync._options.checks import (
    MAX_TIME_MS,
    check_account_id,
    check_bool,
    check_client_name,
    check_optional_callable,
    check_path,
    check_retry,
    check_secret,
    check_username,
    int_in,
    seconds_from,
)
from memphis_sync._options.rows import arguments, option, rows_of
from memphis_sync._options.tls import check_context
from memphis_sync.types import Credentials, JsonDefault, LinkEvent, RetryPolicy, ServerAddress

Event = Optional[Callable[[LinkEvent], object]]
FilePath = Union[str, os.PathLike[str]]


@arguments
class ConnectArguments:
    """The parameters of connect() and of Memphis.connect()."""

    host: Optional[str] = option(
        default=None,
        env="HOST",
        doc="A host name, an IP address, or a URL ``memphis://user:password@host:port,host2/?option=value``, whose "
        "query takes the names of these arguments and ``auth=token`` (the password is a connection token). Without it "
        "the environment is read: MEMPHIS_URL, else the variables that are named here (MEMPHIS_PASSWORD_FILE and "
        "MEMPHIS_TOKEN_FILE name mounted secrets). Arguments and environment are not mixed.",
    )
    username: Optional[str] = option(
        default=None, check=check_username, env="USERNAME", needs_host=True, doc="The broker's user, without account."
    )
    account_id: int = option(
        default=1,
        check=check_account_id,
        url=True,
        env="ACCOUNT_ID",
        needs_host=True,
        doc="From 1; only cloud brokers have others than 1.",
    )
    connection_token: str = option(
        default="",
        check=check_secret,
        env="TOKEN",
        needs_host=True,
        doc="For a broker in token mode; exactly one of this and *password*.",
    )
    password: str = option(
        default="", check=check_secret, env="PASSWORD", needs_host=True, doc="For a broker in password mode."
    )
    port: int = option(
        default=6666,  # the broker's own
        check=int_in(1, 65535),
        env="PORT",
        needs_host=True,
        doc="1 to 65535; for each host without one of its own.",
    )
    reconnect: bool = option(default=True, check=check_bool, url=True, doc="Whether to connect again after an outage.")
    max_reconnect: int = option(
        default=-1, check=int_in(-1), url=True, doc="Tries for each address in one outage; -1 has no limit."
    )
    reconnect_interval_ms: int = option(
        default=1500,  # as memphis.py; an outage of a second costs one try
        check=int_in(1, MAX_TIME_MS),
        url=True,
        doc="Longest pause between tries, from 1; at random from a half of it on. In the first minute of an outage a "
        "client tries at least twice a second, so that it is back soon after its broker.",
    )
    timeout_ms: int = option(
        default=2000,  # as memphis.py, but for the whole connect()
        check=int_in(1, MAX_TIME_MS),
        url=True,
        doc="For the whole call, all hosts together, and for each try of a reconnection; from 1.",
    )
    cert_file: FilePath = option(
        default="",
        check=check_path,
        url=True,
        env="CERT_FILE",
        needs_host=True,
        doc="PEM file with a client certificate; needs *key_file*.",
    )
    key_file: FilePath = option(
        default="",
        check=check_path,
        url=True,
        env="KEY_FILE",
        needs_host=True,
        doc="PEM file with its key, not encrypted.",
    )
    ca_file: FilePath = option(
        default="",
        check=check_path,
        url=True,
        env="CA_FILE",
        needs_host=True,
        doc="PEM file with the CAs to trust, enough by itself for TLS; with ``memphis+tls://`` (or ``tls://``) and "
        "without it, the system's.",
    )
    tls: Optional[ssl.SSLContext] = option(
        kw_only=True,
        default=None,
        check=check_context,
        needs_host=True,
        doc="A context of your own instead of the three files; it is used as it is, and so is its check of host names.",
    )
    name: str = option(
        kw_only=True, default="memphis-sync", check=check_client_name, url=True, doc="Shown in logs and reprs."
    )
    outbox_max_bytes: int = option(
        kw_only=True,
        default=64 * 1024 * 1024,  # holds about a second of the wire's own rate
        check=int_in(65536, 2**40),
        url=True,
        doc="Room for messages that are not confirmed yet, from 65536.",
    )
    outbox_max_messages: int = option(
        kw_only=True,
        default=1_000_000,  # 48 bytes of book-keeping each, so about as much again
        check=int_in(1, 2**28),
        url=True,
        doc="The same as a number of messages, from 1.",
    )
    max_in_flight: int = option(
        kw_only=True,
        default=16384,  # enough to cover a round trip of 40 ms at 400,000 messages a second
        check=int_in(1, 2**20),
        url=True,
        doc="How many written messages may be unconfirmed at once, from 1.",
    )
    exit_timeout_s: float = option(
        kw_only=True,
        default=5.0,  # process managers send SIGKILL after 10 s and more
        check=seconds_from(0.0),
        url=True,
        doc="How long the end of the process waits for confirmations, in seconds; 0 does not wait.",
    )
    ping_interval_s: float = option(
        kw_only=True,
        default=20.0,  # a stalled connection is lost after 40 s at most; two PINGs a minute cost nothing
        check=seconds_from(0.01),  # a round trip on a slow link must fit
        url=True,
        doc="A broker that is silent for so long is asked, and its connection counts as lost after twice as long; in "
        "seconds, from 0.01.",
    )
    no_responders_retry: Optional[RetryPolicy] = option(
        kw_only=True,
        default=RetryPolicy(),
        check=check_retry,
        doc="How often a message whose station does not answer is sent again; None: it fails at once.",
    )
    wait_s: float = option(
        kw_only=True,
        default=0.0,  # a broker that is away is an error at once, unless the program says that it starts with it
        check=seconds_from(0.0),
        url=True,
        env="WAIT_S",
        doc="How long to wait for a broker that is not there yet, in seconds: refused, unknown or silent hosts are "
        "tried again for so long, each try within *timeout_ms*. Refused credentials are an error at once.",
    )
    on_disconnect: Event = option(
        kw_only=True,
        default=None,
        check=check_optional_callable,
        doc="Called with a LinkEvent when a connection was lost. This and the next two run on the callbacks thread, "
        "one after the other; what they raise is logged and counted in ``stats().callback_errors``.",
    )
    on_reconnect: Event = option(
        kw_only=True, default=None, check=check_optional_callable, doc="The same, when it is there again."
    )
    on_error: Event = option(
        kw_only=True,
        default=None,
        check=check_optional_callable,
        doc="The same, when a connection was given up, or the broker refused an operation on it.",
    )
    json_default: Optional[JsonDefault] = option(
        kw_only=True,
        default=None,
        check=check_optional_callable,
        doc="Called with each value inside a dict or list message that JSON has no form for (a datetime, a Decimal, a "
        "numpy number), as ``json.dumps(default=...)`` calls its own: returns what is sent in its place, and raises "
        "for what it does not know. It holds for stations with and without a schema. None: such a message is refused.",
    )


OPTIONS = rows_of(ConnectArguments)


class ConnectOptions(ConnectArguments):
    """
    What connect() was told, checked. Where and who is in the first two attributes and in ``tls`` only.

    Attributes:
        addresses: The brokers, in the order in which they are tried.
        credentials: Who is connecting.
        tls: Context for both links, None for plain TCP.
    """

    addresses: tuple[ServerAddress, ...]
    credentials: Credentials
