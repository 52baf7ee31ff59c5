"""multiprocessing and ProcessPoolExecutor with each start method: what ends by itself sends what it has queued."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from programs import check_arrived, read_back

EACH = 100
PROGRAM = """
import functools, multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
import memphis_sync

@functools.lru_cache(None)
def memphis():
    return memphis_sync.connect()

def work(who, each=int(os.environ["TEST_EACH"])):
    producer = memphis().producer(os.environ["TEST_STATION"], "worker")
    for number in range(each):
        producer.produce(f"{who} {number}", nonblocking=True)
    return who

def work_and_wait(who, has_worked):
    work(who)
    has_worked.set()
    time.sleep(60)

if __name__ == "__main__":
    method, kind = sys.argv[1:]
    context = multiprocessing.get_context(method)
    work("parent", 100)
    if kind == "Process":
        processes = [context.Process(target=work, args=(number,)) for number in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        print([process.exitcode for process in processes])
    elif kind == "Pool":
        pool = context.Pool(2)
        print(sorted(pool.map(work, range(2), chunksize=1)))
        pool.close()
        pool.join()
    elif kind == "ProcessPoolExecutor":
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            print(sorted(pool.map(work, range(2))))
    else:
        has_worked = context.Event()
        process = context.Process(target=work_and_wait, args=("child", has_worked))
        process.start()
        assert has_worked.wait(60)
        getattr(process, kind)()
        process.join(60)
        print(process.exitcode)
"""
CASES = [
    *(("fork", kind) for kind in ("Process", "Pool", "ProcessPoolExecutor")),
    *((method, kind) for method in ("forkserver", "spawn") for kind in ("Process", "ProcessPoolExecutor")),
]
SAID = {"Process": "[0, 0]\n", "Pool": "[0, 1]\n", "ProcessPoolExecutor": "[0, 1]\n"}


def start(start_program: Any, folder: Path, url: str, station: str, *args: str, each: int = EACH) -> Any:
    (folder / "work.py").write_text(PROGRAM)
    env = {"MEMPHIS_URL": url, "TEST_STATION": station, "TEST_EACH": str(each)}
    return start_program("-W", "ignore::DeprecationWarning", "work.py", *args, env=env)


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_normal_end_sends_what_is_queued(
    method: str, kind: str, broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    program = start(start_program, tmp_path, f"{broker.url}/?exit_timeout_s=30", station_name, method, kind)
    assert program.done() == SAID[kind]
    assert "were not confirmed" not in program.stderr
    assert "Traceback" not in program.stderr
    found = check_arrived(
        memphis, station_name, [f"{who} {number}" for who in ("parent", 0, 1) for number in range(EACH)]
    )
    assert len({message.connection_id for message in found}) in {2, 3}  # a pool's process may do all of the work


@pytest.mark.parametrize(("method", "kind", "said"), [("fork", "terminate", "-15\n"), ("spawn", "kill", "-9\n")])
def test_a_child_that_is_killed_loses_what_it_has_queued_and_nothing_else(
    method: str,
    kind: str,
    said: str,
    broker: Any,
    memphis: Any,
    station_name: str,
    start_program: Any,
    tmp_path: Path,
) -> None:
    """Sending them one by one would take it a long time."""
    many = 50_000
    program = start(start_program, tmp_path, f"{broker.url}/?max_in_flight=1", station_name, method, kind, each=many)
    assert program.done() == said
    found = Counter(message.data for message in read_back(memphis, station_name))
    assert max(found.values()) == 1
    assert found.keys() >= {b"parent %d" % number for number in range(EACH)}
    assert EACH <= len(found) < EACH + many
