"""
In a notebook: cells are run again, interrupted, and run while a loop runs in their thread. A real kernel for the whole
module, driven as a front end drives it.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import blocks

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notebooks.md"
LIMIT_S = 60.0

SETUP = """
import asyncio, gc, threading, time
import memphis_sync
URL = {url!r}

def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("memphis-")]

def until(condition, limit_s=40):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition(), [thread.name for thread in ours()]
"""


class Kernel:
    """An IPython kernel in a process of its own; ``run(cell)`` gives what the cell printed."""

    def __init__(self) -> None:
        from jupyter_client import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(env={**os.environ, "PYTHONFAULTHANDLER": "1"})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_S)

    def begin(self, cell: str) -> str:
        """Sends a cell; gives its message id."""
        return self.client.execute(cell, allow_stdin=False)

    def finish(self, sent: str) -> tuple[str, str, str]:
        """What the cell printed, its result as HTML, and the name of its error, "" without one."""
        printed, shown, error = "", "", ""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                self.manager.signal_kernel(signal.SIGABRT)
                pytest.fail(f"the cell did not end within {LIMIT_S:g} s; so far: {printed}")
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind in {"execute_result", "display_data"}:
                shown += content["data"].get("text/html", "")
            elif kind == "error":
                error = content["ename"]
                printed += "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, shown, error

    def run(self, cell: str) -> str:
        """Runs a cell to its end; gives what it printed."""
        printed, _, error = self.finish(self.begin(cell))
        assert not error, printed
        return printed

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel(broker: Any) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        made = Kernel()
        try:
            made.run(SETUP.format(url=broker.url))
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def nothing_left(kernel: Kernel) -> Iterator[None]:
    """After each test nothing of the client's runs in the kernel any more."""
    yield
    kernel.run("%reset -f out\nmemphis = consumer = app = None; gc.collect(); until(lambda: not ours())")


CELL = """
memphis = memphis_sync.connect(URL)
memphis.produce({station!r}, "cell", b"begins")
consumer = memphis.consumer({station!r}, "notebook", batch_size=10)
got = []
consumer.consume(lambda messages, error, context, got=got: [(got.append(m.data), m.ack()) for m in messages])
"""


def test_a_cell_that_is_run_again_leaves_no_thread_and_gets_all_messages(kernel: Kernel, station_name: str) -> None:
    cell = CELL.format(station=station_name)
    kernel.run(cell)
    kernel.run("until(lambda: got)")
    once = int(kernel.run("print(len(ours()))"))
    for _ in range(5):
        kernel.run(cell)
    # Nothing is collected by hand: a name that is bound anew is enough.
    kernel.run(f"until(lambda: len(ours()) <= {once})")
    kernel.run("until(lambda: len(got) == 1); got.clear()")
    kernel.run(f"memphis.producer({station_name!r}, 'p').produce_many(b'x' for _ in range(300))")
    kernel.run("until(lambda: len(got) == 300)")


def test_a_consumer_that_out_still_refers_to_gives_its_place_to_the_next(kernel: Kernel, station_name: str) -> None:
    kernel.run("memphis = memphis_sync.connect(URL)")
    cell = f"""
got = []
consumer = memphis.consumer({station_name!r}, "notebook")
consumer.consume(lambda messages, error, context, got=got: [(got.append(m.data), m.ack()) for m in messages])
consumer
"""
    for _ in range(4):
        kernel.run(cell)
    kernel.run("until(lambda: sum('consume' in thread.name for thread in ours()) == 1)")
    kernel.run(f"memphis.producer({station_name!r}, 'p').produce_many(b'x' for _ in range(300))")
    kernel.run("until(lambda: len(got) == 300)")
    kernel.run("memphis.close()")


