"""Hosts: which of them mean this machine, and which URLs are refused with which words."""

from __future__ import annotations

import pytest

from memphis_sync._options.connect import connect_options
from memphis_sync._options.table import ConnectArguments
from memphis_sync._options.url import is_loopback
from memphis_sync.broker import BrokerOptions
from memphis_sync.errors import ConfigurationError

HERE = ["127.0.0.1", "127.1.2.3", "127.255.255.255", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"]
ELSEWHERE = [
    *("localhost.evil.example", "127.0.0.1.nip.io", "localhost.", "localhost.localdomain", "localhost6", "127.evil"),
    *("0.0.0.0", "::", "", "::10", "::1.example", "[::1].example", "128.0.0.1", "1270.0.0.1", "10.0.0.127", "b1"),
    *("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "fe80::1%lo", "::ffff:10.0.0.1", "evil-localhost"),
]


@pytest.mark.parametrize("host", HERE)
def test_only_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_somebody_else_may_be_meant(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0"])
def test_a_broker_that_others_can_reach_knows_it(host: str) -> None:
    assert not BrokerOptions(host=host, port=1).is_loopback


def options_of(host, **given):
    return connect_options(ConnectArguments(host, **given), {})


@pytest.mark.parametrize(
    "url",
    [
        *("http://root:canary@b1:6666", "https://root:canary@b1", "HTTP://b1:6666", "http://b1/path", "https://b1?a=b"),
        *("kafka://b1", "nats://root:canary@b1", "amqp://b1:5672", "ws://b1", "memphis+tcp://b1", "http://[::1]:6666"),
    ],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_another_scheme_is_named_with_those_that_there_are(url: str, by_environment: bool) -> None:
    environ, host = ({"MEMPHIS_URL": url}, None) if by_environment else ({}, url)
    with pytest.raises(ConfigurationError) as caught:
        connect_options(ConnectArguments(host), environ)
    text = str(caught.value)
    assert repr(url.partition("://")[0]) in text
    assert "memphis, memphis+tls, tls" in text
    assert "memphis://user:password@host:port" in text
    assert ("memphis_sync.http.connect()" in text) == (url.lower().startswith("http"))
    assert "canary" not in text


@pytest.mark.parametrize("url", ["http://b1", "https://b1/"])
def test_a_bare_name_behind_http_is_a_host_but_no_url(url: str) -> None:
    login = {"username": "u", "password": "p"}
    assert str(options_of(url, **login).addresses[0]) == "b1:6666"
    with pytest.raises(ConfigurationError, match="memphis, memphis\\+tls, tls"):
        connect_options(ConnectArguments(), {"MEMPHIS_URL": url})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("memphis://u:p@[::1]:6666", "[::1]:6666"),
        ("memphis://u:p@[::1]", "[::1]:6666"),
        ("memphis://u:p@[2001:DB8::1]:1,[::1]:2", "[2001:DB8::1]:1"),
        ("memphis://u:p@[fe80::1%25eth0]:7", "[fe80::1%eth0]:7"),
        ("memphis://u:p@[fe80::1%eth0]", "[fe80::1%eth0]:6666"),
    ],
)
def test_addresses_of_ipv6(url: str, address: str) -> None:
    assert str(options_of(url).addresses[0]) == address


@pytest.mark.parametrize("host", ["::1", "[::1]", "fe80::1%eth0"])
def test_addresses_of_ipv6_as_an_argument(host: str) -> None:
    (address,) = options_of(host, username="u", password="p").addresses
    assert str(address) == f"[{host.strip('[]')}]:6666"


@pytest.mark.parametrize("url", ["memphis://u:canary@::1", "memphis://u:canary@[::1", "memphis://u:canary@[b1]:1"])
def test_addresses_of_ipv6_that_are_written_otherwise(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"brackets|\[::1\]") as caught:
        options_of(url)
    assert "canary" not in str(caught.value)
