"""
Subinterpreters: which of them the package can be used in.

In one that shares the GIL of its process (mod_wsgi's, ``Py_NewInterpreter``) all of it works, in the first that imports
it: Cython keeps the state of a module once for the process, and refuses a second one. An isolated one allows no daemon
threads, which the client's are, and no such module.

Source: PEP 684; ``PyInterpreterConfig`` (allow_daemon_threads, check_multi_interp_extensions); the Cython user guide,
``subinterpreters_compatible``: the directive promises isolation and does not bring it.
"""

from __future__ import annotations

import _thread
import sys

from memphis_sync.errors import ConfigurationError

INSTEAD = (
    "use it in the main interpreter or in a process of its own (mod_wsgi: WSGIApplicationGroup %{GLOBAL}, or a daemon "
    "process group for each application)"
)


def is_isolated() -> bool:
    """Whether this is an interpreter without daemon threads: from Python 3.12 on one with a GIL of its own."""
    is_allowed = getattr(_thread, "daemon_threads_allowed", None)
    return is_allowed is not None and not is_allowed()


def is_main() -> bool:
    """Whether this is the interpreter that the process began with."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        interpreters = __import__(name)
    except ImportError:  # PyPy has none
        return True
    current, main = interpreters.get_current(), interpreters.get_main()
    return bool(current == main or (isinstance(current, tuple) and current[0] == main[0]))


def check_threads() -> None:
    """
    Refuses an interpreter that says before the first thread that it starts none for a client.

    Raises:
        ConfigurationError: It allows no daemon threads.
    """
    if is_isolated():
        raise _refused("daemon threads are disabled in it")


def check_refusal(exc: RuntimeError) -> None:
    """
    Tells by the error of a thread's start that the interpreter starts none, which up to Python 3.11 nothing else tells
    without a library that is loaded for it, and which each fork would then pay for.

    Raises:
        ConfigurationError: It does not.
    """
    if "subinterpreter" in str(exc):
        raise _refused(exc) from exc


def _refused(reason: object) -> ConfigurationError:
    return ConfigurationError(
        f"a client needs daemon threads, which this subinterpreter does not allow ({reason}); {INSTEAD}"
    )
