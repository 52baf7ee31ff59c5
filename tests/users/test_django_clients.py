"""memphis_sync.contrib.django: settings, clients and checks, in this process."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from programs import check_arrived

import memphis_sync
from memphis_sync import ConfigurationError, ConnectError

SECRET = "canary-secret"


@pytest.fixture
def silent() -> Any:
    """The address of a broker that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"memphis://root:{SECRET}@127.0.0.1:{server.getsockname()[1]}"


def problems(**memphis: Any) -> dict[str, str]:
    """What the checks say about a setting: text by id."""
    from django.core.checks import run_checks
    from django.test import override_settings

    with override_settings(MEMPHIS=memphis):
        found = run_checks(tags=["memphis"], include_deployment_checks=True)
    assert all(SECRET not in str(message) for message in found)
    return {message.id.partition(".")[2]: message.msg for message in found}


def access_error(alias: str = "default", **memphis: Any) -> str:
    from django.test import override_settings

    from memphis_sync.contrib.django import clients

    with override_settings(MEMPHIS=memphis), pytest.raises(ConfigurationError) as caught:
        clients[alias]
    return str(caught.value)


# ---- the clients ----------------------------------------------------------------------------------------------------


def test_eight_threads_share_one_client(django_shop: Any, broker: Any, station_name: str) -> None:
    from memphis_sync.contrib.django import clients, memphis

    assert repr(memphis) == "<Memphis 'default' not opened>"
    assert clients.opened() is None
    together = threading.Barrier(8)

    def use(number: int) -> int:
        together.wait(60)
        memphis.produce(station_name, "web", str(number))
        return id(clients["default"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {id(clients["default"])}
    assert clients.opened() is clients["default"]
    assert repr(memphis) == repr(clients["default"])
    with memphis_sync.connect(broker.url) as own:
        assert len({each.connection_id for each in check_arrived(own, station_name, map(str, range(8)))}) == 1


def test_two_aliases_are_two_clients(django_shop: Any, broker: Any) -> None:
    from django.test import override_settings

    from memphis_sync.contrib.django import clients

    with override_settings(MEMPHIS={"default": {"URL": broker.url}, "archive": {"URL": f"{broker.url}/?name=archive"}}):
        assert sorted(clients) == ["archive", "default"]
        assert len(clients) == 2
        assert "archive" in clients
        assert "archives" not in clients
        assert clients["default"].connection_id != clients["archive"].connection_id
        assert "'archive'" in repr(clients["archive"])


def test_the_proxy_is_a_memphis_for_whoever_asks(django_shop: Any) -> None:
    from memphis_sync.contrib.django import memphis

    assert isinstance(memphis, memphis_sync.Memphis)
    assert pickle.loads(pickle.dumps(memphis)) is memphis
    assert copy.copy(memphis) is memphis
    assert "produce" in dir(memphis)
    with pytest.raises(AttributeError, match="prduce"):
        memphis.prduce("orders", "web", "x")
    with pytest.raises((TypeError, AttributeError)), memphis:  # leaving it would close what all threads share
        pass


def test_a_client_that_was_closed_is_opened_again(django_shop: Any, station_name: str) -> None:
    from memphis_sync.contrib.django import clients, memphis

    first = memphis.connection_id
    memphis.close()
    assert clients.opened() is None
    assert memphis.connection_id != first
    clients.close_all()
    memphis.produce(station_name, "web", "x")


def test_settings_of_a_test_have_clients_of_their_own(django_shop: Any, broker: Any) -> None:
    """The client is closed when its settings are gone, and one whose settings stay is kept."""
    from django.conf import settings
    from django.test import override_settings

    from memphis_sync.contrib.django import clients, memphis

    kept = memphis.connection_id
    with override_settings(MEMPHIS={**settings.MEMPHIS, "archive": {"URL": broker.url}}):
        archive = clients["archive"]
        assert memphis.connection_id == kept
    assert not archive.is_connected()
    with pytest.raises(ConfigurationError, match="no alias 'archive'"):
        clients["archive"]
    with override_settings(MEMPHIS={"default": {"URL": f"{broker.url}/?name=other"}}):
        assert memphis.connection_id != kept


def test_requests_do_not_queue_behind_a_broker_that_is_away(django_shop: Any, silent: str, broker: Any) -> None:
    """Nor does anybody who wants another broker."""
    from django.test import override_settings

    from memphis_sync.contrib.django import clients

    memphis = {"default": {"URL": silent, "OPTIONS": {"timeout_ms": 6000}}, "archive": {"URL": broker.url}}
    with override_settings(MEMPHIS=memphis), ThreadPoolExecutor(9) as pool:

        def use(_: int) -> str:
            with pytest.raises(ConnectError) as caught:
                clients["default"]
            return str(caught.value)

        start = time.monotonic()
        tried = [pool.submit(use, number) for number in range(8)]
        assert pool.submit(clients["archive"].ping, 30).result() > 0
        assert not any(each.done() for each in tried)
        texts = [each.result() for each in tried]
        assert time.monotonic() - start < 36  # eight after the other would take 48
        assert all("127.0.0.1" in text and SECRET not in text for text in texts)


def test_an_error_page_shows_no_password(django_shop: Any, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the variables of each frame, and the settings without what a key's name says is secret."""
    from django.test import Client, override_settings

    url = silent.replace(f":{SECRET}", "")
    memphis = {"default": {"URL": url, "PASSWORD": SECRET, "OPTIONS": {"timeout_ms": 100}}}
    with override_settings(MEMPHIS=memphis, DEBUG=True, ROOT_URLCONF="django_shop.urls"):
        monkeypatch.setenv("SHOP_STATION", "orders")
        answer = Client(raise_request_exception=False).get("/fails")
    assert answer.status_code == 500
    assert b"ConnectError" in answer.content
    assert SECRET.encode() not in answer.content


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_opens_a_client_of_its_own(django_shop: Any, station_name: str) -> None:
    """Also when another thread of the parent was about to open one at the fork."""
    from memphis_sync.contrib.django import clients

    place_taken, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with clients._places["default"].lock:
            place_taken.set()
            may_go.wait(60)

    clients["default"]
    clients.close_all()
    thread = threading.Thread(target=hold)
    thread.start()
    place_taken.wait(60)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if clients["default"].produce(station_name, "web", "child").sequence == 1 else 1)
    may_go.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


# ---- settings -------------------------------------------------------------------------------------------------------

GOOD = {"URL": f"memphis://root:{SECRET}@127.0.0.1"}


@pytest.mark.parametrize(
    ("default", "id_", "text"),
    [
        ({"URLS": "x"}, "E001", "MEMPHIS['default'] has the unknown key 'URLS'; did you mean 'URL'?"),
        ({"url": "x"}, "E001", "has the unknown key 'url'; did you mean 'URL'?"),
        ({"Option": {}}, "E001", "did you mean 'OPTIONS'?"),
        ({"STATION": {}}, "E001", "did you mean 'STATIONS'?"),
        ({"xyz": 1}, "E001", "the known ones are"),
        ({**GOOD, "HOST": "b1"}, "E001", "both 'URL' and 'HOST'"),
        ({**GOOD, "OPTIONS": {"timeout": 2}}, "E001", "the unknown option 'timeout'; did you mean 'timeout_ms'?"),
        ({**GOOD, "OPTIONS": {"out_box": "x"}}, "E001", "did you mean 'outbox'?"),
        ({**GOOD, "OPTIONS": {"host": "b1"}}, "E001", "has 'host', which is also given by 'URL' or 'HOST'"),
        ({**GOOD, "PASSWORD": SECRET, "OPTIONS": {"password": SECRET}}, "E001", "also given by 'PASSWORD'"),
        ({**GOOD, "OPTIONS": [1]}, "E001", "['OPTIONS'] is of type list; it must be a dict"),
        ({**GOOD, "STATIONS": ["orders"]}, "E001", "['STATIONS'] is of type list; it must be a dict"),
        ({**GOOD, "STATIONS": {"orders": 3}}, "E001", "['STATIONS']['orders'] is of type int"),
        ({**GOOD, "STATIONS": {"orders": {"partitions": 3}}}, "E001", "did you mean 'partitions_number'"),
        ({**GOOD, "STATIONS": {"orders": {"partitions_number": "3"}}}, "E001", "partitions_number is a str"),
        ({**GOOD, "STATIONS": {"or ders": {}}}, "E001", "name is 'or ders'"),
        ({**GOOD, "STATIONS": {"orders": {"name": "x"}}}, "E001", "'name', which is the key in STATIONS already"),
        ({**GOOD, "WARN_IN_TRANSACTION": 0}, "E001", "['WARN_IN_TRANSACTION'] is 0"),
        ({"URL": "broker"}, "E002", "['URL'] is not a URL; the form is memphis://"),
        ({"URL": f"memphys://root:{SECRET}@h"}, "E002", "scheme 'memphys'"),
        ({"URL": f"memphis://root:{SECRET}#@h"}, "E002", "percent-encode"),
        ({"URL": "memphis://root@h"}, "E002", "password"),
        ({"URL": f"memphis://root:{SECRET}@h/?timeout=1"}, "E002", "did you mean 'timeout_ms'"),
        ({**GOOD, "OPTIONS": {"timeout_ms": "2000"}}, "E002", "timeout_ms is a str"),
        ({"PASSWORD": SECRET}, "E002", "password is given without host"),
    ],
)
def test_a_wrong_setting_is_named_by_a_check_and_at_access_alike(
    django_shop: Any, monkeypatch: pytest.MonkeyPatch, default: dict, id_: str, text: str
) -> None:
    monkeypatch.delenv("MEMPHIS_URL", raising=False)
    found = problems(default=default)
    assert list(found) == [id_]
    assert text in found[id_]
    assert access_error(default=default) == found[id_]


@pytest.mark.parametrize(
    ("memphis", "text"),
    [
        ({"URL": f"memphis://root:{SECRET}@h"}, "MEMPHIS['URL'] is of type str; it must be a dict; the settings stand"),
        ({"default": f"memphis://root:{SECRET}@h"}, "MEMPHIS['default'] is of type str"),
    ],
)
def test_a_setting_without_an_alias_is_named(django_shop: Any, memphis: dict, text: str) -> None:
    assert text in problems(**memphis)["E001"]


def test_an_alias_that_does_not_exist_gets_the_nearest(django_shop: Any) -> None:
    assert access_error("defualt", default=GOOD, archive=GOOD).endswith("no alias 'defualt'; did you mean 'default'?")


def test_no_tls_to_another_machine_is_a_warning_at_deployment(django_shop: Any) -> None:
    from django.core.checks import run_checks
    from django.test import override_settings

    assert problems(default={"URL": "memphis://u:p@broker"})["W001"] == (
        "MEMPHIS['default'] connects to broker:6666 without TLS"
    )
    assert problems(default={"URL": "memphis+tls://u:p@broker"}) == {}
    assert problems(default=GOOD) == {}
    with override_settings(MEMPHIS={"default": {"URL": "memphis://u:p@broker"}}):
        assert run_checks(tags=["memphis"]) == []


def test_a_password_of_its_own_wins_over_the_url_s(django_shop: Any, broker: Any) -> None:
    from django.test import override_settings

    from memphis_sync.contrib.django import memphis

    url, password = broker.url.replace("memphis@", f"{SECRET}@"), "memphis"
    assert url != broker.url
    with override_settings(MEMPHIS={"default": {"URL": url, "PASSWORD": password}}):
        assert memphis.ping(30) > 0


def test_without_a_url_the_environment_names_the_broker(
    django_shop: Any, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And while nothing does, as when an image is built, the checks look at the options only."""
    from django.test import override_settings

    from memphis_sync.contrib.django import memphis

    monkeypatch.delenv("MEMPHIS_URL", raising=False)
    assert problems(default={"URL": "", "OPTIONS": {"name": "shop"}}) == {}
    assert "timeout_ms is 0" in problems(default={"OPTIONS": {"timeout_ms": 0}})["E002"]
    with override_settings(MEMPHIS={"default": {"OPTIONS": {"name": "shop"}}}):
        with pytest.raises(ConfigurationError, match="no broker is named"):
            memphis.ping()
        monkeypatch.setenv("MEMPHIS_URL", broker.url)
        assert memphis.ping(30) > 0
        assert "'shop'" in repr(memphis)
