"""Runs the script of a README against a broker of its own, on the installed package: smoke.py README.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess


def main(readme: Path) -> int:
    """The first Python block of the README is the ten-line script; its exit code is ours."""
    program = re.search(r"^```python\n(.*?)^```", readme.read_text(), re.DOTALL | re.MULTILINE)
    if program is None:
        print(f"{readme} has no Python block")
        return 1
    print(f"memphis_sync {memphis_sync.__version__} from {Path(memphis_sync.__file__).parent.parent.name}")
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program[1]],
            env={**os.environ, "MEMPHIS_URL": broker.url},
            timeout=60,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
    print(done.stdout, end="")
    return done.returncode if done.stdout else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
