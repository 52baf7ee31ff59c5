"""Rows of clients that went without a word."""

from __future__ import annotations

from typing import Any

from control_client import ControlClient

from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.storage.expiry import KEEP_S, Expiry
from memphis_sync.broker.storage.tables import State


def test_rows_of_closed_connections_go_after_a_day_but_one_of_each_group(fresh_broker: Any) -> None:
    broker: BrokerProcess = fresh_broker()
    with ControlClient(broker, connection_id="stays") as control:
        for connection_id in ("dies-1", "dies-2"):
            with ControlClient(broker, connection_id=connection_id) as client:
                assert client.producer("st.x", f"p-{connection_id}")["error"] == ""
                assert client.consumer("st.x", "c", consumers_group="left").startswith("{")
                assert client.consumer("st.x", "c", consumers_group="used").startswith("{")
            control.wait_until_gone(connection_id)
        assert control.producer("st.x")["error"] == ""
        assert control.consumer("st.x", consumers_group="used").startswith("{")

        async def rounds() -> list[int]:
            assert control.connection is not None
            state = await State.open(control.connection.jetstream(), 1)
            expiry = Expiry(control.connection, state)
            removed = [await expiry.sweep(now) for now in (0.0, KEEP_S - 1, KEEP_S, KEEP_S * 2)]
            members = [key.split(".")[1:4] for key in await state.members.keys(">")]
            assert sorted(members) == [["left", "dies-1", "c"], ["used", "stays", "c"]]
            assert [key.split(".")[1] for key in await state.producers.keys(">")] == ["stays"]
            return removed

        # Two producers, both dead members of "used", and all but one of "left".
        assert control.run(rounds()) == [0, 0, 5, 0]
        assert control.durable("st#x$1", "left") is not None


def test_a_connection_that_comes_back_starts_anew(fresh_broker: Any) -> None:
    broker: BrokerProcess = fresh_broker()
    with ControlClient(broker, connection_id="sweeper") as control:
        with ControlClient(broker, connection_id="comes-back") as client:
            assert client.producer("st")["error"] == ""
        control.wait_until_gone("comes-back")

        async def expiry() -> Expiry:
            assert control.connection is not None
            return Expiry(control.connection, await State.open(control.connection.jetstream(), 1))

        keeper = control.run(expiry())
        assert control.run(keeper.sweep(0.0)) == 0
        with ControlClient(broker, connection_id="comes-back"):
            assert control.run(keeper.sweep(KEEP_S)) == 0
        control.wait_until_gone("comes-back")
        assert control.run(keeper.sweep(KEEP_S + 1)) == 0
        assert control.run(keeper.sweep(2 * KEEP_S + 1)) == 1
