"""Broker URLs: any secret survives, and none is ever shown."""

from __future__ import annotations

import contextlib
import string
import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given, strategies as st

from memphis_sync._options.connect import connect_options
from memphis_sync._options.table import ConnectArguments
from memphis_sync._options.url import looks_like_url, parse_url
from memphis_sync.errors import ConfigurationError

OPTIONS = frozenset({"timeout_ms", "name", "reconnect", "max_reconnect", "ca_file", "account_id"})
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
hosts = st.lists(
    st.sampled_from(["b1", "b1:6666", "127.0.0.1:1", "[::1]", "[2001:db8::1]:65535"]), min_size=1, max_size=3
)


@given(user=secrets, secret=secrets, places=hosts, is_token=st.booleans())
def test_any_secret_survives_the_url(user, secret, places, is_token):
    url = f"memphis://{quote(user, safe='')}:{quote(secret, safe='')}@{','.join(places)}/"
    parsed = parse_url(url + ("?auth=token" if is_token else ""), OPTIONS)
    assert (parsed.username, parsed.secret, parsed.is_token) == (user, secret, is_token)
    assert len(parsed.hosts) == len(places)
    other = parse_url(
        url.replace(f":{quote(secret, safe='')}@", ":another@") + ("?auth=token" if is_token else ""), OPTIONS
    )
    assert other.secret == "another"
    assert repr(other) == repr(parsed), "the text is the same whatever the secret is"


@example(head="7?", tail="", rest="")
@example(head="?", tail="", rest="")
@given(
    head=st.text(string.printable, max_size=6),
    tail=st.text(string.printable, max_size=6),
    rest=st.sampled_from(["@b1", "@b1:6666", "@b1,b2/?timeout_ms=5", "@b1?nope=1", "", "@", ":@b1", "@b1:x"]),
)
def test_no_error_shows_what_stands_in_the_place_of_the_password(head, tail, rest):
    url = f"memphis://shop:{head}canary{tail}{rest}"
    try:
        parse_url(url, OPTIONS)
    except ConfigurationError as exc:
        shown = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
        assert "canary" not in shown


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(ConfigurationError):
        assert parse_url("memphis://" + text, OPTIONS).hosts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://b1", ["scheme", "memphis"]),
        ("memphis://u:a#b@b1", ["percent-encode", "%23"]),
        ("memphis://u:a/b@b1", ["percent-encode", "%2F"]),
        ("memphis://u:a?b@b1", ["percent-encode", "%3F"]),
        ("memphis://u:a@b@b1", ["percent-encode", "%40"]),
        ("memphis://u:a[b@b1", ["percent-encode", "%5B"]),
        ("memphis://u:a:b@b1", ["percent-encode", "%3A"]),
        ("memphis://u:a%zz@b1", ["password", "%25"]),
        ("memphis://u:a%ff@b1", ["password", "UTF-8"]),
        ("memphis://u:p@", ["empty host"]),
        ("memphis://u:p@b1,,b2", ["empty host"]),
        ("memphis://u:p@b1:0", ["port", "1 to 65535"]),
        ("memphis://u:p@b1:65536", ["port", "1 to 65535"]),
        ("memphis://u:p@b1:x", ["port", "1 to 65535"]),
        ("memphis://u:p@::1", ["brackets"]),
        ("memphis://u:p@[::1", ["IPv6"]),
        ("memphis://u:p@b1/path", ["path"]),
        ("memphis://u:p@b1/#x", ["percent-encode"]),
        ("memphis://u:p@b1 ", ["' '", "percent-encode"]),
        ("memphis://u:p@b1?timeout=5", ["'timeout'", "timeout_ms"]),
        ("memphis://u:p@b1?zzz=5", ["'zzz'", "known ones"]),
        ("memphis://u:p@b1?timeout_ms", ["timeout_ms", "no value"]),
        ("memphis://u:p@b1?timeout_ms=1&timeout_ms=2", ["timeout_ms", "twice"]),
        ("memphis://u:p@b1?password=x", ["password", "before the '@'"]),
        ("memphis://u:p@b1?connection_token=x", ["connection_token", "before the '@'"]),
        ("memphis://u:p@b1?auth=jwt", ["auth", "'jwt'", "token"]),
        ("memphis://u@b1?auth=token", ["token", "place of the password"]),
    ],
)
def test_refusals_name_the_part(url, words):
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url, OPTIONS)
    assert [word for word in words if word not in str(caught.value)] == []


def options_of(url, **given):
    return connect_options(ConnectArguments(url, **given), {})


def test_query_options_have_the_types_of_the_arguments():
    options = options_of("memphis://u:p@b1/?timeout_ms=5&reconnect=no&name=web&exit_timeout_s=0.5&account_id=3")
    assert (options.timeout_ms, options.reconnect, options.name, options.exit_timeout_s) == (5, False, "web", 0.5)
    assert options.credentials.account_id == 3


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("timeout_ms=soon", ["timeout_ms", "'soon'", "whole number"]),
        ("timeout_ms=0", ["timeout_ms", "0", "from 1"]),
        ("reconnect=maybe", ["reconnect", "'maybe'", "true or false"]),
        ("exit_timeout_s=x", ["exit_timeout_s", "'x'"]),
        ("name=a%20b", ["name", "'a b'"]),
    ],
)
def test_query_values_are_checked(query, words):
    with pytest.raises(ConfigurationError) as caught:
        options_of(f"memphis://u:p@b1?{query}")
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_argument_wins_over_the_url():
    options = options_of("memphis://u:p@b1:7,b2?timeout_ms=5", timeout_ms=9, port=8, password="other")
    assert options.timeout_ms == 9
    assert options.credentials.password == "other"
    assert [str(address) for address in options.addresses] == ["b1:7", "b2:8"], "port= fills in where the URL has none"


def test_a_token_argument_replaces_the_urls_password():
    credentials = options_of("memphis://u:p@b1", connection_token="t").credentials
    assert (credentials.password, credentials.token) == (None, "t")


def test_each_address_once():
    assert [str(a) for a in options_of("memphis://u:p@b1,b1:6666,b2").addresses] == ["b1:6666", "b2:6666"]


def test_which_hosts_are_urls():
    assert looks_like_url("memphis://b1")
    assert looks_like_url("nats://b1")
    assert not looks_like_url("https://b1")
    assert not looks_like_url("b1")
