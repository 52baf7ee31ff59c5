"""Programs of this package as children: the command line that runs the very package that is running here."""

from __future__ import annotations

import sys
from pathlib import Path

# As ``-m`` does, but -m would search the working directory first, where there may be a source tree without the compiled
# core.
_START = """
import sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path = [root, *filter(None, sys.path)]
from importlib import import_module
sys.exit(import_module(module).main())
"""
# What imports nothing of the client starts three times as fast without the package's own module, which has all of it.
_WITHOUT_CLIENT = """
import sys
from types import ModuleType
sys.modules["memphis_sync"] = package = ModuleType("memphis_sync")
package.__path__ = [sys.argv[1] + "/memphis_sync"]
"""
_PACKAGE_ROOT = Path(__file__).absolute().parents[3]


def own_program(module: str, *, uses_client: bool) -> list[str]:
    """
    The command of ``python -m module``, to which arguments may be added; *module* has a function ``main``.

    Args:
        module: One of this package's.
        uses_client: Whether it uses any of the package's public names.
    """
    return [sys.executable, "-c", _START if uses_client else _WITHOUT_CLIENT + _START, str(_PACKAGE_ROOT), module]
