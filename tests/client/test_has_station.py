"""A station is there, or not; the broker and the client each say why they do not know."""

from __future__ import annotations

from typing import Any

import pytest
from control_client import ControlClient

from memphis_sync import ConfigurationError, Memphis
from memphis_sync._protocol.requests import StationExists


def test_whether_a_station_exists(memphis: Memphis, station_name: str) -> None:
    assert not memphis.has_station(station_name)
    memphis.station(station_name)
    assert memphis.has_station(station_name.upper())
    with pytest.raises(ConfigurationError, match="name is 'no blanks'"):
        memphis.has_station("no blanks")


def test_the_broker_refuses_in_its_reply(broker: Any) -> None:
    with ControlClient(broker) as control:
        assert "alphanumeric" in control.send(StationExists("no blanks", "root")).error
        assert control.send(StationExists("st", "")).error == "User  does not exist"
