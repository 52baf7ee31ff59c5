"""A broker comes back with a smaller limit: what waits and is too large for it ends in words, and all else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from programs import read_back

import memphis_sync
from memphis_sync import Memphis, ProduceError, Producer, UndeliveredWarning
from memphis_sync.broker import BrokerOptions, BrokerProcess

MIB = 1 << 20
TOO_LARGE = rf"it has 20\d{{5}} bytes with its headers, and the broker now accepts at most {MIB}"


@contextmanager
def served(tmp_path: Any, limit: int, before: Any = None) -> Iterator[BrokerProcess]:
    password = {} if before is None else {"root_password": before.password}
    port = 0 if before is None else before.port
    options = BrokerOptions(port=port, data_dir=tmp_path / "data", max_payload=limit, **password)
    with BrokerProcess(options) as broker:
        yield broker


def produce_three(client: Memphis, producer: Producer, until: Any) -> list[Any]:
    """A large one between two small ones, without a connection."""
    until(lambda: not client.is_connected(), 60)
    return [producer.produce(payload, nonblocking=True) for payload in (b"1", bytes(2 * MIB), b"3")]


def test_what_was_queued_for_the_larger_limit(tmp_path: Any, until: Any) -> None:
    with served(tmp_path, 8 * MIB) as first:
        client = memphis_sync.connect(first.url)
        producer = client.producer("large", "p")
        producer.produce(b"0")
    with client:
        deliveries = produce_three(client, producer, until)
        with served(tmp_path, MIB, first):
            with pytest.raises(ProduceError, match=TOO_LARGE) as error:
                deliveries[1].result(60)
            assert error.value.outcome == "not_sent"
            assert "was never sent to station 'large'" in str(error.value)
            assert [deliveries[at].result(60).sequence for at in (0, 2)] == [2, 3]
            assert client.stats().reconnects == 1


def test_what_an_outbox_file_holds(tmp_path: Any, until: Any, caplog: Any) -> None:
    outbox = tmp_path / "outbox"
    with served(tmp_path, 8 * MIB) as first:
        client = memphis_sync.connect(first.url, outbox=outbox)
        producer = client.producer("large", "p")
        producer.produce(b"0")
    produce_three(client, producer, until)
    with pytest.warns(UndeliveredWarning, match="3 remain in"):
        client.close(0)
    with served(tmp_path, MIB, first) as second, memphis_sync.connect(second.url, outbox=outbox) as client:
        assert client.flush(60) == 0
        stats = client.stats()
        assert (stats.recovered, stats.recovered_failed, stats.delivered) == (3, 1, 2)
        assert stats.reconnects == 0
        assert [message.data for message in read_back(client, "large")] == [b"0", b"1", b"3"]
    assert any("and the broker now accepts at most" in record.getMessage() for record in caplog.records)
