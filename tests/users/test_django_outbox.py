"""The table outbox: what is in it after a commit and a rollback; what its relay makes of it, also when it is killed."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import socket
from collections import defaultdict
from typing import Any

import pytest
from fix_django import MODULE, settings_of, undone
from programs import check_arrived

import memphis_sync
from memphis_sync import ConfigurationError, HeaderError, SchemaError

KEYS = 7
KILLS, ROWS = 1, 200


def rows(database: str = "default") -> Any:
    from memphis_sync.contrib.django.outbox.models import OutboxMessage

    return OutboxMessage.objects.using(database)


def relay(database: str = "default", **options: Any) -> str:
    """Runs the command until all is sent; gives what it printed."""
    import io

    from django.core.management import call_command

    out = io.StringIO()
    call_command("memphis_outbox", database=database, stdout=out, **{"once": True, **options})
    return out.getvalue()


def fill(database: str, station: str, first: int, count: int) -> list[str]:
    """Rows of several keys, whose payloads number the rows of each."""
    from django.db import transaction

    from memphis_sync.contrib.django import outbox

    bodies = [f"{number % KEYS} {number:06}" for number in range(first, first + count)]
    with transaction.atomic(using=database):
        for body in bodies:
            outbox.enqueue(station, body, using=database, producer_partition_key=body[0])
    return bodies


def check(broker: Any, station: str, bodies: list[str]) -> None:
    """The station holds each once, and those of a key are in order."""
    with memphis_sync.connect(broker.url) as own:
        by_key = defaultdict(list)
        for message in check_arrived(own, station, bodies):
            by_key[message.data.split()[0]].append(message.data)
        assert all(found == sorted(found) for found in by_key.values())


# ---- enqueue() -------------------------------------------------------------------------------------------------------


def test_a_message_is_a_row_of_the_transaction(broker: Any, database: str, station_name: str) -> None:
    """Committed, rolled back, and rolled back to a savepoint; nothing opens a client before the relay does."""
    from django.db import transaction
    from django_shop.models import Order

    from memphis_sync.contrib.django import clients, outbox

    with transaction.atomic(using=database):
        order = Order.objects.using(database).create(customer_id=1)
        outbox.enqueue(station_name, {"id": order.pk}, using=database, headers={"a": "b"})
        with undone(database):
            outbox.enqueue(station_name, "undone", using=database)
    with undone(database):
        outbox.enqueue(station_name, "undone", using=database)
    assert rows(database).count() == 1
    assert clients.opened() is None
    relay(database)
    assert rows(database).count() == 0
    with memphis_sync.connect(broker.url) as own:
        (message,) = own.consumer(station_name, "back").read_all()
        assert bytes(message.data) == b'{"id": %d}' % order.pk
        assert message.headers == {"a": "b"}


def test_each_database_has_a_table_and_a_relay_of_its_own(django_shop: Any, broker: Any, station_name: str) -> None:
    from django.db import transaction

    from memphis_sync.contrib.django import outbox

    with undone("default"), transaction.atomic(using="other"):
        outbox.enqueue(station_name, "of other", using="other")
        outbox.enqueue(station_name, "of default")
    relay("default")
    assert rows("other").count() == 1
    relay("other")
    check(broker, station_name, ["of other"])


def test_a_message_id_of_one_s_own_is_unique(database: str, station_name: str) -> None:
    from django.db import IntegrityError, transaction

    from memphis_sync.contrib.django import outbox

    assert outbox.enqueue(station_name, "x", using=database, msg_id="order-7") == "order-7"
    assert len(outbox.enqueue(station_name, "x", using=database)) == 32
    with pytest.raises(IntegrityError), transaction.atomic(using=database):
        outbox.enqueue(station_name, "x", using=database, msg_id="order-7")


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"message": object()}, ConfigurationError, "message is of type object"),
        ({"station": "or ders"}, ConfigurationError, "station_name is 'or ders'"),
        ({"alias": "defalt"}, ConfigurationError, "did you mean 'default'"),
        ({"headers": {"a": 1}}, HeaderError, "a"),
        ({"msg_id": ""}, ConfigurationError, "msg_id has 0 characters"),
        ({"msg_id": "x" * 256}, ConfigurationError, "msg_id has 256 characters"),
        ({"producer_partition_number": None}, ConfigurationError, "producer_partition_number"),
        ({"partition_key": "x"}, TypeError, "did you mean 'producer_partition_key'"),
        ({"nonblocking": True}, TypeError, "unexpected keyword argument 'nonblocking'"),
    ],
)
def test_a_wrong_argument_inserts_nothing(
    django_shop: Any, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    from memphis_sync.contrib.django import outbox

    with pytest.raises(error, match=text):
        outbox.enqueue(**{"station": "orders", "message": b"x", **given})
    assert rows().count() == 0


def test_a_project_without_the_app_is_told_to_add_it(django_shop: Any) -> None:
    from django.test import modify_settings

    from memphis_sync.contrib.django import outbox

    text = r"add 'memphis_sync\.contrib\.django\.outbox' to INSTALLED_APPS"
    with modify_settings(INSTALLED_APPS={"remove": [outbox.APP]}), pytest.raises(ConfigurationError, match=text):
        outbox.enqueue("orders", "x")


def test_a_schema_that_the_client_knows_is_checked_before_the_insert(
    django_shop: Any, broker: Any, station_name: str
) -> None:
    from memphis_sync.contrib.django import memphis, outbox

    memphis.create_schema(f"{station_name}-schema", "json", schema_content='{"required": ["id"]}')
    memphis.station(station_name, schema_name=f"{station_name}-schema")
    memphis.producer(station_name, "p")
    with pytest.raises(SchemaError, match="id"):
        outbox.enqueue(station_name, {})
    assert rows().count() == 0


# ---- the relay -------------------------------------------------------------------------------------------------------


def test_a_message_that_is_refused_for_good_lets_the_others_pass(
    broker: Any, memphis: Any, database: str, station_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    from memphis_sync.contrib.django import outbox

    memphis.create_schema(f"{station_name}-schema", "json", schema_content='{"required": ["id"]}')
    memphis.station(station_name, schema_name=f"{station_name}-schema")
    ids = [outbox.enqueue(station_name, body, using=database) for body in ({"id": 1}, {"canary": 1}, {"id": 2})]
    relay(database)
    (row,) = rows(database).all()
    assert row.msg_id == ids[1]
    assert row.failed_at is not None
    assert "Schema validation has failed" in row.error
    assert f"message {ids[1]} to {station_name} is refused for good" in caplog.text
    assert relay(database, status=True) == "0 pending, 1 failed, the oldest waits for 0.0 s\n"
    relay(database)
    check_arrived(memphis, station_name, [b'{"id": 1}', b'{"id": 2}'])
    memphis.detach_schema(station_name)
    rows(database).update(failed_at=None)
    from memphis_sync.contrib.django import clients

    clients.close_all()
    relay(database)
    assert rows(database).count() == 0


def test_what_waits_for_a_broker_that_is_away_stays_and_holds_up_nobody_else(
    broker: Any, database: str, station_name: str
) -> None:
    from django.core.management import CommandError
    from django.test import override_settings

    from memphis_sync.contrib.django import outbox

    with socket.create_server(("127.0.0.1", 0)) as server:
        away = f"memphis://root:memphis@127.0.0.1:{server.getsockname()[1]}/?timeout_ms=100"
    given = {"default": {"URL": broker.url}, "archive": {"URL": away}}
    with override_settings(MEMPHIS=given):
        for number in range(6):
            outbox.enqueue(station_name, f"{number}", using=database, alias="archive")
        outbox.enqueue(station_name, "now", using=database)
        with pytest.raises(CommandError, match="6 messages could not be sent; they wait in the table"):
            relay(database, batch=2)
        assert rows(database).count() == 6
        check(broker, station_name, ["now"])
    with override_settings(MEMPHIS={**given, "archive": {"URL": broker.url}}):
        relay(database, batch=2)
    check(broker, station_name, ["now", *map(str, range(6))])


def test_the_status_fails_when_a_message_waits_for_more_than_a_minute(database: str, station_name: str) -> None:
    from django.utils import timezone

    from memphis_sync.contrib.django import outbox

    assert relay(database, status=True) == "0 pending, 0 failed, the oldest waits for 0.0 s\n"
    outbox.enqueue(station_name, "x", using=database)
    assert relay(database, status=True).startswith("1 pending, 0 failed, the oldest waits for ")
    rows(database).update(created_at=timezone.now() - dt.timedelta(seconds=61))
    with pytest.raises(SystemExit) as caught:
        relay(database, status=True)
    assert caught.value.code == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "--batch is 0; it must be from 1 to 100000"),
        ({"interval": -1.0}, "--interval is -1; it must be a number of seconds"),
        ({"interval": float("nan")}, "--interval is nan"),
        ({"database": "defualt"}, "--database is 'defualt'; did you mean 'default'"),
    ],
)
def test_a_wrong_option_is_named(django_shop: Any, options: dict[str, Any], text: str) -> None:
    from django.core.management import CommandError

    with pytest.raises(CommandError, match=text):
        relay(**options)


def relay_env(broker: Any, database: str) -> dict[str, str]:
    return {**MODULE, "MEMPHIS_URL": broker.url, "SHOP_DATABASE": settings_of(database)}


def kill_relays(start_program: Any, env: dict[str, str], database: str, kills: int, until: Any) -> None:
    """Starts relays that send in small batches, and kills each when it has sent a random part of what is there."""
    for left in range(kills, 0, -1):
        program = start_program("-m", "django", "memphis_outbox", "--batch", "20", "--interval", "0.01", env=env)
        there = rows(database).count()
        goal = there - random.randint(1, max(there // left, 1))
        program.until(lambda goal=goal: rows(database).count() <= goal)
        program.process.kill()
        program.process.wait()


@pytest.mark.parametrize(
    ("kills", "count"), [(KILLS, ROWS), pytest.param(50, 10_000, marks=[pytest.mark.large, pytest.mark.timeout(1500)])]
)
def test_a_relay_that_is_killed_loses_and_doubles_nothing(
    broker: Any, database: str, station_name: str, start_program: Any, kills: int, count: int, until: Any
) -> None:
    with memphis_sync.connect(broker.url) as own:
        own.station(station_name, partitions_number=3)
    bodies = fill(database, station_name, 0, count)
    kill_relays(start_program, relay_env(broker, database), database, kills, until)
    relay(database)
    check(broker, station_name, bodies)


def test_two_relays_at_once_send_each_message_once_and_one_takes_over(
    broker: Any, database: str, station_name: str, start_program: Any, until: Any
) -> None:
    """While the project goes on enqueueing; the one that is left ends in order at SIGTERM and at Ctrl-C."""
    with memphis_sync.connect(broker.url) as own:
        own.station(station_name, partitions_number=3)
    env = relay_env(broker, database)
    command = "-m", "django", "memphis_outbox", "--batch", "10", "--interval", "0.01"
    bodies = fill(database, station_name, 0, 100)
    first, second = (start_program(*command, env=env) for _ in range(2))
    for number in range(100, 300, 20):
        bodies += fill(database, station_name, number, 20)
    second.until(lambda: rows(database).count() < 200)
    first.process.kill()
    bodies += fill(database, station_name, 300, 50)
    second.until(lambda: rows(database).count() == 0)
    os.kill(second.pid, signal.SIGINT if database == "postgres" else signal.SIGTERM)
    assert second.wait() == 0, second.stderr
    assert "Traceback" not in second.stderr
    check(broker, station_name, bodies)
