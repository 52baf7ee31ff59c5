"""produce_on_commit(): what is stored after a commit, a rollback, and while the broker is away."""

from __future__ import annotations

import functools
import logging
import socket
from typing import Any

import pytest
from fix_django import UndoError, undone
from programs import check_arrived

import memphis_sync
from memphis_sync import ConfigurationError, HeaderError, SchemaError


def arrived(broker: Any, station: str, accepted: list[bytes]) -> None:
    """Fails unless the station holds just these, once the project's clients have sent what they had."""
    from memphis_sync.contrib.django import clients

    clients.close_all(30)
    with memphis_sync.connect(broker.url) as own:
        check_arrived(own, station, accepted)


@pytest.fixture
def refusing() -> str:
    """The URL of a broker that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"memphis://root:memphis@127.0.0.1:{server.getsockname()[1]}"


# ---- when it is sent ------------------------------------------------------------------------------------------------


def test_a_message_is_sent_after_the_commit_and_only_then(broker: Any, database: str, station_name: str) -> None:
    from django.db import transaction
    from django_shop.models import Order

    from memphis_sync.contrib.django import memphis, produce_on_commit

    with transaction.atomic(using=database):
        order = Order.objects.using(database).create(customer_id=1)
        produce_on_commit(station_name, {"id": order.pk}, using=database)
        memphis.flush(30)
        assert memphis.stats().accepted == 0
    memphis.flush(30)
    assert memphis.stats().accepted == 1
    arrived(broker, station_name, [b'{"id": %d}' % order.pk])


def test_what_is_rolled_back_is_never_sent(broker: Any, database: str, station_name: str) -> None:
    """A whole transaction, a savepoint in one, and an exception out of a block."""
    from django.db import transaction

    from memphis_sync.contrib.django import produce_on_commit

    with undone(database):
        produce_on_commit(station_name, "undone", using=database)
    with transaction.atomic(using=database):
        produce_on_commit(station_name, "kept", using=database)
        with undone(database):
            produce_on_commit(station_name, "undone", using=database)
        with transaction.atomic(using=database):
            produce_on_commit(station_name, "kept too", using=database)
    with transaction.atomic(using=database):
        produce_on_commit(station_name, "undone", using=database)
        transaction.set_rollback(True, using=database)
    arrived(broker, station_name, [b"kept", b"kept too"])


def test_each_database_has_its_own_commit(django_shop: Any, broker: Any, station_name: str) -> None:
    from django.db import transaction

    from memphis_sync.contrib.django import produce_on_commit

    with undone("default"), transaction.atomic(using="other"):
        produce_on_commit(station_name, "of other", using="other")
        produce_on_commit(station_name, "of default")
    arrived(broker, station_name, [b"of other"])


def test_outside_of_a_transaction_it_is_sent_at_once(django_shop: Any, broker: Any, station_name: str) -> None:
    from memphis_sync.contrib.django import produce_on_commit

    produce_on_commit(station_name, b"now", msg_id="1", headers={"a": "b"})
    produce_on_commit(station_name, b"now", msg_id="1")
    arrived(broker, station_name, [b"now"])


def test_the_message_is_the_one_of_the_call(django_shop: Any, broker: Any, station_name: str) -> None:
    from django.db import transaction

    from memphis_sync.contrib.django import produce_on_commit

    message, headers, raw = {"ids": [1]}, {"a": "b"}, bytearray(b"x")
    with transaction.atomic():
        produce_on_commit(station_name, message, headers=headers)
        produce_on_commit(station_name, raw)
        message["ids"].append(2)
        headers["$memphis"] = "not allowed"
        raw[:] = b"y"
    arrived(broker, station_name, [b'{"ids": [1]}', b"x"])


def test_a_producer_has_the_name_of_the_client(django_shop: Any, broker: Any, station_name: str) -> None:
    from django.test import override_settings

    from memphis_sync.contrib.django import clients, produce_on_commit

    with override_settings(MEMPHIS={"default": {"URL": f"{broker.url}/?name=web"}}):
        produce_on_commit(station_name, b"of the client")
        produce_on_commit(station_name, b"of another", producer_name="jobs")
        clients.close_all(30)
    with memphis_sync.connect(broker.url) as own:
        read = own.consumer(station_name, "back").read_all()
        names = {bytes(each.data): (each.get_headers() or {})["$memphis_producedBy"] for each in read}
    assert names == {b"of the client": "web", b"of another": "jobs"}


# ---- what is refused where it can still roll back -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"message": object()}, ConfigurationError, "message is of type object"),
        ({"station": "or ders"}, ConfigurationError, "station_name is 'or ders'"),
        ({"alias": "defalt"}, ConfigurationError, "did you mean 'default'?"),
        ({"headers": {"$memphis_x": "1"}}, HeaderError, "memphis"),
        ({"msg_id": 1}, ConfigurationError, "msg_id is of type int"),
        ({"producer_name": "no spaces"}, ConfigurationError, "producer_name is 'no spaces'"),
        ({"ack_wait_sec": -1}, ConfigurationError, "ack_timeout_s is -1"),
        ({"idempotent": "yes"}, ConfigurationError, "idempotent"),
        ({"on_delivery": 1}, ConfigurationError, "on_delivery"),
        ({"partition_key": "x"}, TypeError, "did you mean 'producer_partition_key'?"),
        ({"nonblocking": True}, TypeError, "unexpected keyword argument 'nonblocking'"),
    ],
)
def test_a_wrong_argument_rolls_the_order_back(
    django_shop: Any, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    from django.db import transaction
    from django_shop.models import Order

    from memphis_sync.contrib.django import clients, produce_on_commit

    with pytest.raises(error, match=text.replace("?", r"\?")), transaction.atomic():  # noqa: PT012  the order is first
        Order.objects.create(customer_id=1)
        produce_on_commit(**{"station": "orders", "message": b"x", **given})
    assert not Order.objects.exists()
    assert clients.opened() is None, "it was refused before any IO"


def test_a_message_that_does_not_match_its_schema_rolls_the_order_back(
    django_shop: Any, broker: Any, station_name: str
) -> None:
    from django.db import transaction

    from memphis_sync.contrib.django import memphis, produce_on_commit

    memphis.create_schema(f"{station_name}-schema", "json", schema_content='{"required": ["id"]}')
    memphis.station(station_name, schema_name=f"{station_name}-schema")
    with transaction.atomic():
        produce_on_commit(station_name, {"id": 1})
    memphis.flush(30)  # the client knows the schema now
    with pytest.raises(SchemaError, match="id"), transaction.atomic():
        produce_on_commit(station_name, {})
    arrived(broker, station_name, [b'{"id": 1}'])


# ---- on_delivery, and a broker that is away -------------------------------------------------------------------------


def test_on_delivery_runs_with_a_database_connection_of_its_own_that_is_closed(
    django_shop: Any, database: str, station_name: str, until: Any
) -> None:
    from django.db import connections, transaction
    from django_shop.models import Order

    from memphis_sync.contrib.django import produce_on_commit

    settings, outcomes = connections.settings[database], []
    age, settings["CONN_MAX_AGE"] = settings["CONN_MAX_AGE"], 0

    def note(delivery: Any) -> None:
        Order.objects.using(database).create(customer_id=2)
        outcomes.append((delivery.result().station, connections[database]))

    try:
        with transaction.atomic(using=database):
            produce_on_commit(station_name, "x", using=database, on_delivery=note)
        until(lambda: outcomes and outcomes[0][1].connection is None)
    finally:
        settings["CONN_MAX_AGE"] = age
    assert outcomes[0][0] == station_name
    assert Order.objects.using(database).count() == 1


def test_an_order_is_saved_while_the_broker_is_away(
    database: str, refusing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is lost: that is logged, counted and given to on_delivery; the caller sees no error."""
    from django.db import transaction
    from django.test import override_settings
    from django_shop.models import Order

    from memphis_sync.contrib.django import clients, produce_on_commit

    lost, outcomes = clients.lost_after_commit, []
    memphis = {"default": {"URL": refusing, "OPTIONS": {"timeout_ms": 100}}}
    with override_settings(MEMPHIS=memphis), transaction.atomic(using=database):
        Order.objects.using(database).create(customer_id=1)
        produce_on_commit("orders", "payload-canary", using=database, on_delivery=outcomes.append)
        produce_on_commit("orders", "y", using=database, on_delivery=lambda _: 1 / 0)
    assert Order.objects.using(database).count() == 1
    assert clients.lost_after_commit == lost + 2
    (outcome,) = outcomes
    error = outcome.exception()
    assert (outcome.done(), outcome.running(), outcome.station, error.outcome) == (True, False, "orders", "not_sent")
    assert isinstance(error.__cause__, memphis_sync.ConnectError)
    with pytest.raises(memphis_sync.ProduceError, match=r"127\.0\.0\.1"):
        outcome.result()
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert sum("a message to orders was not accepted after the commit, and is lost" in each for each in errors) == 2
    assert "on_delivery raised" in errors
    assert "payload-canary" not in caplog.text


