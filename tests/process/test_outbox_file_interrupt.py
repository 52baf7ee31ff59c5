"""The end of a client with an outbox file that is interrupted twice: whoever opens the file next gets what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parents[1] / "support"

LINES = 29  # from one place to the next; 1 tries them all, in three minutes

PROGRAM = """
import os, signal, sys, time
import memphis_sync
from fix_proxy import Proxy
direct, station, path = os.environ["TEST_URL"], os.environ["TEST_STATION"], os.environ["TEST_OUTBOX"]
port = int(direct.rpartition(":")[2])
proxy = Proxy(("127.0.0.1", port))
url = direct.replace(str(port), str(proxy.port))
memphis_sync.connect(url).close()  # what is imported late is there now

def interrupted(call, second):
    # Ctrl-C while the call waits, and again before the second-th line of ours after that. Gives whether it came so far.
    left, is_over = second, False
    def trace(frame, event, _):
        nonlocal left, is_over
        if event == "line" and "memphis_sync" in frame.f_code.co_filename and not is_over:
            left -= 1
            if left == 0:
                is_over = True
                raise KeyboardInterrupt
        return trace
    def first(number, frame):
        above, names = frame, set()
        while above is not None:
            above, names = above.f_back, names | {above.f_code.co_name}
        if "end_steps" not in names:  # it does not wait yet
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        sys.settrace(trace)
        while frame is not None:
            frame.f_trace, frame = trace, frame.f_back
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, first)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        call()
    except KeyboardInterrupt as exc:
        kept.append(exc)
    finally:
        sys.settrace(None)
    return is_over

kept, second, has_next = [], 1, True
while has_next:
    client = memphis_sync.connect(url, outbox=path)
    assert client.stats().recovered == (second > 1), second
    producer = client.producer(station, "p")
    client.flush(60)
    proxy.down()
    while client.is_connected():
        time.sleep(0.001)
    producer.produce(b"queued", nonblocking=True)
    has_next = interrupted(lambda: client.close(60), second)
    proxy.up()
    second += int(os.environ["TEST_STEP"])
print(len(kept), flush=True)
with memphis_sync.connect(direct, outbox=path) as client:
    assert client.stats().recovered == 1
proxy.close()
"""


def test_the_file_is_free_wherever_two_interruptions_end_a_close(
    run_python: Any, broker: Any, memphis: Any, station_name: str, tmp_path: Any
) -> None:
    """The tracebacks are kept, and with them all that the close() has had in its hands."""
    memphis.station(station_name)
    env = {
        "TEST_URL": broker.url,
        "TEST_STATION": station_name,
        "TEST_OUTBOX": str(tmp_path / "outbox"),
        "TEST_STEP": str(LINES),
        "PYTHONPATH": str(SUPPORT),
    }
    done = run_python("-W", "ignore", "-c", PROGRAM, env=env, timeout_s=110)
    assert int(done.stdout) > 3
