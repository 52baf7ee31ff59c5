"""
The outbox of a Link in a file, and OutboxFile: what an earlier process has left in one. The one place that says what each
name does; stubtest compares it with either binding. Calls with a Link raise ForkedError in the child of a fork.
"""

from typing import Any, final

from typing_extensions import Self

from memphis_sync._core import Link

def outbox_file_size(max_bytes: int, max_messages: int) -> int:
    """How large a file is that holds an outbox of these bounds, in bytes."""

@final
class OutboxFile:
    """
    What an earlier process has left in a file. Reading changes nothing.

    Args:
        fd: Of the file; it stays the caller's.
    """

    def __new__(cls, fd: int) -> Self: ...
    def __len__(self) -> int:
        """How many messages are neither confirmed nor failed."""
    def info(self) -> dict[str, Any]:
        """What struct mcore_file_info says of it; ``boot`` as bytes."""
    def message(self, index: int) -> tuple[bytes, bytes, bytes, bytes, int, bool]:
        """
        One message, in the order of sending: subject, message id, header lines, payload, when it was accepted (seconds
        since 1970), whether it may have been sent. IndexError: there are fewer.
        """

def use_file(link: Link, fd: int, salt: int, boot: bytes) -> None:
    """
    Keeps messages in a file from now on; before the first message. *fd* is the link's from here: it is closed by
    ``Link.release()`` and in a forked child.

    Args:
        fd: A locked file of ``outbox_file_size()`` bytes, all of them allocated.
        salt: 64 random bits.
        boot: Names the start of the machine, at most 40 bytes.
    """

def sync_file(link: Link) -> int:
    """Waits until the disk has what the file holds. Returns 0, or an errno."""

def adopt(link: Link, file: OutboxFile, id_name: bytes) -> int:
    """
    Appends all messages of a file, with their ids and without a deadline; nothing new goes out before them.

    Args:
        id_name: As of Route.

    Returns:
        How many.
    """

def recovered(link: Link) -> tuple[int, int]:
    """Of the messages that were adopted: how many are unsettled, and how many have failed."""
