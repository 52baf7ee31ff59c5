"""
Headers that a program sets on a message.

Some names are refused, because they would change what the broker does with the message: those that start with
``$memphis`` (the client's own) or ``Nats-`` (JetStream's commands), and those that contain ``msg-id``. A Memphis broker
searches the header block for the first ``msg-id``, so such a name would silently disable its deduplication; pass a
message id as ``msg_id=``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Optional, Union

from memphis_sync._base.hints import hint_keywords
from memphis_sync._core import encode_header, parse_headers
from memphis_sync.errors import HeaderError

RESERVED_PREFIX = "$memphis"
_CONTROL_PREFIX = "nats-"
_MESSAGE_ID = "msg-id"


@hint_keywords()
class Headers(MutableMapping[str, str]):
    """
    Headers of a message, checked when they are added. A plain dict is accepted wherever a Headers is.

    The client changes neither, so one object may be used for many messages and by many threads.
    """

    __slots__ = ("_items", "_lines")

    def __init__(self, items: Optional[Mapping[str, str]] = None) -> None:
        self._items: dict[str, str] = {}
        self._lines: dict[str, bytes] = {}  # as they are sent: encoded once, however many messages have them
        for key, value in (items or {}).items():
            self.add(key, value)

    @property
    def headers(self) -> dict[str, str]:
        """A copy of the headers as a dict."""
        return dict(self._items)

    def add(self, key: str, value: str) -> None:
        """
        Sets a header; a second value for a name replaces the first.

        Args:
            key: 1 or more visible ASCII characters without a colon.
            value: Any text without CR, LF and NUL, sent as UTF-8. Blanks at its ends are not sent.

        Raises:
            HeaderError: The name is reserved, or the name or the value cannot be encoded.
        """
        line = _encode(key, value)
        self._items[key] = value
        self._lines[key] = line

    def __setitem__(self, key: str, value: str) -> None:
        self.add(key, value)

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __delitem__(self, key: str) -> None:
        del self._items[key]
        del self._lines[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"


class Outgoing(Headers):
    """
    The headers of what is being produced; see Observer.producing().

    Attributes:
        nonblocking: Whether the call returns before the broker has the message; False for produce_many().
    """

    __slots__ = ("nonblocking",)

    def __init__(self, headers: Optional[Mapping[str, str]] = None, *, nonblocking: bool = False) -> None:
        super().__init__()
        self.nonblocking = nonblocking
        if type(headers) is Headers:
            self.add_all(headers)
        elif headers is not None:
            for key, value in _checked(headers).items():
                self.add(key, value)

    def add_all(self, headers: Headers) -> None:
        """As add() of each of them, for less: they are encoded already."""
        self._items.update(headers._items)
        self._lines.update(headers._lines)

    def beside(self, own: Optional[Mapping[str, str]]) -> Mapping[str, str]:
        """The headers of a message that has some of its *own*: these are added, unless it has one of them itself."""
        if own is None:
            return self
        taken = {key.lower() for key in _checked(own) if isinstance(key, str)}
        if any(key.lower() in taken for key in self):
            return own
        made = Outgoing(own, nonblocking=self.nonblocking)
        made.add_all(self)
        return made


def encode_user_headers(headers: Union[Mapping[str, str], Headers, None]) -> bytes:
    """
    The header lines as they are sent, each with its line end, without the block's first and last line.

    Args:
        headers: Not changed. None and empty are the same.

    Returns:
        ``<name>: <value>`` and CR LF for each; b"" for none.

    Raises:
        HeaderError: A name is reserved, or a name or value cannot be encoded.
    """
    if headers is None:
        return b""
    if type(headers) is Headers or type(headers) is Outgoing:
        return b"".join(list(headers._lines.values()))  # another thread may add one meanwhile
    return b"".join([_encode(key, value) for key, value in _checked(headers).items()])


def _checked(headers: object) -> Mapping[Any, Any]:
    if not isinstance(headers, Mapping):
        raise HeaderError(f"headers are of type {type(headers).__name__}; they must be a dict or a Headers")
    return headers


def header_values(block: bytes) -> dict[str, list[str]]:
    """
    The headers that the producing program has set, each name with all of its values, in order.

    Args:
        block: ``header_block`` of a message.

    Raises:
        HeaderError: The header block is not valid.
    """
    found: dict[str, list[str]] = {}
    for name, value in parse_headers(block)[2] if block else ():
        if not is_own(name):
            found.setdefault(name, []).append(value)
    return found


def is_own(name: str) -> bool:
    """Whether a header belongs to the client or to JetStream, so that a user cannot have set it."""
    lowered = name.lower()
    return lowered.startswith((RESERVED_PREFIX, _CONTROL_PREFIX)) or _MESSAGE_ID in lowered


def _encode(key: Any, value: Any) -> bytes:
    if not isinstance(key, str):
        raise HeaderError(f"the name of a header is {key!r}, of type {type(key).__name__}; it must be a str")
    if not isinstance(value, str):
        raise HeaderError(f"the value of header {key!r} is of type {type(value).__name__}; it must be a str")
    lowered = key.lower()
    if lowered.startswith(RESERVED_PREFIX):
        raise HeaderError(f"header {key!r} is reserved: Keys in headers should not start with $memphis")
    if _MESSAGE_ID in lowered:
        raise HeaderError(f"header {key!r} is reserved: it contains 'msg-id'; pass a message id as msg_id=...")
    if lowered.startswith(_CONTROL_PREFIX):
        raise HeaderError(f"header {key!r} is reserved: names that start with 'Nats-' are commands to JetStream")
    try:
        return encode_header(key.encode("ascii"), value.encode("utf-8"))
    except UnicodeEncodeError as exc:
        what = "the value of header" if exc.encoding == "utf-8" else "the name of header"
        rule = "UTF-8" if exc.encoding == "utf-8" else "ASCII"
    raise HeaderError(f"{what} {key!r} cannot be encoded as {rule}")
