"""What a demo sends: the lines of some files, divided among threads, and how each line is produced."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# How a stretch of lines is produced; each thread repeats these in this order.
WAYS = ("many by key", "many in turn", "mixed", "two stations")
STRETCH = 2_000  # lines; short enough that the order across a change of the way is checked often
BLOCKING_EVERY = 100  # in a mixed stretch: one blocking produce after so many non-blocking ones


class Line(NamedTuple):
    """A line without its newline, and the name of its file, which is the partition key where a key is used."""

    data: bytes
    key: str


def standard_library() -> list[Path]:
    """
    The Python sources of the running interpreter's own standard library.

    Without its tests, which not every distribution has, so that the input is about the same everywhere.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    paths = (path for path in root.rglob("*.py") if left_out.isdisjoint(path.relative_to(root).parts))
    return sorted(path for path in paths if path.is_file())


def read_lines(paths: Sequence[Path]) -> list[Line]:
    """Every line of every file, as bytes; text after the last newline is a line, too."""
    lines = []
    for path in paths:
        pieces = path.read_bytes().split(b"\n")
        if not pieces[-1]:
            pieces.pop()
        key = str(path)
        lines += [Line(piece, key) for piece in pieces]
    return lines


class Script:
    """
    Which thread sends which line in which way.

    Attributes:
        parts: The lines of each thread; a line's number is its index there.
        count, size: Lines and bytes in all.
    """

    def __init__(self, lines: Sequence[Line], threads: int) -> None:
        share = -(-len(lines) // threads) if lines else 0
        self.parts = [list(lines[i * share : (i + 1) * share]) for i in range(threads)]
        self.count = len(lines)
        self.size = sum(len(line.data) for line in lines)

    def stretches(self, thread: int) -> Iterator[tuple[str, range]]:
        """The ways and numbers of a thread's lines, in order. A short input still uses every way."""
        total = len(self.parts[thread])
        length = max(1, min(STRETCH, -(-total // len(WAYS))))
        for place, start in enumerate(range(0, total, length)):
            yield WAYS[place % len(WAYS)], range(start, min(start + length, total))

    def for_second_station(self, thread: int) -> list[int]:
        """Numbers of the lines that go to both stations."""
        return [number for way, numbers in self.stretches(thread) if way == "two stations" for number in numbers]
