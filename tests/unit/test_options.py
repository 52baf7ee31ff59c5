"""connect()'s arguments: what is accepted, and what every refusal says. No IO."""

from __future__ import annotations

import inspect
import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

import memphis_sync
from memphis_sync._options.connect import connect_options
from memphis_sync._options.table import ConnectArguments
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import ServerAddress

GOOD = {"host": "b1", "username": "shop", "password": "canary-secret"}
ARGUMENTS = inspect.signature(memphis_sync.connect).parameters


def build(environ=None, **given):
    return connect_options(ConnectArguments(**given), environ or {})


def refused(environ=None, **given):
    with pytest.raises(ConfigurationError) as caught:
        build(environ, **given)
    text = str(caught.value)
    assert "canary" not in text
    assert "canary" not in repr(caught.value)
    return text


def test_names_order_and_defaults_are_those_of_the_official_client():
    positional = [
        (name, parameter.default)
        for name, parameter in ARGUMENTS.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == [
        ("host", None),
        ("username", None),
        ("account_id", 1),
        ("connection_token", ""),
        ("password", ""),
        ("port", 6666),
        ("reconnect", True),
        ("max_reconnect", -1),
        ("reconnect_interval_ms", 1500),
        ("timeout_ms", 2000),
        ("cert_file", ""),
        ("key_file", ""),
        ("ca_file", ""),
    ]


def test_the_method_has_the_same_arguments():
    method = dict(inspect.signature(memphis_sync.Memphis.connect).parameters)
    del method["self"]
    assert {n: (p.default, p.kind) for n, p in method.items()} == {n: (p.default, p.kind) for n, p in ARGUMENTS.items()}


def test_defaults():
    options = build(**GOOD)
    assert options.addresses == (ServerAddress("b1", 6666),)
    assert options.credentials.login == "shop$1"
    assert (options.reconnect, options.max_reconnect, options.timeout_ms) == (True, -1, 2000)
    assert options.tls is None
    assert "canary" not in repr(options)


def test_the_broker_knows_users_in_lower_case():
    credentials = build(**{**GOOD, "username": "Shop", "account_id": 7}).credentials
    assert (credentials.login, credentials.identity) == ("Shop$7", "shop")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"host": "https://b1"}, "b1:6666"),
        ({"host": "http://b1/"}, "b1:6666"),
        ({"host": "::1", "port": 1}, "[::1]:1"),
        ({"host": "[::1]"}, "[::1]:6666"),
        ({"host": "127.0.0.1", "port": 65535}, "127.0.0.1:65535"),
    ],
)
def test_host_forms(given, address):
    assert [str(a) for a in build(**{**GOOD, **given}).addresses] == [address]


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("port", 0, "from 1 to 65535"),
        ("port", 65536, "from 1 to 65535"),
        ("port", "6666", "from 1 to 65535"),
        ("port", True, "from 1 to 65535"),
        ("account_id", 0, "from 1 to"),
        ("account_id", 1.5, "from 1 to"),
        ("reconnect", 1, "True or False"),
        ("reconnect", None, "True or False"),
        ("max_reconnect", -2, "at least -1"),
        ("reconnect_interval_ms", 0, "from 1 to 86400000"),
        ("timeout_ms", 0, "from 1 to 86400000"),
        ("timeout_ms", -1, "from 1 to 86400000"),
        ("timeout_ms", 86400001, "from 1 to 86400000"),
        ("name", "", "1 to 128"),
        ("name", "with blank", "1 to 128"),
        ("name", "x" * 129, "1 to 128"),
        ("name", 7, "1 to 128"),
        ("outbox_max_bytes", 65535, "from 65536 to"),
        ("outbox_max_messages", 0, "from 1 to"),
        ("max_in_flight", 0, "from 1 to"),
        ("exit_timeout_s", -0.1, "from 0 to 86400"),
        ("exit_timeout_s", float("nan"), "from 0 to 86400"),
        ("exit_timeout_s", float("inf"), "from 0 to 86400"),
        ("exit_timeout_s", "5", "from 0 to 86400"),
        ("username", "", "at least one character"),
        ("username", "a b", "no blank"),
        ("username", "a$1", "account_id"),
        ("username", "a::b", "no '::'"),
        ("username", "u" * 257, "must take 256 or less"),
        ("username", "\u00fc" * 129, "must take 256 or less"),
        ("password", "p" * 1025, "must take 1024 or less"),
        ("password", "\u00fc" * 60_000, "takes 360000 bytes"),
        ("host", 7, "must be a str"),
        ("host", "", "at least one character"),
        ("cert_file", "/nowhere/cert.pem", "key_file"),
        ("ca_file", "/nowhere/ca.pem", "no such file"),
        ("ca_file", None, "must be a str"),
    ],
)
def test_a_refusal_names_option_value_and_bound(option, value, bound):
    text = refused(**{**GOOD, option: value})
    assert option in text
    assert bound in text
    if value != "" and not isinstance(value, float) and len(str(value)) < 70 and "without" not in text:
        assert repr(value) in text or str(value) in text or type(value).__name__ in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"password": ""}, ["connection token / password", "neither"]),
        ({"connection_token": "canary-token"}, ["connection token / password", "both"]),
        ({"password": 12345}, ["password", "int", "str"]),
        ({"connection_token": b"canary"}, ["connection_token", "bytes", "str"]),
        ({"password": "", "connection_token": "canary" * 200}, ["connection_token takes 1200 bytes"]),
        ({"host": f"memphis://shop:{'canary' * 200}@b1", "password": ""}, ["password takes 1200 bytes"]),
        ({"username": None}, ["username", "missing"]),
        ({"host": "b1:7777"}, ["host", "port="]),
        ({"host": "shop:canary"}, ["host", "port="]),
        ({"host": "shop:canary@b1"}, ["host", "memphis://"]),
        ({"host": "b1/path"}, ["host"]),
    ],
)
def test_contradictions(given, words):
    text = refused(**{**GOOD, **given})
    assert [word for word in words if word not in text] == []