@pytest.mark.parametrize(
    "wait",
    [
        "consumer.fetch(10, timeout_s=100)",
        "next(iter(consumer))",
        "memphis.fetch_messages(consumer.station_name, 'another', timeout_s=100)",
        "gone.produce(b'x', nonblocking=True); memphis.flush()",
    ],
)
def test_an_interrupt_ends_a_wait_for_messages_and_the_client_goes_on(
    kernel: Kernel, station_name: str, wait: str
) -> None:
    patient = "no_responders_retry=memphis_sync.RetryPolicy(attempts=100, pause_ms=1000)"
    kernel.run(f"""
memphis = memphis_sync.connect(URL, {patient})
consumer = memphis.consumer({station_name!r}, "notebook")
gone = memphis.producer({station_name!r} + "-gone", "p", ack_timeout_s=100)
memphis.destroy_station({station_name!r} + "-gone")
""")
    sent = kernel.begin(f"print('waits', flush=True)\n{wait}")
    while kernel.client.get_iopub_msg(timeout=LIMIT_S)["msg_type"] != "stream":
        pass
    start = time.monotonic()
    kernel.manager.interrupt_kernel()
    printed, _, error = kernel.finish(sent)
    assert error == "KeyboardInterrupt", printed
    assert time.monotonic() - start < 10  # 0.3 s on a machine that is not busy
    kernel.run(f"memphis.produce({station_name!r}, 'p', b'later')")
    assert "later" in kernel.run("print([message.data for message in consumer.fetch(10, timeout_s=30)])")
    kernel.run("memphis.close(0)")


def test_every_call_works_while_a_loop_runs_in_the_calling_thread(kernel: Kernel, station_name: str) -> None:
    printed = kernel.run(f"""
asyncio.get_running_loop()  # the kernel's own
with memphis_sync.connect(URL) as memphis:
    station = memphis.station({station_name!r})
    with memphis.producer(station.name, "p") as producer:
        producer.produce(b"1")
        assert producer.produce(b"2", nonblocking=True).result(30).sequence == 2
        assert producer.produce_many([b"3"]).delivered == 1
        assert memphis.flush() == 0 and memphis.ping(30) > 0
    with memphis.consumer(station.name, "c") as consumer:
        for message in consumer.read_all():
            message.ack(wait=True)
            print(message.data)
        consumer.destroy()
    station.destroy()
import sys; assert "nest_asyncio" not in sys.modules
""")
    assert [line for line in printed.splitlines() if line] == ["b'1'", "b'2'", "b'3'"]


def test_a_notebook_runs_from_its_first_cell_to_its_last(broker: Any, station_name: str) -> None:
    import nbclient
    import nbformat

    cells = [
        f"import memphis_sync\nmemphis = memphis_sync.connect({broker.url!r})",
        f"memphis.produce({station_name!r}, 'notebook', {{'id': 7}}).sequence",
        f"messages = memphis.fetch_messages({station_name!r}, 'reader', timeout_s=30)\nmessages[0].ack()\nmessages",
        "memphis.close()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=LIMIT_S, kernel_name="python3").execute()
    assert notebook.cells[1].outputs[0]["data"]["text/plain"] == "1"


def test_the_page_s_cells_run_one_after_the_other_and_the_last_shows_a_figure(fresh_broker: Any) -> None:
    import nbclient
    import nbformat

    url = fresh_broker().url
    cells = [block.code for block in blocks("", PAGE.read_text()) if block.language == "python"]
    assert "plt.plot" in cells[-1]
    cells.insert(0, f"import os\nos.environ['MEMPHIS_URL'] = {url!r}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=LIMIT_S, kernel_name="python3").execute()
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs)


def test_what_the_calls_return_shows_itself_without_a_request_and_without_a_secret(
    kernel: Kernel, station_name: str
) -> None:
    kernel.run(f"""
memphis = memphis_sync.connect(URL)
station = memphis.station({station_name!r})
producer, consumer = memphis.producer(station.name, "p"), memphis.consumer(station.name, "c")
for number in range(30):
    producer.produce(b"<script>" + b"x" * 1000, headers={{"kind": "<b>"}})
messages = consumer.fetch(100, timeout_s=30)
""")
    shown = {
        name: kernel.finish(kernel.begin(name))[1]
        for name in ["memphis", "station", "producer", "consumer", "messages", "messages[0]", "memphis.stats()"]
    }
    assert all("<table>" in html and len(html) < 20_000 for html in shown.values()), shown
    assert all("<script" not in html and "<b>" not in html for html in shown.values())
    assert "<td>delivered</td><td>30</td>" in shown["memphis"]
    assert "30 messages" in shown["messages"]
    assert "and 10 more" in shown["messages"]
    assert "&lt;script&gt;xxx" in shown["messages[0]"]
    assert "root:memphis" not in str(shown)
    kernel.run("memphis.close()")
    for name in shown:
        assert "<table>" in kernel.finish(kernel.begin(name))[1]
