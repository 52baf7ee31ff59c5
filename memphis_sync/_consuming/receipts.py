"""
Receipts: a message of a group as a short text, with which it can be answered later, also by another process.

The text is what the broker goes by: the ack subject of a delivery, or the number of a message that was sent again. It
is no secret and not signed: whoever passes receipts to others must make sure that they come back unchanged.
"""

from __future__ import annotations

import json
from typing import NoReturn, Optional

from memphis_sync._consuming.observed_message import message_kind
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._consuming.source import Source
from memphis_sync._options.checks import check_str
from memphis_sync._protocol.dead_letter_headers import GROUP, ID, OWED, PARTITION, SEQUENCE
from memphis_sync._protocol.names import stream_name
from memphis_sync.errors import StationNotFoundError, UsageError
from memphis_sync.message import CONFIRM_S, Message, parse_ack_subject

_NO_RESPONDERS = 503
_ACK = b"+ACK"
_WITH_DOMAIN = 10  # dots of an ack subject that has domain and account before the stream
_LONGEST = 1024  # names of stations and groups have 128 characters at most
_KEPT = (ID, GROUP, OWED, PARTITION, SEQUENCE)


class RestoredMessage(Message):
    """
    A message that was made of a receipt, to be answered. It knows where it is in the station, but has no payload and no
    headers. Each answer waits until the broker has it, 5 s at most.
    """

    __slots__ = ("_reply", "owner")

    _is_counted = False

    owner: Source
    _reply: str

    @property
    def reply(self) -> str:
        """Where its acknowledgement goes."""
        return self._reply

    @property
    def subject(self) -> str:
        """Raises UsageError."""
        self._refuse("subject")

    @property
    def header_block(self) -> bytes:
        """Raises UsageError."""
        self._refuse("headers")

    @property
    def payload(self) -> bytes:
        """Raises UsageError."""
        self._refuse("payload")

    @property
    def payload_len(self) -> int:
        """0: its payload is not here."""
        return 0

    @property
    def age_ns(self) -> int:
        """0: when it was received is not known here."""
        return 0

    def respond(self, body: bytes = b"") -> None:
        """Sends an answer and waits until the broker has it. Raises as ``ack(wait=True)``."""
        source = self.owner
        source.check_open()
        reply = source.session.data_link().replies.request(self._reply.encode(), body or _ACK, CONFIRM_S)
        if reply.status == _NO_RESPONDERS:
            raise StationNotFoundError(f"{self!r}: the station or the consumer group was destroyed", code=reply.status)

    def renew(self) -> None:
        """The same as in_progress()."""
        self.in_progress()

    def __repr__(self) -> str:
        meta = parse_ack_subject(self._reply)
        return f"<RestoredMessage {meta.stream} seq={meta.sequence}>"

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{self!r} has no {what}: it was restored from a receipt, only to be answered")


def receipt_of(source: Source, message: Message) -> str:
    """The receipt of a message; UsageError when *source* is not what it was fetched from."""
    if message.owner is not source:
        raise UsageError(f"{message!r} was not fetched by {source!r}")
    if isinstance(message, ResentMessage):
        headers = message.get_headers() or {}
        return json.dumps({name: headers[name] for name in _KEPT if name in headers}, separators=(",", ":"))
    return message.reply


def restore(source: Source, receipt: str) -> Message:
    """
    What a receipt was made of.

    Raises:
        ConfigurationError: *receipt* is not a str.
        UsageError: It is not a receipt, or of a message of another group or station.
    """
    check_str("receipt", receipt)
    message = _resent(source, receipt) if receipt.startswith("{") else _delivered(source, receipt)
    if message is None:
        raise UsageError(f"the receipt is not of a message of {source!r}")
    return message


def _delivered(source: Source, receipt: str) -> Optional[Message]:
    if not receipt.isascii() or not receipt.isprintable() or " " in receipt or len(receipt) > _LONGEST:
        return None
    meta, view = parse_ack_subject(receipt), source.view
    streams = {stream_name(view.internal, partition) for partition in view.partitions or (0,)}
    durable = receipt.split(".")[5 if receipt.count(".") >= _WITH_DOMAIN else 3]
    if meta.stream not in streams or durable != source.group_internal:
        return None
    kind = message_kind(source, RestoredMessage)
    message = kind.__new__(kind)
    message.owner = source
    message._reply = receipt
    message.answer = None
    return message


def _resent(source: Source, receipt: str) -> Optional[Message]:
    try:
        headers = json.loads(receipt)
        message = message_kind(source, ResentMessage).of(source, b"", headers)
    except (TypeError, ValueError):
        return None
    if message.group not in (source.consumer_group, source.group_internal):
        return None
    message.answer = None
    return message
