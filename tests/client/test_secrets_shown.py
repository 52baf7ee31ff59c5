"""A password is in nothing that a program shows by itself: log, warnings, errors, tracebacks, reprs, pickles."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from fix_process import run_python

SECRET = "canary/p#ss?w@rd"
WRONG = "c@nary-wrong#1"

# All that could show one, on one stream: what is refused, what works, a forgotten client, and every logger at DEBUG.
PROGRAM = """
import gc, logging, os, pickle, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
import memphis_sync
from memphis_sync import MemphisError

def show(thing):
    print(repr(thing), str(thing), getattr(thing, "_repr_html_", str)(), getattr(thing, "__dict__", ""))

def fails(*args, **kwargs):
    try:
        memphis_sync.connect(*args, **kwargs)
    except (MemphisError, TypeError) as error:
        traceback.print_exc(file=sys.stdout)
        show(error)
        print(error.args, vars(error), pickle.dumps(error))
        return
    raise AssertionError("it connected")

url, wrong, secret = os.environ["URL"], os.environ["WRONG_URL"], os.environ["SECRET"]
host, port = os.environ["AT"].split()
fails(wrong)
fails(host, "root", password=os.environ["WRONG"], port=int(port))
fails(host, "root", connection_token=os.environ["WRONG"], port=int(port))
fails(url + "?no_such_option=1")
fails(url + "?exit_timeout_s=" + secret[:0] + "x")
fails(f"memphis://root:{secret}@{host}:{port}/")
fails(host, "root", password=secret, connection_token=secret)
fails(host, "root", password=secret, port="x" + port)
fails(host, "root", password=secret, exit_timeout=1)
memphis = memphis_sync.connect(url)
show(memphis)
station = memphis.station("orders")
show(station)
producer = memphis.producer("orders", "shop")
show(producer)
show(producer.produce(b"x"))
consumer = memphis.consumer("orders", "billing")
show(consumer)
for message in consumer.fetch(1, timeout_s=10):
    show(message)
    message.ack()
show(memphis.stats())
for seen in memphis.connections():
    show(seen)
try:
    pickle.dumps(memphis)
except TypeError:
    traceback.print_exc(file=sys.stdout)
print("all shown", flush=True)
del memphis, station, producer, consumer, message
gc.collect()
"""


@pytest.mark.parametrize("mode", [(), ("-X", "dev")], ids=["plain", "dev"])
def test_no_channel_shows_a_password(mode: tuple[str, ...], fresh_broker: Any) -> None:
    broker = fresh_broker(root_password=SECRET)
    address = f"{broker.host}:{broker.port}"
    env = {
        "URL": f"memphis://root:{quote(SECRET, safe='')}@{address}/",
        "WRONG_URL": f"memphis://root:{quote(WRONG, safe='')}@{address}/",
        "SECRET": SECRET,
        "WRONG": WRONG,
        "AT": f"{broker.host} {broker.port}",
    }
    done = run_python(*mode, "-c", PROGRAM, env=env, timeout_s=90)
    printed = done.stdout.decode() + done.stderr.decode()
    assert "all shown" in printed
    assert "AuthenticationError" in printed
    assert "ResourceWarning" in printed or not mode, "the forgotten client was reported"
    forms = [form for secret in (SECRET, WRONG) for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])]
    assert [line for line in printed.splitlines() if any(form in line for form in [*forms, "canary", "c@nary"])] == []
