"""Builds memphis_sync._core._cffi_core, the compiled half of the cffi binding."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from cffi import FFI  # type: ignore[import-untyped,unused-ignore]

ROOT = Path(__file__).resolve().parents[2]

ffibuilder = FFI()
ffibuilder.cdef(runpy.run_path(str(Path(__file__).with_name("_declarations.py")))["for_cffi"]())
ffibuilder.set_source(
    "memphis_sync._core._cffi_core",
    '#include "memphis_core.h"\n',
    sources=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.c")),
    include_dirs=["csrc"],
    depends=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.h")),
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O3", *os.environ.get("MEMPHIS_SYNC_CFLAGS", "").split()],
    extra_link_args=["-pthread", *os.environ.get("MEMPHIS_SYNC_LDFLAGS", "").split()],
)
