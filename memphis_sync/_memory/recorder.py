"""The other end of a ``memory://`` data link: reads what the client writes, records it and confirms it. No IO."""

from __future__ import annotations

import json

from memphis_sync._core import PONG, parse_headers
from memphis_sync._memory.sent import Sent, SentMessages
from memphis_sync._protocol.names import external_name, split_stream

ID_HEADER = "Nats-Msg-Id"
KEY_HEADER = "Nats-Partition-Key"  # of this link only, in hexadecimal digits
_OURS = "$memphis_"
_END = b"\r\n"
_FINAL = ".final"


class Recorder:
    """
    One connection.

    Args:
        sent: Where messages are recorded.
    """

    def __init__(self, sent: SentMessages) -> None:
        self._sent = sent
        self._rest = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Takes what the client wrote; returns what it is answered."""
        self._rest += data
        view, position, answers = bytes(self._rest), 0, []
        while (line_end := view.find(_END, position)) >= 0:
            kind, *words = view[position:line_end].split()
            start = end = line_end + len(_END)
            if kind == b"HPUB":  # subject, reply, length of the headers, length of all
                split, stop = start + int(words[-2]), start + int(words[-1])
                end = stop + len(_END)
                if end > len(view):
                    break
                answers.append(self._message(words[0].decode(), words[1], view[start:split], view[split:stop]))
            elif kind == b"PING":
                answers.append(PONG)
            position = end
        del self._rest[:position]
        return b"".join(answers)

    def _message(self, subject: str, reply: bytes, block: bytes, payload: bytes) -> bytes:
        headers = dict(parse_headers(block)[2])
        stream = subject[: -len(_FINAL)]
        internal, _ = split_stream(stream)
        key = headers.get(KEY_HEADER)
        sequence, is_duplicate = self._sent._record(
            stream,
            Sent(
                station=external_name(internal),
                data=payload,
                headers={
                    name: text
                    for name, text in headers.items()
                    if not name.startswith(_OURS) and name not in (ID_HEADER, KEY_HEADER)
                },
                msg_id=headers.get(ID_HEADER),
                partition_key=None if key is None else bytes.fromhex(key).decode(),
            ),
        )
        ack = json.dumps({"stream": stream, "seq": sequence, **({"duplicate": True} if is_duplicate else {})}).encode()
        return b"MSG %s 1 %d\r\n%s\r\n" % (reply, len(ack), ack)
