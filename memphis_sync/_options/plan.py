"""Checks the arguments of connect() without connecting: for settings that are read long before their first use."""

from __future__ import annotations

from dataclasses import dataclass

from memphis_sync._options.connect import connect_options
from memphis_sync._options.rows import takes
from memphis_sync._options.table import ConnectArguments
from memphis_sync._options.url import is_loopback
from memphis_sync.types import ServerAddress


@dataclass(frozen=True)
class ConnectPlan:
    """
    Where connect() goes with certain arguments, from check_connect(). No secret is in it.

    Attributes:
        name: The client's.
        addresses: The brokers, in the order in which they are tried.
        username: Of the login; "" where there is none.
        is_tls: Whether both connections use TLS.
        is_local: Whether only this machine can be meant: every address is of its loopback.
    """

    name: str
    addresses: tuple[ServerAddress, ...]
    username: str
    is_tls: bool
    is_local: bool


@takes(ConnectArguments)
def check_connect(given: ConnectArguments) -> ConnectPlan:
    """
    Checks the arguments of connect(), the URL among them, and opens nothing; files that they name are read.

        plan = memphis_sync.check_connect("memphis://shop:secret@broker/?timeout_ms=500")
        print(plan.addresses[0], plan.is_tls)

    Returns:
        What connect() would do.

    Raises:
        ConfigurationError: As connect().
        TypeError: There is no such argument; the text has the nearest name.
    """
    options = connect_options(given)
    return ConnectPlan(
        name=options.name,
        addresses=options.addresses,
        username=options.credentials.username or "",
        is_tls=options.tls is not None,
        is_local=options.is_memory or all(is_loopback(address.host) for address in options.addresses),
    )
