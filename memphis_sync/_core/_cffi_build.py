"""
Builds memphis_sync._core._cffi_core, the compiled half of the cffi binding.

The declarations are the text of csrc/memphis_core.h between its two `bindings` marks: one source of truth.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI  # type: ignore[import-untyped,unused-ignore]

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "/* bindings: begin */"
END = "/* bindings: end */"


def declarations() -> str:
    """The C declarations that both bindings stand on."""
    text = (ROOT / "csrc" / "memphis_core.h").read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "memphis_sync._core._cffi_core",
    '#include "memphis_core.h"\n',
    sources=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.c")),
    include_dirs=["csrc"],
    depends=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.h")),
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O3", *os.environ.get("MEMPHIS_SYNC_CFLAGS", "").split()],
    extra_link_args=["-pthread", *os.environ.get("MEMPHIS_SYNC_LDFLAGS", "").split()],
)
