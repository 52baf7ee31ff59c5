"""The log lines of a data link: why a connection ended, and which messages failed without being asked about."""

from __future__ import annotations

import os

from memphis_sync._base.logs import Log
from memphis_sync._core import Link
from memphis_sync._core._codes import LinkEnd
from memphis_sync._data.tls_loops import END_TLS

log = Log("memphis_sync.produce")


def lost_reason(end: int, errno: int, text: str) -> str:
    """Why a connection ended, from what its read loop returned."""
    if end == LinkEnd.EOF:
        return "the broker closed the connection"
    if end == LinkEnd.PROTOCOL:
        return f"the peer broke the NATS protocol: {text}"
    if end == LinkEnd.LAME:
        return "the broker is about to shut down"
    if end == END_TLS:
        return f"what came was no valid TLS: {text}"
    if end == LinkEnd.SERVER:
        return f"the broker said {text!r}"
    return os.strerror(errno)


def log_unseen(core: Link, label: str) -> None:
    """A line about failures that nobody asks about, and one about answers that are not believed, at most."""
    for write, (count, last), what in (
        (log.error, core.take_unseen(), "%r: %d messages failed and nobody has asked about them; the last: %s"),
        (
            log.warning,
            core.take_disbelieved(),
            "%r: ignored %d answers that cannot be the broker's to the message they came for; the last: %s",
        ),
    ):
        if count:
            write(what, label, count, last, extra={"memphis_client": label, "memphis_error": last})
