"""Certificates made on the spot, and a broker that serves TLS with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

import pytest
import trustme
from fix_broker import READY_S

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess


class Certificate(NamedTuple):
    """PEM files of a certificate with its chain, and of its key."""

    cert: Path
    key: Path


class Authority:
    """A CA with a folder for what it issues."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._numbers = itertools.count(1)
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, is_expired: bool = False) -> Certificate:
        """A certificate for these hosts, addresses or people, good for a server and for a client."""
        number = next(self._numbers)
        made = Certificate(self._folder / f"cert-{number}.pem", self._folder / f"key-{number}.pem")
        until = datetime.now(timezone.utc) - timedelta(days=1) if is_expired else None
        issued = self._ca.issue_cert(*names, not_after=until)
        made.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(made.key)
        return made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA whose certificates the tests' servers have."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture(scope="session")
def tls_broker(authority: Authority) -> Iterator[BrokerProcess]:
    """An ephemeral broker for the whole session that takes nothing but TLS, as 127.0.0.1 and localhost."""
    from memphis_sync.broker import BrokerOptions, BrokerProcess

    made = authority.issue("127.0.0.1", "localhost")
    options = BrokerOptions(port=0, ephemeral=True, tls_cert=made.cert, tls_key=made.key)
    with BrokerProcess(options, timeout_s=READY_S) as process:
        yield process


@pytest.fixture
def broker_with(fresh_broker: Callable[..., BrokerProcess]) -> Callable[..., BrokerProcess]:
    """``broker_with(certificate, **options)``: a broker of the test's own that has this certificate."""

    def start(certificate: Certificate, **options: object) -> BrokerProcess:
        return fresh_broker(tls_cert=certificate.cert, tls_key=certificate.key, **options)

    return start
