"""How the client over HTTP gets to its gateway: URLs, proxies, certificates, and what the environment says of them."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

import memphis_sync
import memphis_sync.http
from memphis_sync import ConfigurationError, ConnectError
from memphis_sync.http.client.settings import parse_address

LOGIN = {"username": "root", "password": "memphis"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CAS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES), *CAS, "MEMPHIS_HTTP_URL"):
        monkeypatch.delenv(name, raising=False)


# ---- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "base", "login"),
    [
        ("https://gateway:4444", "https://gateway:4444", (None, None)),
        ("HTTPS://gateway", "https://gateway:443", (None, None)),
        ("http://gateway/", "http://gateway:80", (None, None)),
        ("https://gateway/memphis/v1/", "https://gateway:443/memphis/v1", (None, None)),
        ("http://[::1]:4444", "http://[::1]:4444", (None, None)),
        ("https://root:p%40ss%2Fw@gateway:1", "https://gateway:1", ("root", "p@ss/w")),
        ("https://root@gateway:1", "https://gateway:1", ("root", None)),
    ],
)
def test_a_url_is_taken_apart(url: str, base: str, login: Any) -> None:
    found = parse_address(url)
    assert (found.base, (found.username, found.password)) == (base, login)


@pytest.mark.parametrize(
    "url",
    [
        *("", "gateway:4444", "gateway", "ftp://gateway", "https://", "https://:4444", "https://gateway:0"),
        *(
            "https://gateway:x",
            "https://a,b",
            "https://gateway?a=b",
            "https://gateway#a",
            "https://root:can/ary@gateway",
        ),
        *(
            "https://root:can@ary@gateway",
            "https://root:can?ary@gateway",
            "https://root:can:ary@gateway",
            "https://gate way",
        ),
        *(
            "https://gateway/../x",
            "https://gateway/a b",
            "https://gateway/%2e",
            "https://gateway\n",
            "https://.gateway.",
        ),
        *(
            "memphis://root:canary@gateway:6666",
            "tls://root:canary@gateway",
            "canary@gateway",
            "https://::1",
            "https://.a.",
        ),
    ],
)
def test_a_url_that_cannot_be_understood_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        memphis_sync.http.connect(url, **LOGIN)
    for secret in ("canary", "ary@", "can@", "can/"):
        assert secret not in str(caught.value)


def test_a_brokers_url_names_the_other_connect_and_the_reverse() -> None:
    with pytest.raises(ConfigurationError, match=r"memphis_sync\.connect\(\)"):
        memphis_sync.http.connect("memphis://gateway:6666", **LOGIN)
    for url in ("https://gateway:4444", "http://root:memphis@gateway", "https://gateway/path"):
        with pytest.raises(ConfigurationError, match=r"memphis_sync\.http\.connect\(\)"):
            memphis_sync.connect(url, **LOGIN)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"username": "root"}, "neither is given"),
        ({"username": "root", "password": "a", "connection_token": "b"}, "both are given"),
        ({"password": "canary"}, "username is missing; .* or https://user:password@gateway:4444 as host"),
        ({"username": "a$b", "password": "canary"}, "username"),
        ({"username": "root", "password": 7}, "password is of type int"),
        ({"username": "root", "password": "canary" * 200}, "password takes 1200 bytes"),
        ({"username": "root", "password": "canary", "timeout_ms": 0}, "timeout_ms"),
        ({"username": "root", "password": "canary", "account_id": "canary"}, "account_id"),
        ({"username": "root", "password": "canary", "ca_file": "/no/such"}, "ca_file is '/no/such'"),
        ({"username": "root", "password": "canary", "cert_file": "/no/such"}, "without key_file"),
        ({"username": "root", "password": "canary", "tls": True}, "tls is of type bool"),
        ({"username": "root", "password": "canary", "json_default": 7}, "json_default"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_named_and_no_secret_is_shown(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        memphis_sync.http.connect("https://gateway:4444", **arguments)
    assert "canary" not in str(caught.value)


def test_a_password_in_the_address_has_the_same_limit() -> None:
    with pytest.raises(ConfigurationError, match="password takes 1200 bytes") as caught:
        memphis_sync.http.connect(f"http://root:{'canary' * 200}@127.0.0.1:1")
    assert "canary" not in str(caught.value)


def test_a_context_excludes_files(authority: Any) -> None:
    with pytest.raises(ConfigurationError, match="tls excludes"):
        memphis_sync.http.connect("https://g", tls=ssl.create_default_context(), ca_file=authority.file, **LOGIN)


def test_an_argument_of_the_other_connect_gets_a_hint() -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout_ms'"):
        memphis_sync.http.connect("https://gateway", timeout=3)  # type: ignore[call-arg]


def test_the_environment_names_the_gateway(memphis_gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPHIS_HTTP_URL", memphis_gateway.url.replace("://", "://root:memphis@"))
    with memphis_sync.http.connect() as client:
        assert client.url == memphis_gateway.url
        assert client.username == "root"
    with pytest.raises(ConfigurationError, match="password is given without host"):
        memphis_sync.http.connect(password="canary")
    monkeypatch.delenv("MEMPHIS_HTTP_URL")
    with pytest.raises(ConfigurationError, match="MEMPHIS_HTTP_URL"):
        memphis_sync.http.connect()


def test_a_gateway_behind_a_path_is_found(memphis_gateway: Any) -> None:
    """What answers there is no gateway, but it was asked at the right place."""
    with pytest.raises(memphis_sync.AuthenticationError, match="/auth: the gateway answered 401"):
        memphis_sync.http.connect(memphis_gateway.url + "/auth/", **LOGIN)
    assert memphis_gateway.paths() == ["/auth/auth/authenticate"]


def test_a_token_takes_the_place_of_the_password(memphis_gateway: Any) -> None:
    with pytest.raises(memphis_sync.AuthenticationError):
        memphis_sync.http.connect(memphis_gateway.url, username="root", connection_token="canary", account_id=3)
    assert b'"connection_token": "canary"' in memphis_gateway.seen[0].body
    assert b'"account_id": 3' in memphis_gateway.seen[0].body
    assert b"password" not in memphis_gateway.seen[0].body


# ---- proxies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(
    memphis_gateway: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A proxy gets the whole URL, and here answers by itself."""
    monkeypatch.setenv(variable, memphis_gateway.url)
    with memphis_sync.http.connect("http://gateway.example:4444", **LOGIN) as client:
        client.produce("orders", b"x")
    assert {each.target.partition(".example")[0] for each in memphis_gateway.seen} == {"http://gateway"}