def test_a_client_that_is_connected_keeps_the_message_for_a_broker_that_is_away(
    django_shop: Any, fresh_broker: Any, tmp_path: Any, station_name: str, until: Any
) -> None:
    from django.db import transaction
    from django.test import override_settings

    from memphis_sync.contrib.django import clients, memphis, produce_on_commit

    broker = fresh_broker(data_dir=tmp_path / "data")
    with override_settings(MEMPHIS={"default": {"URL": broker.url}}):
        memphis.produce(station_name, "memphis-sync", "before")
        broker.stop()
        until(lambda: not memphis.is_connected())
        with transaction.atomic():
            produce_on_commit(station_name, "meanwhile", ack_wait_sec=120)
        broker = fresh_broker(data_dir=tmp_path / "data", port=broker.port)
        assert memphis.flush(60) == 0
        clients.close_all(30)
        with memphis_sync.connect(broker.url) as own:
            check_arrived(own, station_name, [b"before", b"meanwhile"])


def test_what_the_queue_has_no_space_for_is_told_to_on_delivery(
    django_shop: Any, broker: Any, station_name: str
) -> None:
    from django.test import override_settings

    from memphis_sync.contrib.django import produce_on_commit

    outcomes = []
    with override_settings(MEMPHIS={"default": {"URL": broker.url, "OPTIONS": {"outbox_max_bytes": 65536}}}):
        produce_on_commit(station_name, bytes(100_000), on_delivery=outcomes.append)
    assert isinstance(outcomes[0].exception(), memphis_sync.PayloadTooLargeError)


