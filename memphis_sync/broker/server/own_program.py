"""Programs of this package as children: the command line that runs the very package that is running here."""

from __future__ import annotations

import sys
from pathlib import Path

# As ``-m`` does, but -m would search the working directory first, where there may be a source tree without the compiled
# core.
_START = (
    "import sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; sys.path = [root, *filter(None, sys.path)]; "
    "from importlib import import_module; sys.exit(import_module(module).main())"
)
_PACKAGE_ROOT = Path(__file__).absolute().parents[3]


def own_program(module: str) -> list[str]:
    """The command of ``python -m module``, to which arguments may be added; *module* has a function ``main``."""
    return [sys.executable, "-c", _START, str(_PACKAGE_ROOT), module]
