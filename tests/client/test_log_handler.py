"""The handler that produces a program's log records: it never holds anybody up, and never talks about itself."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from fix_process import said_beside_the_wait

import memphis_sync


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the program's, which reaches no other handler."""
    made = logging.Logger("shop")  # noqa: LOG001  it belongs to one test
    yield made
    for handler in made.handlers:
        handler.close()


@pytest.fixture
def on_root() -> Iterator[logging.Logger]:
    """The root logger at DEBUG."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.setLevel(logging.DEBUG)
    yield root
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()


def records(memphis: memphis_sync.Memphis, station: str) -> list[bytes]:
    return [bytes(message.data) for message in memphis.fetch_messages(station, "reader", until_end=True)]


def test_a_record_becomes_a_json_object(memphis, station_name, logger) -> None:
    handler = memphis_sync.LogHandler(station_name, "web", memphis)
    logger.addHandler(handler)
    try:
        raise KeyError("boom")
    except KeyError:
        logger.exception("order %d", 7, extra={"customer": object, "number": 3})
    handler.flush(30)
    (found,) = map(json.loads, records(memphis, station_name))
    assert (found["level"], found["logger"], found["message"], found["number"]) == ("ERROR", "shop", "order 7", 3)
    assert found["customer"] == "<class 'object'>"
    assert "KeyError: 'boom'" in found["exception"]
    assert (found["file"], found["thread"]) == (__file__, threading.current_thread().name)
    assert found["time"].endswith("+00:00")
    assert handler.dropped == 0


def test_a_formatter_makes_the_text_and_a_level_and_a_filter_choose(memphis, station_name, logger) -> None:
    handler = memphis_sync.LogHandler(station_name, client=memphis, level="WARNING")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.addHandler(handler)
    for text in ("quiet", "loud", "secret", "\ud800"):
        logger.log(logging.INFO if text == "quiet" else logging.WARNING, text)
    handler.flush(30)
    assert records(memphis, station_name) == [b"WARNING loud", b"WARNING \\ud800"]


def test_records_about_the_client_are_not_sent(broker, memphis, station_name, on_root, caplog, until) -> None:
    """Neither its own nor those that asyncio and nats-py write on its threads; else each would cause the next."""
    with memphis_sync.connect(broker.url, name="shipper") as shipper:
        on_root.addHandler(memphis_sync.LogHandler(station_name, "web", shipper))
        with memphis_sync.connect(broker.url, name="other") as other:  # opens, works and closes at DEBUG
            other.fetch_messages(station_name, "another")
            other._session.loop.post(logging.getLogger("asyncio").warning, "on its loop")
            until(lambda: "on its loop" in caplog.text)
        logging.getLogger("memphis_sync_shop").info("another package")
        assert shipper.flush(30) == 0
    assert [json.loads(record)["message"] for record in records(memphis, station_name)] == ["another package"]


def test_a_full_queue_drops_records_and_says_how_many(broker, proxy_to, station_name, logger, caplog, until) -> None:
    proxy = proxy_to(broker.host, broker.port)
    url = f"memphis://root:memphis@127.0.0.1:{proxy.port}"
    client = memphis_sync.connect(url, outbox_max_messages=50)
    handler = memphis_sync.LogHandler(station_name, "web", client)
    logger.addHandler(handler)
    logger.info("registers")
    handler.flush(30)
    proxy.stall()
    start = time.monotonic()
    for number in range(1000):
        logger.info("record %d", number)
    assert time.monotonic() - start < 5  # a blocking produce waits 15 s for each
    assert handler.dropped == 950
    until(lambda: "log records were dropped" in caplog.text)
    handler.flush(0)
    until(lambda: sum(record.args[1] for record in caplog.records if "dropped" in record.msg) == 950)
    with pytest.warns(memphis_sync.UndeliveredWarning):
        client.close(0)
    logger.info("after the end")
    assert handler.dropped == 951


def test_a_record_of_a_signal_handler_and_of_a_destructor(memphis, station_name, logger, until) -> None:
    handler = memphis_sync.LogHandler(station_name, "web", memphis)
    logger.addHandler(handler)
    count: list[str] = []  # an append is one step, which no signal interrupts

    class Dies:
        def __del__(self) -> None:
            count.append("dies")
            logger.info("dies")

    def on_signal(*_: object) -> None:
        count.append("signal")
        logger.info("signal")

    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        until(lambda: [logger.info("x") or Dies() for _ in range(100)] and len(count) > 500)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handler.flush(30)
    assert handler.dropped == 0
    found = [json.loads(record)["message"] for record in records(memphis, station_name)]
    assert sorted(text for text in found if text != "x") == sorted(count)


def test_what_a_formatter_raises_goes_to_no_caller(memphis, station_name, logger, capsys) -> None:
    logger.addHandler(memphis_sync.LogHandler(station_name, "web", memphis))
    logger.info("%d", "no number")
    assert "TypeError" in capsys.readouterr().err
    assert memphis.stats().accepted == 0


@pytest.mark.parametrize(("option", "value"), [("station_name", ""), ("producer_name", "a b"), ("client", 7)])
def test_a_bad_argument_is_named(option: str, value: object) -> None:
    with pytest.raises(memphis_sync.ConfigurationError, match=option):
        memphis_sync.LogHandler(**{"station_name": "logs", option: value})


DICT_CONFIG = """
import logging.config, os, sys
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"station": {"class": "memphis_sync.LogHandler", "station_name": sys.argv[1], "client": sys.argv[2]}},
    "root": {"handlers": ["station"], "level": "DEBUG"},
})
logging.info("hello")
"""


def test_a_program_that_logs_one_line_and_ends_sends_it(run_python, broker, memphis, station_name) -> None:
    done = run_python("-W", "error", "-c", DICT_CONFIG, station_name, broker.url, timeout_s=60)
    assert said_beside_the_wait(done.stderr) == []
    assert [json.loads(record)["message"] for record in records(memphis, station_name)] == ["hello"]


def test_a_broker_that_is_away_holds_a_program_up_for_a_while_and_is_told(run_python, refused_address) -> None:
    url = "memphis://root:memphis@{}:{}".format(*refused_address)
    done = run_python("-c", DICT_CONFIG + "logging.info('again')", "logs", url, timeout_s=60)
    assert b"2 log records were dropped" in done.stderr
    assert b"Traceback" not in done.stderr


def test_errors_of_the_client_are_still_seen_where_it_is_the_only_handler(run_python, broker, station_name) -> None:
    script = DICT_CONFIG + "logging.getLogger('memphis_sync.produce').error('seen')"
    done = run_python("-c", script, station_name, broker.url, timeout_s=60)
    # A busy machine may take its time at the end, and then the client says so.
    assert said_beside_the_wait(done.stderr) == [b"memphis_sync: seen"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_is_not_held_up_by_the_handler_of_its_parent(run_python, broker, station_name) -> None:
    script = (
        DICT_CONFIG
        + """
import threading
logging.getLogger().handlers[0].flush(30)
threading.Thread(target=lambda: [logging.info("x") for _ in range(20000)], daemon=True).start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        logging.info("of the child")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    )
    run_python("-W", "ignore::DeprecationWarning", "-c", script, station_name, broker.url, timeout_s=60)