def test_a_port_where_nothing_listens_is_told_in_words(refused_address: Any) -> None:
    with pytest.raises(ConnectError, match="connection refused: nothing listens on that port"):
        memphis_sync.http.connect("http://{}:{}".format(*refused_address), **LOGIN)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_port_of_a_broker_is_told_from_that_of_a_gateway(broker: Any, scheme: str) -> None:
    with pytest.raises(ConnectError, match=r"a broker listens on that port.*memphis_sync\.connect\(\)"):
        memphis_sync.http.connect(f"{scheme}://127.0.0.1:{broker.port}", **LOGIN)


@pytest.mark.parametrize("names", ["127.0.0.1", "example.org,127.0.0.1", "*"])
def test_no_proxy_names_what_is_reached_directly(
    memphis_gateway: Any, refused_address: Any, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://{}:{}".format(*refused_address))
    with pytest.raises(ConnectError):
        memphis_sync.http.connect(memphis_gateway.url, **LOGIN)
    monkeypatch.setenv("NO_PROXY", names)
    memphis_sync.http.connect(memphis_gateway.url, **LOGIN).close()


@pytest.mark.parametrize("proxy", ["nonsense://root:canary@proxy", "socks5://root:canary@proxy:1"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        memphis_sync.http.connect("https://gateway:4444", **LOGIN)
    assert "canary" not in str(caught.value)


def test_a_proxy_that_refuses_says_so(memphis_gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no CONNECT."""
    monkeypatch.setenv("HTTPS_PROXY", memphis_gateway.url.replace("://", "://someone:canary@"))
    with pytest.raises(ConnectError, match="501") as caught:
        memphis_sync.http.connect("https://gateway.example:4444", **LOGIN)
    assert "canary" not in str(caught.value)


# ---- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(authority: Any, memphis_gateway_with: Callable[..., Any]) -> Any:
    """A gateway that serves HTTPS with a certificate of the tests' own CA."""
    made = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    return memphis_gateway_with(context)


def test_a_gateway_with_an_unknown_certificate_is_refused(secure: Any) -> None:
    with pytest.raises(ConnectError, match="the gateway's certificate was not issued by a CA that is trusted here"):
        memphis_sync.http.connect(secure.url, **LOGIN)
    assert secure.seen == []


def test_a_gateway_with_the_certificate_of_another_host_is_refused(
    authority: Any, memphis_gateway_with: Callable[..., Any]
) -> None:
    made = authority.issue("gateway.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    other = memphis_gateway_with(context)
    with pytest.raises(ConnectError, match="for another host"):
        memphis_sync.http.connect(other.url, ca_file=authority.file, **LOGIN)


def test_a_file_of_cas_and_a_context_are_used(secure: Any, authority: Any) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    for options in ({"ca_file": authority.file}, {"ca_file": Path(authority.file)}, {"tls": context}):
        with memphis_sync.http.connect(secure.url, **LOGIN, **options) as client:
            assert client.produce("orders", b"x")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_of_cas_in_the_environment_is_used(
    secure: Any, authority: Any, other_authority: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, authority.file)
    memphis_sync.http.connect(secure.url, **LOGIN).close()
    with pytest.raises(ConnectError):
        memphis_sync.http.connect(secure.url, ca_file=other_authority.file, **LOGIN)  # an argument wins


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_a_folder_of_cas_in_the_environment_is_used(
    secure: Any, authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    (ca,) = context.get_ca_certs(binary_form=True)
    (tmp_path / subject_hash(ca)).write_text(ssl.DER_cert_to_PEM_cert(ca))
    monkeypatch.setenv(variable, str(tmp_path))
    memphis_sync.http.connect(secure.url, **LOGIN).close()


def subject_hash(ca: bytes) -> str:
    """The name that a CA's file has in a folder of CAs: X509_NAME_hash() of OpenSSL."""
    subject = x509.load_der_x509_certificate(ca).subject
    plain = [x509.NameAttribute(each.oid, " ".join(str(each.value).lower().split())) for each in subject]
    encoded = x509.Name(plain).public_bytes()
    assert encoded[1] < 128  # a header of two bytes, which does not count
    return f"{int.from_bytes(hashlib.sha1(encoded[2:]).digest()[:4], 'little'):08x}.0"


@pytest.mark.parametrize("variable", CAS)
def test_a_variable_that_names_no_cas_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/no/such/file.pem")
    with pytest.raises(ConfigurationError, match=f"{variable} is '/no/such/file.pem'"):
        memphis_sync.http.connect("https://gateway:4444", **LOGIN)


def test_a_client_certificate_is_shown_to_a_gateway_that_asks(
    authority: Any, memphis_gateway_with: Callable[..., Any]
) -> None:
    made, own = authority.issue("127.0.0.1"), authority.issue("someone@example.org")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.load_cert_chain(made.cert, made.key)
    context.verify_mode = ssl.CERT_REQUIRED
    secure = memphis_gateway_with(context)
    with pytest.raises(ConnectError):
        memphis_sync.http.connect(secure.url, ca_file=authority.file, **LOGIN)
    given = {"ca_file": authority.file, "cert_file": own.cert, "key_file": own.key}
    memphis_sync.http.connect(secure.url, **LOGIN, **given).close()


def test_https_to_a_gateway_without_tls_says_what_is_wrong(memphis_gateway: Any) -> None:
    with pytest.raises(ConnectError, match="does not speak TLS"):
        memphis_sync.http.connect(memphis_gateway.url.replace("http:", "https:"), **LOGIN)
