"""The Django project of tests/users/django_shop: in this process, and in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from fix_process import run_python

USERS = Path(__file__).parents[1] / "users"
ENGINE = {"ENGINE": "django.db.backends.sqlite3"}
PYTHONPATH = os.pathsep.join(filter(None, [str(USERS), os.environ.get("PYTHONPATH", "")]))
MODULE = {"DJANGO_SETTINGS_MODULE": "django_shop.settings", "PYTHONPATH": PYTHONPATH}


class UndoError(Exception):
    """Rolls a block back."""


@contextlib.contextmanager
def undone(using: str = "default") -> Iterator[None]:
    """A transaction, or a savepoint in one, that is rolled back by an exception."""
    from django.db import transaction

    with contextlib.suppress(UndoError), transaction.atomic(using=using):
        yield
        raise UndoError


@pytest.fixture(scope="session")
def _django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Django's settings are the process's, so they are set up once; the environment stays as it is."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    folder = tmp_path_factory.mktemp("shop")
    sys.path.insert(0, str(USERS))
    from django_shop import settings as shop

    given = {name: value for name, value in vars(shop).items() if name.isupper()}
    databases = {name: {**ENGINE, "NAME": str(folder / name)} for name in ("default", "other")}
    settings.configure(**{**given, "LOGGING_CONFIG": None, "DATABASES": databases, "MEMPHIS": {"default": {}}})
    django.setup()
    for name in databases:
        call_command("migrate", database=name, verbosity=0)
    yield
    from django.db import connections

    connections.close_all()


@pytest.fixture
def django_shop(_django: None, broker: Any) -> Iterator[Any]:
    """The project in this process, whose ``default`` is the session's broker; its clients are closed afterwards."""
    from django.db import connections
    from django.test import override_settings

    from memphis_sync.contrib.django import clients

    with override_settings(MEMPHIS={"default": {"URL": broker.url}}):
        yield sys.modules["django_shop"]
        clients.close_all()
    from django_shop.models import Order

    from memphis_sync.contrib.django.outbox.models import OutboxMessage

    for name in connections.settings:
        Order.objects.using(name).all().delete()
        OutboxMessage.objects.using(name).all().delete()
    connections.close_all()


@pytest.fixture(params=["default", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, django_shop: Any) -> str:
    """The name of a database of the project: SQLite, and PostgreSQL."""
    from django.core.management import call_command
    from django.db import connections

    if request.param not in connections.settings:
        given = {"default": {**ENGINE, "NAME": ""}, request.param: request.getfixturevalue(request.param)}
        connections.settings[request.param] = connections.configure_settings(given)[request.param]
        call_command("migrate", database=request.param, verbosity=0)
    return request.param


def settings_of(database: str) -> str:
    """A database of this process's project, for SHOP_DATABASE of another one."""
    from django.db import connections

    given = connections[database].settings_dict
    return json.dumps({key: str(given[key]) for key in ("ENGINE", "NAME", "HOST", "USER") if given[key]})


@pytest.fixture
def shop_env(broker: Any, tmp_path: Path, station_name: str) -> dict[str, str]:
    """The environment of the project in a process of its own, with a database in the test's folder."""
    database = {**ENGINE, "NAME": str(tmp_path / "shop.sqlite3")}
    return {**MODULE, "MEMPHIS_URL": broker.url, "SHOP_STATION": station_name, "SHOP_DATABASE": json.dumps(database)}


@pytest.fixture
def shop_tables(_django: None, shop_env: dict[str, str]) -> None:
    """The tables in that database: a copy of this process's, since migrating takes seconds."""
    from django.db import connections

    shutil.copy(connections["default"].settings_dict["NAME"], json.loads(shop_env["SHOP_DATABASE"])["NAME"])


@pytest.fixture
def manage(shop_env: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """``manage("check", "--deploy", env=, check=)`` runs one of the project's commands to its end."""

    def run(*args: str, env: Any = None, **options: Any) -> Any:
        options.setdefault("timeout_s", 60)
        return run_python("-m", "django", *args, env={**shop_env, **(env or {})}, cwd=tmp_path, **options)

    return run
