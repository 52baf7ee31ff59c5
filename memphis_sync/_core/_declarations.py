"""
What both bindings stand on: the texts of the headers in csrc/ between their two `bindings` marks, one source of truth.
cffi reads them as they are, and Cython as _declarations.pxi, which setup.py writes.
"""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
HEADERS = ("memphis_core.h", "memphis_outbox.h", "memphis_link.h")
BEGIN, END = "/* bindings: begin */", "/* bindings: end */"


def for_cffi() -> str:
    """The declarations in C."""
    texts = [(CSRC / name).read_text(encoding="utf-8") for name in HEADERS]
    return "".join(text[text.index(BEGIN) + len(BEGIN) : text.index(END)] for text in texts)


def for_cython() -> str:
    """The same for Cython, which has its own form of a block and writes a type without ``struct`` before it."""
    text = re.sub(r"/\*.*?\*/", "", for_cffi(), flags=re.DOTALL)
    lines = ["# Made by setup.py from the headers in csrc/."]
    lines += ["from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t", ""]
    lines.append('cdef extern from "memphis_core.h" nogil:')
    # Each ends with its first semicolon outside of braces.
    for block in re.findall(r"(?:[^;{]|\{[^}]*\})+;", text):
        head, brace, body = " ".join(block.rstrip(";").split()).partition(" {")
        if head.startswith("enum"):
            names = [entry.split("=")[0].strip() for entry in body.rstrip("} ").split(",")]
            lines += ["    enum:", *(f"        {name}" for name in names)]
        elif brace:
            fields = re.sub(r"\bstruct ", "", body.rstrip("} ")).split(";")
            lines += [f"    {head}:", *(f"        {field.strip()}" for field in fields if field.strip())]
        elif re.fullmatch(r"struct \w+", head):
            if not re.search(rf"\b{head} \{{", text):
                lines += [f"    {head}:", "        pass"]
        else:
            lines.append("    " + re.sub(r"\bstruct ", "", head).replace("(void)", "()"))
    return "\n".join(lines) + "\n"