# ---- what Django does, on which this stands -------------------------------------------------------------------------


def test_a_callback_that_raises_reaches_the_caller_and_stops_the_others(django_shop: Any) -> None:
    from django.db import transaction

    called = []

    def fail() -> None:
        raise UndoError

    with pytest.raises(UndoError), transaction.atomic():  # noqa: PT012  the end of the block raises it
        transaction.on_commit(fail)
        transaction.on_commit(lambda: called.append(1))
    assert called == []


def test_a_robust_callback_does_neither(django_shop: Any) -> None:
    from django.db import transaction

    called = []

    def fail() -> None:
        raise UndoError

    with transaction.atomic():
        transaction.on_commit(fail, robust=True)
        transaction.on_commit(lambda: called.append(1))
    assert called == [1]


def test_a_robust_partial_that_raises_fails_by_its_missing_name(django_shop: Any) -> None:
    """So the callback is a plain nested function. Django 6 has mended it."""
    import django
    from django.db import transaction

    def fail(_: int) -> None:
        raise UndoError

    def commit() -> None:
        with transaction.atomic():
            transaction.on_commit(functools.partial(fail, 1), robust=True)

    if django.VERSION < (6,):
        with pytest.raises(AttributeError, match="__qualname__"):
            commit()
    else:
        commit()


def test_outside_of_a_transaction_a_callback_runs_at_once(django_shop: Any) -> None:
    from django.db import transaction

    called = []
    transaction.on_commit(lambda: called.append(1))
    assert called == [1]


def test_without_autocommit_there_is_no_commit_to_wait_for(database: str) -> None:
    from django.db import transaction

    from memphis_sync.contrib.django import produce_on_commit

    transaction.set_autocommit(False, using=database)
    try:
        with pytest.raises(transaction.TransactionManagementError):
            produce_on_commit("orders", "x", using=database)
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)


def test_five_threads_have_five_database_connections(django_shop: Any) -> None:
    """So memphis_sync's clients are no Django connection handler."""
    import threading

    from django.db import connections

    found, together = [], threading.Barrier(5)

    def look() -> None:
        together.wait(60)
        found.append(connections["default"])

    threads = [threading.Thread(target=look) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 5
