"""Names: the broker's rules and texts, and the way to JetStream and back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from memphis_sync._protocol import subjects
from memphis_sync._protocol.names import (
    NameRuleError,
    durable_name,
    external_name,
    internal_name,
    lower_name,
    publish_subject,
    split_stream,
    stream_name,
)
from memphis_sync._protocol.requests import StationCreate
from memphis_sync.errors import ConfigurationError, LocalProtocolError

LEGAL = st.from_regex(r"[a-z0-9]([a-z0-9_.-]{0,30}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize("kind", ["Station", "Producer", "Consumer", "Schema"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "{} name can not be empty"),
        ("a" * 129, "{} should be under 128 characters"),
        ("ä" * 65, "{} should be under 128 characters"),
        (" " * 129, "{} should be under 128 characters"),
        ("a b", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a\n", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a\x00", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a#b", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a$b", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a*", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("a>", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("é", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("٣", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("\ud800", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("-a$", "Only alphanumeric and the '_', '-', '.' characters are allowed in {}"),
        ("-a", "{} name can not start or end with non alphanumeric character"),
        ("a.", "{} name can not start or end with non alphanumeric character"),
        ("_", "{} name can not start or end with non alphanumeric character"),
    ],
)
def test_what_breaks_a_rule_is_told_in_the_brokers_words(kind: str, name: str, text: str) -> None:
    with pytest.raises(NameRuleError) as caught:
        lower_name(kind, name)  # type: ignore[arg-type]
    assert str(caught.value) == text.format(kind)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("name", ["a", "7", "A.b-C_d", "a..b", "x" * 128, "Orders.EU"])
def test_legal_names_become_lower_case(name: str) -> None:
    assert lower_name("Station", name) == name.lower()


@given(LEGAL)
def test_internal_and_back(name: str) -> None:
    internal = internal_name(name)
    assert "." not in internal
    assert external_name(internal) == name


@given(LEGAL, st.integers(0, 10_000))
def test_streams_and_back(name: str, partition: int) -> None:
    assert split_stream(stream_name(internal_name(name), partition)) == (internal_name(name), partition)


@pytest.mark.parametrize("stream", ["a$", "$1", "a$0", "a$-1", "a$x", "a$\u0661", "a$1$"])
def test_what_is_no_stream_of_a_partition(stream: str) -> None:
    with pytest.raises(LocalProtocolError, match="expected <station>"):
        split_stream(stream)


def test_subjects() -> None:
    assert publish_subject("orders#eu", 2) == "orders#eu$2.final"
    assert publish_subject("orders#eu", 0) == "orders#eu.final"
    assert publish_subject("orders#eu", 2, 7) == "orders#eu$2.functions.7"
    assert durable_name("Group.Name") == "group#name"
    assert subjects.schema_updates("a#b") == "$memphis_schema_updates_a#b"
    assert subjects.functions_updates("a#b") == "$memphis_functions_updates_a#b"
    assert subjects.dls("a#b", "g#1") == "$memphis_dls_a#b.g#1"
    assert StationCreate.queue_group() == "memphis_station_creations_listeners_group"
