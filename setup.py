"""The extension list, and nothing else: Cython on CPython, cffi on PyPy. MEMPHIS_SYNC_BUILD=both builds the two."""

import os
import platform
import runpy
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.c"))
HEADERS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.h"))
NATIVE = "cffi" if platform.python_implementation() == "PyPy" else "cython"
WANTED = os.environ.get("MEMPHIS_SYNC_BUILD", NATIVE)
COMPILE_ARGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", *os.environ.get("MEMPHIS_SYNC_CFLAGS", "").split()]
LINK_ARGS = ["-pthread", *os.environ.get("MEMPHIS_SYNC_LDFLAGS", "").split()]


class BuildExt(build_ext):
    """Says in one sentence what is missing when there is no C compiler, or no Python.h."""

    def build_extensions(self):
        command = getattr(self.compiler, "compiler_so", None) or ["cl"]
        missing = []
        if shutil.which(command[0]) is None:
            missing.append(f"a C compiler ({command[0]} is not there)")
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            missing.append("the headers of this Python (there is no Python.h)")
        if missing:
            raise SystemExit(
                f"memphis-sync is compiled when it is installed, which takes {' and '.join(missing)}: install them "
                "(on Debian: apt-get install gcc python3-dev) and try again"
            )
        super().build_extensions()


def extensions():
    """The extension modules to build for this interpreter."""
    if WANTED not in ("cython", "cffi", "both"):
        raise SystemExit(f"MEMPHIS_SYNC_BUILD is {WANTED!r}; it must be 'cython', 'cffi' or 'both'")
    if WANTED == "cffi":
        return []
    from Cython.Build import cythonize

    core = ROOT / "memphis_sync" / "_core"
    declarations = runpy.run_path(str(core / "_declarations.py"))["for_cython"]()
    made = core / "_declarations.pxi"
    if not made.exists() or made.read_text(encoding="utf-8") != declarations:  # its time makes Cython compile again
        made.write_text(declarations, encoding="utf-8")
    return cythonize(
        [
            Extension(
                "memphis_sync._core._cython",
                ["memphis_sync/_core/_cython.pyx", *SOURCES],
                include_dirs=["csrc"],
                depends=HEADERS,
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=LINK_ARGS,
            )
        ],
        compiler_directives={"language_level": "3"},
    )


setup(
    ext_modules=extensions(),
    cffi_modules=[] if WANTED == "cython" else ["memphis_sync/_core/_cffi_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt},
)
