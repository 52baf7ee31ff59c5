"""The enums of csrc/memphis_*.h that Python code compares with: the same names and numbers, held so by a test."""

from __future__ import annotations

from enum import IntEnum


class Error(IntEnum):
    """Enum mcore_error: what a call returns instead of a count."""

    OK = 0
    ARGUMENT = -1
    ROOM = -2
    CONTROL_LINE = -3
    PAYLOAD = -4
    SYNTAX = -5
    HEADER = -6
    POISONED = -7
    FULL_BYTES = -8
    FULL_MESSAGES = -9
    TOO_LARGE = -10
    CLOSED = -11
    MEMORY = -12
    TIMEOUT = -13
    TOO_MANY = -14
    ENDED = -15


class TicketOutcome(IntEnum):
    """Enum mcore_outcome: how a message ended, or that it has not yet."""

    PENDING = 0
    DELIVERED = 1
    REFUSED = 2
    NO_RESPONDERS = 3
    EXPIRED = 4
    ABANDONED = 5
    UNKNOWN = 6
    UNSENT = 7


class FileFault(IntEnum):
    """Enum mcore_file_fault: why an outbox file cannot be used."""

    WHOLE = 0
    FOREIGN = 1
    OTHER_ORDER = 2
    NEWER = 3
    CUT = 4
    HEADER = 5
    UNREADABLE = 6


class LinkEnd(IntEnum):
    """Enum mcore_link_end: why a connection ended."""

    GOES_ON = -1
    STOPPED = 0
    EOF = 1
    ERRNO = 2
    PROTOCOL = 3
    SERVER = 4
    LAME = 5


class StreamAnswer(IntEnum):
    """Enum mcore_stream_answer: whether a stream that does not answer exists."""

    UNKNOWN = 0
    EXISTS = 1
    GONE = 2


class Next(IntEnum):
    """Enum mcore_next: what a sender is to do."""

    STOPPED = 0
    UNSEEN = 1
    BYTES = 2
    NOTHING = 3
