"""Log lines of the client: one outage is two, their extra keys are ours, and no payload or password is in any."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily

import memphis_sync
from memphis_sync import SchemaError

PACKAGE = Path(memphis_sync.__file__).parent


def test_an_outage_of_both_connections_is_two_lines(broker, proxy_to, station, caplog, until):
    caplog.set_level(logging.INFO, logger="memphis_sync")
    proxy = proxy_to("127.0.0.1", broker.port)
    url = broker.url.replace(str(broker.port), str(proxy.port))
    with memphis_sync.connect(url, name="web", reconnect_interval_ms=100) as client:
        producer = client.producer(station, "p")
        producer.produce(b"1")
        caplog.clear()
        proxy.down()
        until(lambda: not client.is_connected())
        delivery = producer.produce(b"2", nonblocking=True)
        proxy.up()
        delivery.result()
        until(client.is_connected)
        until(lambda: len(caplog.records) >= 2)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"], lines
    assert lines[0][1].startswith("'web' lost 127.0.0.1:")
    assert lines[1][1].startswith("'web' reconnected to 127.0.0.1:")


def test_each_key_of_a_record_is_the_client_s_own():
    """Others, as ``message`` or ``name``, raise inside logging: see below."""
    keys = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                keys |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    assert keys
    assert {key for key in keys if not key.startswith("memphis_")} == set()


@pytest.mark.parametrize("key", ["message", "name", "args", "module", "thread", "process"])
def test_a_plain_key_raises_inside_logging(key):
    with pytest.raises(KeyError, match="Attempt to overwrite"):
        logging.getLogger("test").error("text", extra={key: "x"})


def test_no_record_holds_a_payload_or_a_password(fresh_broker, caplog, until):
    caplog.set_level(logging.DEBUG)
    broker = fresh_broker(root_password="canary-password")
    with memphis_sync.connect(
        "127.0.0.1", "root", password="canary-password", port=broker.port, on_error=lambda _: None
    ) as client:
        client.create_schema("s", "json", schema_content='{"type": "object", "required": ["id"]}')
        client.station("orders", schema_name="s")
        producer = client.producer("orders", "p")
        producer.produce({"id": "canary-payload"}, headers={"own": "canary-header"})
        with pytest.raises(SchemaError):
            producer.produce({"x": "canary-payload"})

        def fail(message):
            raise LookupError

        client.consumer("orders", "c").run(fail, max_messages=1)
    with pytest.raises(memphis_sync.AuthenticationError):
        memphis_sync.connect("127.0.0.1", "root", password="canary-password-2", port=broker.port)
    assert caplog.records
    formatter = logging.Formatter("%(message)s")
    shown = "".join(formatter.format(record) + repr(vars(record)) for record in caplog.records)
    assert "canary" not in shown


def test_a_collector_of_one_s_own_is_gone_in_multiprocess_mode(tmp_path):
    """Why export() feeds ordinary metrics."""

    class Own:
        def collect(self):
            yield GaugeMetricFamily("own_collector", "text", value=1)

    registry = CollectorRegistry()
    registry.register(Own())
    assert b"own_collector" in generate_latest(registry)
    scraped = CollectorRegistry()
    multiprocess.MultiProcessCollector(scraped, path=str(tmp_path))
    assert b"own_collector" not in generate_latest(scraped)


def test_memory_clients_are_observed_as_well(station):
    from recorder import Recorder

    from memphis_sync.memory import sent

    recorder = Recorder({"trace": "1"})
    with memphis_sync.connect("memory://", observers=[recorder]) as client:
        ack = client.produce(station, "p", b"1")
    assert recorder.outcomes() == {1: ack}
    assert sent[-1].headers == {"trace": "1"}
