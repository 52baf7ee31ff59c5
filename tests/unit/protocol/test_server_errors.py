"""What a server's -ERR means: a verdict on the credentials, a complaint about one operation, or an outage."""

from __future__ import annotations

import pytest

from memphis_sync._protocol.server_errors import REFUSALS, Refusals, is_complaint, is_verdict


@pytest.mark.parametrize(
    ("text", "verdict", "complaint"),
    [
        ("Authorization Violation", True, False),
        ("Authorization Violation - Account Not Found", True, False),
        ("User Authentication Expired", True, False),
        ("User Authentication Revoked", True, False),
        ("Account Authentication Expired", True, False),
        ('Permissions Violation for Publish to "a.b"', False, True),
        ("Invalid Publish Subject", False, True),
        ("maximum subscriptions exceeded", False, True),
        ("Stale Connection", False, False),
        ("Authentication Timeout", False, False),
        ("maximum connections exceeded", False, False),
        ("Lease Expired", False, False),
    ],
)
def test_texts_of_servers(text: str, verdict: bool, complaint: bool) -> None:
    assert (is_verdict(text), is_complaint(text)) == (verdict, complaint)


def test_credentials_are_refused_when_every_address_has_said_so_often_enough() -> None:
    refusals = Refusals(["a:1", "b:1"])
    assert not any(refusals.add("a:1") for _ in range(2 * REFUSALS))
    assert [refusals.add("b:1") for _ in range(REFUSALS)] == [False] * (REFUSALS - 1) + [True]
    refusals.clear()
    assert not refusals.add("a:1"), "a server has accepted them since"


def test_an_address_that_was_learnt_later_counts_as_well() -> None:
    refusals = Refusals(["a:1"])
    refusals.add("c:1")
    assert not any(refusals.add("a:1") for _ in range(REFUSALS))
