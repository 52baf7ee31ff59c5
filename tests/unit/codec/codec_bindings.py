"""Both bindings, whichever the package itself has chosen. One that does not import fails here: nothing is skipped."""

from __future__ import annotations

import pytest

from memphis_sync._core import _cffi, _cython

BINDINGS = (_cython, _cffi)

each_binding = pytest.mark.parametrize("binding", BINDINGS, ids=lambda module: module.IMPL)
