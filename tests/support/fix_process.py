"""Children: each runs in its own interpreter with a limit, and one that hangs shows its stacks before it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional, Union

import pytest
from programs import Program, descendants, show_stacks

RunScript = Callable[..., "subprocess.CompletedProcess[bytes]"]
_OWN = {signal.SIGPIPE, *filter(None, [getattr(signal, "SIGXFSZ", None)])}  # Python ignores them, and no child of its


def begin_with_all_signals() -> None:
    """
    Lets no child inherit that a signal is ignored, as a suite does that was started in the background or under nohup.
    What was ignored is still without effect here: a child never inherits a handler.
    """
    for number in signal.valid_signals() - _OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if usual else lambda *_: None)


def pytest_configure() -> None:
    """Before any test starts a program."""
    begin_with_all_signals()


def run_python(
    *args: Union[str, Path],
    input: Optional[bytes] = None,  # noqa: A002  the name that subprocess.run gives it
    env: Optional[Mapping[str, str]] = None,
    timeout_s: float = 20.0,
    check: bool = True,
    cwd: Optional[Path] = None,
) -> subprocess.CompletedProcess[bytes]:
    """
    Runs ``python *args`` to its end.

    Args:
        input: Bytes for its standard input; None closes it.
        env: Added to this process's environment.
        timeout_s: Seconds; then its Python stacks and its children's go to its stderr (faulthandler, SIGABRT) and the
            test fails.
        check: Whether an exit code other than 0 fails the test.

    Returns:
        Exit code, stdout and stderr.
    """
    command = [sys.executable, *map(str, args)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})},
        cwd=cwd,
    )
    try:
        out, err = child.communicate(input, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        show_stacks([*descendants(child.pid), child.pid])
        try:
            out, err = child.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
        pytest.fail(f"{_name(command)} ran longer than {timeout_s:g} s; stderr:\n{_text(err)}", pytrace=False)
    if check and child.returncode != 0:
        pytest.fail(f"{_name(command)} ended with {child.returncode}; stderr:\n{_text(err)}", pytrace=False)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def said_beside_the_wait(stderr: bytes) -> list[bytes]:
    """The lines of a program, without the one that a busy machine brings: its end waits for what is queued."""
    return [line for line in stderr.splitlines() if b"to give up" not in line]


def _name(command: Sequence[str]) -> str:
    return " ".join(part if len(part) < 80 else "..." for part in command)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")[-6000:]


@pytest.fixture(name="run_python")
def run_python_fixture() -> RunScript:
    """``run_python`` as a fixture."""
    return run_python


class Child:
    """A child that goes on while the test does something to it; its output is collected, its end is certain."""

    def __init__(self, *args: Union[str, Path], env: Optional[Mapping[str, str]] = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        self.stderr = bytearray()
        self._reader = threading.Thread(target=self._read_stderr, name="test-child-stderr", daemon=True)
        self._reader.start()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for chunk in iter(lambda: self.process.stderr.read1(65536), b""):
            self.stderr += chunk

    def line(self) -> bytes:
        """The next line of its stdout; fails when it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.wait(5)
            pytest.fail(f"the child ended ({self.process.returncode}); stderr:\n{_text(self.stderr)}", pytrace=False)
        return line

    def wait(self, timeout_s: float) -> int:
        """Its exit code; shows its stacks and fails when it does not end in time."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            show_stacks([*descendants(self.process.pid), self.process.pid])
            self.close()
            pytest.fail(f"the child did not end in {timeout_s:g} s; stderr:\n{_text(self.stderr)}", pytrace=False)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            try:
                self.process.wait(1)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # unread input of a child that is gone
                    stream.close()


@pytest.fixture
def start_python() -> Iterator[Callable[..., Child]]:
    """Starts ``python *args`` and gives the ``Child``; all of them are gone after the test."""
    children: list[Child] = []

    def start(*args: Union[str, Path], env: Optional[Mapping[str, str]] = None) -> Child:
        children.append(Child(*args, env=env))
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
        child.close()


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """``start_program(*args, env=)`` gives a ``Program`` that runs in the test's folder; none is left afterwards."""
    programs: list[Program] = []

    def start(*args: Union[str, Path], env: Optional[Mapping[str, str]] = None) -> Program:
        programs.append(Program(args, tmp_path, env=env))
        return programs[-1]

    yield start
    for program in programs:
        program.close()