# ---- environment
# ------------------------------------------------------------------------------------------------------

URL_ENV = {"MEMPHIS_URL": "memphis://shop:canary-secret@b2:7"}
HOST_ENV = {"MEMPHIS_HOST": "b3", "MEMPHIS_USERNAME": "shop", "MEMPHIS_PASSWORD": "canary-secret"}


def test_url_from_the_environment():
    options = build(URL_ENV)
    assert str(options.addresses[0]) == "b2:7"
    assert options.credentials.password == "canary-secret"


def test_single_variables():
    options = build({**HOST_ENV, "MEMPHIS_PORT": "17", "MEMPHIS_ACCOUNT_ID": "3"})
    assert str(options.addresses[0]) == "b3:17"
    assert options.credentials.login == "shop$3"


def test_url_wins_over_single_variables():
    """Kubernetes sets MEMPHIS_PORT=tcp://... for a service of that name: it must not get in the way of a URL."""
    assert str(build({**URL_ENV, "MEMPHIS_PORT": "tcp://10.0.0.1:6666"}).addresses[0]) == "b2:7"


def test_arguments_win_and_the_environment_is_not_read():
    options = build({**URL_ENV, "MEMPHIS_TIMEOUT": "x"}, **GOOD)
    assert str(options.addresses[0]) == "b1:6666"


def test_a_password_from_the_environment_never_goes_to_a_host_from_an_argument():
    assert "neither" in refused(HOST_ENV, host="evil", username="shop")


@pytest.mark.parametrize(
    "given", [{"username": "x"}, {"password": "canary"}, {"connection_token": "canary"}, {"port": 7}, {"account_id": 2}]
)
def test_an_argument_is_not_mixed_into_the_environment(given):
    (option,) = given
    text = refused(URL_ENV, **given)
    assert option in text
    assert "MEMPHIS_URL" in text


def test_mounted_secrets(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary-mounted\n")
    by_name = {name: value for name, value in HOST_ENV.items() if name != "MEMPHIS_PASSWORD"}
    assert build({**by_name, "MEMPHIS_PASSWORD_FILE": str(secret)}).credentials.password == "canary-mounted"
    assert build({**by_name, "MEMPHIS_TOKEN_FILE": str(secret)}).credentials.token == "canary-mounted"
    url = {"MEMPHIS_URL": "memphis://shop@b2"}
    assert build({**url, "MEMPHIS_PASSWORD_FILE": str(secret)}).credentials.password == "canary-mounted"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, ["host", "MEMPHIS_URL"]),
        ({"MEMPHIS_URL": "b1"}, ["MEMPHIS_URL", "memphis://"]),
        ({**HOST_ENV, "MEMPHIS_PORT": "tcp://10.0.0.1:6666"}, ["MEMPHIS_PORT", "whole number", "Kubernetes"]),
        ({**HOST_ENV, "MEMPHIS_ACCOUNT_ID": "x"}, ["MEMPHIS_ACCOUNT_ID", "'x'"]),
        ({**HOST_ENV, "MEMPHIS_PASSWORD_FILE": "/nowhere"}, ["MEMPHIS_PASSWORD", "both"]),
        ({"MEMPHIS_HOST": "b", "MEMPHIS_PASSWORD_FILE": "/nowhere"}, ["MEMPHIS_PASSWORD_FILE", "/nowhere", "read"]),
        ({"MEMPHIS_HOST": "b", "MEMPHIS_PASSWORD": "canary"}, ["username"]),
    ],
)
def test_environment_refusals(environ, words):
    text = refused(environ)
    assert [word for word in words if word not in text] == []


# ---- TLS
# ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pem(tmp_path):
    ca = trustme.CA()
    cert = ca.issue_cert("client@example.org")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "junk.pem").write_text("junk")
    return tmp_path


def test_a_ca_alone_is_enough(pem):
    context = build(**GOOD, ca_file=str(pem / "ca.pem")).tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_client_certificate_with_a_password(pem):
    options = build(**GOOD, ca_file=str(pem / "ca.pem"), cert_file=str(pem / "cert.pem"), key_file=str(pem / "key.pem"))
    assert options.tls is not None


def test_the_scheme_asks_for_tls():
    assert build(host="memphis+tls://shop:canary@b1").tls is not None
    assert build(host="tls://shop:canary@b1").tls is not None
    assert build(host="memphis://shop:canary@b1").tls is None


def test_unreadable_pem_files(pem):
    assert "ca_file" in refused(**GOOD, ca_file=str(pem / "junk.pem"))
    assert "cert_file" in refused(**GOOD, cert_file=str(pem / "junk.pem"), key_file=str(pem / "key.pem"))
    assert "key_file" in refused(**GOOD, key_file=str(pem / "key.pem"))


def test_an_encrypted_key_is_refused_instead_of_asked_for(pem):
    key = serialization.load_pem_private_key((pem / "key.pem").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"canary")
    )
    (pem / "encrypted.pem").write_bytes(encrypted)
    text = refused(**GOOD, cert_file=str(pem / "cert.pem"), key_file=str(pem / "encrypted.pem"))
    assert "for an encrypted key load both into an ssl.SSLContext" in text


def test_a_context_is_taken_as_it_is():
    context = ssl.create_default_context()
    assert build(**GOOD, tls=context).tls is context
