"""manage.py memphis_consume and memphis_stations, and the checks of a project in processes of its own."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from fix_django import MODULE

import memphis_sync


def call(*args: str, **options: Any) -> str:
    from django.core.management import call_command

    out = io.StringIO()
    call_command(*args, stdout=out, **options)
    return out.getvalue()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


# ---- memphis_consume -------------------------------------------------------------------------------------------------


@pytest.fixture
def consume(shop_env: dict[str, str], shop_tables: None, start_program: Any) -> Any:
    """``consume(*options)`` starts the command in the test's folder; the tables are there."""

    def start(*options: str) -> Any:
        return start_program("-m", "django", "memphis_consume", "django_shop.handlers.on_order", *options, env=shop_env)

    return start


def test_a_consumer_that_is_killed_in_the_middle_of_a_message_loses_none(
    memphis: Any, station_name: str, consume: Any, tmp_path: Path
) -> None:
    """Another one gets it, and what it had fetched, after the ack time."""
    (tmp_path / "stop-at").write_text("5")
    memphis.producer(station_name, "p").produce_many(map(str, range(20)))
    consumer = consume()
    consumer.until(lambda: "5" in lines(tmp_path / "begun"))
    consumer.process.kill()
    (tmp_path / "stop-at").unlink()
    consumer = consume()
    consumer.until(lambda: {line.split()[0] for line in lines(tmp_path / "handled")} == set(map(str, range(20))))
    os.kill(consumer.pid, signal.SIGINT)
    assert consumer.wait() == 0, consumer.stderr
    assert all("with a new connection" in line for line in lines(tmp_path / "handled"))


def test_sigterm_ends_a_consumer_after_the_current_message(
    memphis: Any, station_name: str, consume: Any, manage: Any, tmp_path: Path
) -> None:
    (tmp_path / "stop-at").write_text("3")
    memphis.producer(station_name, "p").produce_many(map(str, range(6)))
    consumer = consume()
    consumer.until(lambda: "3" in lines(tmp_path / "begun"))
    consumer.terminate()
    (tmp_path / "stop-at").unlink()
    assert consumer.wait() == 0, consumer.stderr
    assert [line.split()[0] for line in lines(tmp_path / "handled")] == ["0", "1", "2", "3"]
    assert f"4 messages of {station_name} handled" in consumer.stderr
    manage("memphis_consume", "django_shop.handlers:on_order", "--max-messages", "2", "--idle-exit", "50")
    assert sorted(line.split()[0] for line in lines(tmp_path / "handled")) == ["0", "1", "2", "3", "4", "5"]


def test_a_second_signal_ends_a_consumer_at_once(memphis: Any, station_name: str, consume: Any, tmp_path: Path) -> None:
    (tmp_path / "stop-at").write_text("0")
    memphis.produce(station_name, "p", "0")
    consumer = consume()
    consumer.until(lambda: "0" in lines(tmp_path / "begun"))
    consumer.terminate()
    consumer.terminate()
    consumer.until(lambda: consumer.process.poll() is not None or consumer.terminate())
    assert consumer.process.returncode != 0
    assert lines(tmp_path / "handled") == []


def test_a_consumer_starts_again_when_the_code_changes(
    memphis: Any, station_name: str, consume: Any, tmp_path: Path, shop_env: dict[str, str], start_program: Any
) -> None:
    (tmp_path / "shop_extra.py").write_text(
        "import os\n"
        "from memphis_sync.contrib.django import handler\n"
        "@handler(os.environ['SHOP_STATION'], group='extra')\n"
        "def on_order(message):\n"
        "    print('handled', bytes(message.data).decode(), 'in', os.getpid(), flush=True)\n"
    )
    env = {**shop_env, "PYTHONPATH": f"{MODULE['PYTHONPATH']}{os.pathsep}{tmp_path}"}
    program = start_program("-m", "django", "memphis_consume", "shop_extra.on_order", "--autoreload", env=env)
    memphis.produce(station_name, "p", "1")
    program.until(lambda: "handled 1 in " in program.stdout)
    first = program.stdout.split()[-1]

    def is_gone() -> bool:
        if not Path("/proc", first).exists():
            return True
        with (tmp_path / "shop_extra.py").open("a") as code:
            code.write("#\n")
        return False

    program.until(is_gone)
    memphis.produce(station_name, "p", "2")
    program.until(lambda: "handled 2 in " in program.stdout)
    assert program.stdout.split()[-1] != first
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    program.wait()
    assert program.processes() == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("django_shop.handlers.on_oder",), "did you mean 'on_order'"),
        (("django_shop.handler.on_order",), "did you mean 'django_shop.handlers'"),
        (("on_order",), "it must be package.module.function"),
        (("django_shop.views.order",), "no handler"),
        (("django_shop.handlers.on_order", "--batch-size", "0"), "--batch-size is 0; it must be from 1 to 5000"),
        (("django_shop.handlers.on_order", "--max-messages", "0"), "--max-messages is 0; it must be 1 or more"),
        (("django_shop.handlers.on_order", "--idle-exit", "0"), "--idle-exit is 0; it must be a number of seconds"),
    ],
)
def test_a_wrong_path_or_option_is_named_before_any_connection(
    django_shop: Any, args: tuple[str, ...], text: str
) -> None:
    from django.core.management import CommandError

    from memphis_sync.contrib.django import clients

    with pytest.raises(CommandError, match=text):
        call("memphis_consume", *args)
    assert clients.opened() is None


