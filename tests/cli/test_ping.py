"""memphis-sync ping: round trips, and exit code 3 where there is no connection."""

from __future__ import annotations

import json
import re
from typing import Any

from fix_process import Child, run_python


def test_each_round_trip_is_a_line(memphis_sync: Any) -> None:
    done = memphis_sync("ping", "--count", "3", "--interval", "0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert re.fullmatch(r"answer 1: [\d.]+ ms \(connected in [\d.]+ ms\)", lines[0])
    assert [line.partition(":")[0] for line in lines] == ["answer 1", "answer 2", "answer 3"]


def test_json_has_seconds(memphis_sync: Any) -> None:
    answer = json.loads(memphis_sync("--json", "ping").stdout)
    assert 0 < answer["seconds"] < 30
    assert answer["connect_s"] > 0


def test_quiet_is_an_exit_code_alone(memphis_sync: Any, refused_address: tuple[str, int]) -> None:
    done = memphis_sync("-q", "ping")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    url = "memphis://root:memphis@{}:{}".format(*refused_address)
    done = run_python("-m", "memphis_sync.cli", "-q", "ping", env={"MEMPHIS_URL": url}, check=False)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"connection refused" in done.stderr


def test_no_answer_in_time_is_3(broker: Any, proxy_to: Any) -> None:
    """The connection is there, and then nothing comes through it."""
    program = (
        "import sys\nfrom memphis_sync.cli import main\nimport memphis_sync\n"
        "real = memphis_sync.Memphis.ping\n"
        "def ping(client, timeout_s):\n"
        "    print('connected', flush=True); sys.stdin.readline(); return real(client, timeout_s)\n"
        "memphis_sync.Memphis.ping = ping\n"
        "sys.exit(main(['ping', '--timeout', '0.3']))\n"
    )
    proxy = proxy_to(broker.host, broker.port)
    url = f"memphis://root:{broker.password}@{proxy.host}:{proxy.port}"
    child = Child("-c", program, env={"MEMPHIS_URL": url})
    try:
        assert child.line() == b"connected\n"
        proxy.stall()
        child.process.stdin.write(b"\n")
        child.process.stdin.flush()
        assert child.wait(60) == 3
        assert b"error: " in child.stderr
    finally:
        proxy.go_on()
        child.close()
