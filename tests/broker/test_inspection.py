"""The broker's lists: pages, names, and what clients chose freely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memphis_sync._protocol.inspection import MemberList, SchemaList, StationList

if TYPE_CHECKING:
    from control_client import ControlClient


def test_pages_have_every_row_once(control: ControlClient, station_name: str, monkeypatch: Any) -> None:
    """More members than a page has, in one station."""
    control.station(station_name)
    for number in range(501):
        control.producer(station_name, f"p{number:03}")
    control.consumer(station_name, "c")
    found: list[Any] = []
    pages, after = 0, ""
    while after or not pages:
        page = control.send(MemberList(station_name=station_name, username="root", after=after))
        assert page.error == ""
        found += page.rows
        pages, after = pages + 1, page.after
    assert pages == 2
    assert [row.name for row in found] == [*(f"p{number:03}" for number in range(501)), "c"]
    assert {row.kind for row in found} == {"producer", "consumer"}
    assert {row.station for row in found} == {station_name}


def test_what_a_client_chose_freely_is_cut(control: ControlClient, station_name: str) -> None:
    control.station(station_name)
    control.producer(station_name, "p", connection_id="x" * 100_000, app_id="y" * 100_000, sdk_lang="z" * 100_000)
    (row,) = control.send(MemberList(station_name=station_name, username="root")).rows
    assert (row.connection_id, row.app_id, row.sdk_lang) == ("x" * 256, "y" * 256, "z" * 256)
    assert not row.is_connected


@pytest.mark.parametrize("kind", [StationList, MemberList, SchemaList])
def test_an_unknown_user_is_refused(control: ControlClient, kind: Any) -> None:
    assert control.send(kind(username="nobody")).error == "User nobody does not exist"
    assert control.send(kind()).error == "User  does not exist"


@pytest.mark.parametrize("kind", [StationList, MemberList])
def test_a_name_that_can_be_none_is_refused(control: ControlClient, kind: Any) -> None:
    assert "are allowed in Station" in control.send(kind(station_name="a>b", username="root")).error
    assert control.send(kind(station_name="no.such", username="root")).rows == ()