def test_a_handler_of_an_alias_that_does_not_exist_is_named_by_the_command_and_the_check(
    django_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.checks import run_checks
    from django.core.management import CommandError

    from memphis_sync.contrib.django import handler, memphis

    extra = types.ModuleType("django_shop.extra")

    def on_mail(message: Any) -> None:
        """Of an alias that is not there."""

    on_mail.__module__, on_mail.__qualname__ = "django_shop.extra", "on_mail"
    extra.on_mail = handler("mails", group="mailer", alias="defalt")(on_mail)  # type: ignore[attr-defined]
    extra.memphis = memphis  # type: ignore[attr-defined]  its names are not asked for a handler
    monkeypatch.setitem(sys.modules, "django_shop.extra", extra)
    (error,) = run_checks(tags=["memphis"])
    assert error.id == "memphis.E003"
    assert "django_shop.extra.on_mail is of the alias 'defalt'" in error.msg
    assert error.msg.endswith("did you mean 'default'?")
    with pytest.raises(CommandError, match="on_mail: MEMPHIS has no alias 'defalt'; did you mean 'default'"):
        call("memphis_consume", "django_shop.extra.on_mail", skip_checks=True)


def test_the_handlers_of_an_app_are_checked_though_nothing_imports_them(manage: Any) -> None:
    done = manage("check", env={"SHOP_ALIAS": "archive"}, check=False)
    assert done.returncode == 1
    assert b"(memphis.E003) the handler django_shop.handlers.on_order is of the alias 'archive'" in done.stderr


def test_checks_and_migrations_open_no_connection(manage: Any) -> None:
    """Not even where the broker is away, as when an image is built; `migrate` runs the checks as well."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"memphis://root:memphis@127.0.0.1:{server.getsockname()[1]}"
        manage("migrate", "--verbosity", "0", env={"MEMPHIS_URL": url})
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- memphis_stations ------------------------------------------------------------------------------------------------


def test_stations_are_made_as_the_settings_say_and_compared_with_them(
    django_shop: Any, broker: Any, memphis: Any, station_name: str
) -> None:
    from django.core.management import CommandError
    from django.test import override_settings

    memphis.create_schema(f"{station_name}-s", "json", schema_content="{}")
    given = {
        "partitions_number": 2,
        "retention_type": memphis_sync.Retention.MESSAGES,
        "retention_value": 1000,
        "storage_type": memphis_sync.Storage.MEMORY,
        "idempotency_window_ms": 60_000,
        "replicas": 1,
        "schema_name": f"{station_name}-s",
    }
    listed = {station_name: given, f"{station_name}-plain": {}}
    with override_settings(MEMPHIS={"default": {"URL": broker.url, "STATIONS": listed}}):
        with pytest.raises(CommandError, match="2 of 2 stations are missing or different"):
            call("memphis_stations", check=True)
        assert call("memphis_stations") == f"{station_name}: created\n{station_name}-plain: created\n"
        assert call("memphis_stations", check=True).count("is as the settings say") == 2
    listed[station_name] = {**given, "partitions_number": 3, "retention_type": memphis_sync.Retention.BYTES}
    with override_settings(MEMPHIS={"default": {"URL": broker.url, "STATIONS": listed}}):
        assert call("memphis_stations").splitlines()[:2] == [
            f"{station_name}: partitions_number is 2, the settings say 3",
            f"{station_name}: retention_type is MESSAGES, the settings say BYTES",
        ]
        with pytest.raises(CommandError, match="1 of 2 stations are missing or different"):
            call("memphis_stations", check=True)


def test_stations_of_wrong_settings_and_of_none(django_shop: Any, broker: Any) -> None:
    from django.core.management import CommandError
    from django.test import override_settings

    assert call("memphis_stations") == "settings.MEMPHIS lists no STATIONS\n"
    away = {"URL": "memphis://u:p@127.0.0.1:1", "STATIONS": {"orders": {}}}
    with override_settings(MEMPHIS={"default": away}), pytest.raises(CommandError, match=r"default: .*127\.0\.0\.1:1"):
        call("memphis_stations")


# ---- WARN_IN_TRANSACTION ---------------------------------------------------------------------------------------------


def test_under_debug_a_produce_inside_a_transaction_draws_one_warning_a_call_site(
    django_shop: Any, broker: Any, station_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import transaction
    from django.test import TestCase, override_settings

    from memphis_sync.contrib.django import clients, memphis, outbox, produce_on_commit

    def warnings() -> list[str]:
        return [each.getMessage() for each in caplog.records if "inside a transaction" in each.getMessage()]

    def twice() -> None:
        for _ in range(2):
            memphis.produce(station_name, "web", "x", nonblocking=True)

    with override_settings(DEBUG=True):
        twice()
        assert warnings() == []
        with transaction.atomic():
            twice()
            memphis.producer(station_name, "web").produce("y")
            outbox.enqueue(station_name, "z")
            with TestCase.captureOnCommitCallbacks(execute=True):
                produce_on_commit(station_name, "z")
        assert len(warnings()) == 2
        assert all(f"{__file__}:" in text and f"to {station_name} inside" in text for text in warnings())
        assert warnings()[0].endswith("see produce_on_commit")
        clients.close_all()
        call("memphis_outbox", once=True)
        assert len(warnings()) == 2
    caplog.clear()
    clients.close_all()
    silenced = {"default": {"URL": broker.url, "WARN_IN_TRANSACTION": False}}
    with override_settings(DEBUG=True, MEMPHIS=silenced), transaction.atomic():
        memphis.produce(station_name, "web", "x")
    with transaction.atomic():
        memphis.produce(station_name, "web", "x")
    assert warnings() == []
