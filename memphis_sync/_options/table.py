"""
The options of connect(): one row per option, in the order of the parameters, and their texts.

The parameters of memphis.py come first and may be passed by position. The reason of a default is beside it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Callable, Optional, Union

from memphis_sync._base.observers import Observers
from memphis_sync._options.checks import (
    MAX_TIME_MS,
    check_account_id,
    check_bool,
    check_client_name,
    check_fsync,
    check_observers,
    check_optional_callable,
    check_outbox,
    check_path,
    check_retry,
    check_secret,
    check_username,
    int_in,
    seconds_from,
)
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._options.tls import check_context
from memphis_sync.observer import Observer
from memphis_sync.types import Credentials, JsonDefault, LinkEvent, RetryPolicy, ServerAddress

Event = Optional[Callable[[LinkEvent], object]]
FilePath = Union[str, os.PathLike[str]]


@arguments
class ConnectArguments(Arguments):
    """
    The parameters of connect() and of Memphis.connect().

    Args:
        host: A host name, an IP address, or a URL ``memphis://user:password@host:port,host2/?option=value``, whose
            query accepts the names of these arguments and ``auth=token`` (the password is a connection token). Without
            it the environment is read: MEMPHIS_URL, or the variables that are named below (MEMPHIS_PASSWORD_FILE and
            MEMPHIS_TOKEN_FILE name mounted secrets). Arguments and environment are not mixed.
        username: The broker's user, without account.
        account_id: From 1; only cloud brokers have others.
        connection_token: For a broker in token mode; exactly one of this and *password*.
        password: For a broker in password mode.
        port: 1 to 65535; for hosts without a port.
        reconnect: Whether to connect again after an outage.
        max_reconnect: Attempts for each address in one outage; -1: no limit.
        reconnect_interval_ms: Longest pause between attempts, from 1; each pause is a random one of at least half of
            it. In the first minute of an outage a client tries at least twice a second, so that it is back soon after
            its broker.
        timeout_ms: For the whole call, all hosts together, and for each attempt to reconnect; from 1.
        cert_file: PEM file with a client certificate; needs *key_file*.
        key_file: PEM file with its key, not encrypted.
        ca_file: PEM file with the CAs to trust; turns TLS on. With ``memphis+tls://`` (or ``tls://``) the default is
            the system's.
        tls: A context instead of the three files; it is used unchanged, also for the check of host names.
        name: Shown in logs and reprs.
        outbox_max_bytes: Space for messages that are not confirmed yet, from 65536.
        outbox_max_messages: The same as a number of messages, from 1.
        outbox: A file for messages that are not confirmed yet, a path: they outlive the process, and the next connect()
            with this path sends them before anything new; None: they are kept in memory. All of its space, about
            *outbox_max_bytes* and 32 bytes for each of *outbox_max_messages*, is taken at once. A file belongs to one
            client at a time; a forked child gets one of its own, ``PATH.<pid>``.
        fsync: What of *outbox* survives a power failure or a crash of the machine: ``"none"`` nothing for certain (a
            killed process loses nothing all the same); ``"second"`` what is older than a second; ``"produce"`` every
            message whose produce has returned, which then takes as long as a write to the disk.
        max_in_flight: How many written messages may be unconfirmed at once, from 1.
        exit_timeout_s: How long the end of the process waits for confirmations, and for callbacks that
            are running, in seconds; 0 does not wait.
        ping_interval_s: After this much silence the broker gets a PING, and after twice as much its connection counts
            as lost; in seconds, from 0.01.
        no_responders_retry: How often a message whose station was destroyed is sent again; None: one without responders
            fails at once, also while a cluster elects a leader.
        wait_s: How long to wait for a broker that is still starting, in seconds: hosts that refuse, are unknown or do
            not reply are tried again, each attempt within *timeout_ms*. Refused credentials are an error at once.
        on_disconnect: Called with a LinkEvent when a connection was lost. This and the next two run on the callbacks
            thread, one after the other; what they raise is logged and counted in ``stats().callback_errors``.
        on_reconnect: The same, when it is up again.
        on_error: The same, when a connection was given up, or the broker refused an operation on it.
        json_default: Called with each value inside a dict or list message that JSON has no form for (a datetime, a
            Decimal, a numpy number), like the ``default`` of ``json.dumps()``: returns what to send instead, or raises.
            It applies to stations with and without a schema. None: such a message is refused.
        observers: Objects with the methods of memphis_sync.Observer: what is told about each message, for traces and
            metrics.
    """

    host: Optional[str] = option(default=None, env="HOST")
    username: Optional[str] = option(check_username, default=None, env="USERNAME")
    account_id: int = option(check_account_id, default=1, url=True, env="ACCOUNT_ID")
    connection_token: str = option(check_secret, default="", env="TOKEN")
    password: str = option(check_secret, default="", env="PASSWORD")
    port: int = option(int_in(1, 65535), default=6666, env="PORT")  # the broker's own
    reconnect: bool = option(check_bool, default=True, url=True)
    max_reconnect: int = option(int_in(-1), default=-1, url=True)
    # As memphis.py; an outage of a second costs one attempt.
    reconnect_interval_ms: int = option(int_in(1, MAX_TIME_MS), default=1500, url=True)
    # As memphis.py, but for the whole connect().
    timeout_ms: int = option(int_in(1, MAX_TIME_MS), default=2000, url=True)
    cert_file: FilePath = option(check_path, default="", url=True, env="CERT_FILE")
    key_file: FilePath = option(check_path, default="", url=True, env="KEY_FILE")
    ca_file: FilePath = option(check_path, default="", url=True, env="CA_FILE")
    _: KW_ONLY
    tls: Optional[ssl.SSLContext] = option(check_context, default=None)
    name: str = option(check_client_name, default="memphis-sync", url=True)
    # About a second of the wire's own rate.
    outbox_max_bytes: int = option(int_in(65536, 2**40), default=64 * 1024 * 1024, url=True)
    # 48 bytes each, so about as much again.
    outbox_max_messages: int = option(int_in(1, 2**28), default=1_000_000, url=True)
    outbox: Optional[FilePath] = option(check_outbox, default=None, url=True, env="OUTBOX")
    # What most programs end by is a kill; a write to the disk costs a hundred times a produce.
    fsync: str = option(check_fsync, default="none", url=True, env="FSYNC")
    # Covers a round trip of 40 ms at 400,000 messages a second.
    max_in_flight: int = option(int_in(1, 2**20), default=16384, url=True)
    # Process managers send SIGKILL after 10 s and more.
    exit_timeout_s: float = option(seconds_from(0.0), default=5.0, url=True)
    # A stalled connection is lost after 40 s at most, and two PINGs a minute cost nothing; the least: a round trip on a
    # slow link must fit.
    ping_interval_s: float = option(seconds_from(0.01), default=20.0, url=True)
    no_responders_retry: Optional[RetryPolicy] = option(check_retry, default=RetryPolicy())
    # By default an unreachable broker is an error at once.
    wait_s: float = option(seconds_from(0.0), default=0.0, url=True, env="WAIT_S")
    on_disconnect: Event = option(check_optional_callable, default=None)
    on_reconnect: Event = option(check_optional_callable, default=None)
    on_error: Event = option(check_optional_callable, default=None)
    json_default: Optional[JsonDefault] = option(check_optional_callable, default=None)
    observers: Sequence[Observer] = option(check_observers, default=())


OPTIONS = ConnectArguments.ROWS


class ConnectOptions(ConnectArguments):
    """
    The checked arguments of connect(). Hosts, login and TLS are in these three attributes only.

    Attributes:
        addresses: The brokers, in the order in which they are tried.
        credentials: The login.
        tls: Context for both links; None for plain TCP.
        observing: The observers, the default ones too.
        is_memory: Whether there is no broker.
    """

    addresses: tuple[ServerAddress, ...]
    credentials: Credentials
    observing: Observers
    is_memory: bool
