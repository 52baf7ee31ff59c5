"""A broker's process starts without the client, which it does not use and which takes most of the time to import."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memphis_sync.broker import BrokerOptions, BrokerProcess

OF_THE_CLIENT = re.compile(
    r"\| +(memphis_sync(?:\.(?:client|producer|consumer|_session|_data|_producing).*)?)$", re.MULTILINE
)


def test_a_broker_imports_nothing_of_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with BrokerProcess(BrokerOptions(port=0, data_dir=tmp_path)) as broker:
        imported = broker.output()
    assert " memphis_sync.broker.service" in imported
    assert OF_THE_CLIENT.findall(imported) == []
