"""
What becomes of the messages that an earlier process has left in the outbox file: they are sent when the client is
opened, and its user is told how many there are, and how many of them may be stored twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memphis_sync._base.logs import Log
from memphis_sync._control.groups import id_windows
from memphis_sync._data.outbox_file import uncertain

if TYPE_CHECKING:
    from memphis_sync._session.session import Session

log = Log("memphis_sync.produce")
_WINDOWS_S = 5.0  # for what the streams say of themselves; one that says nothing counts as one that remembers nothing


def recover(session: Session) -> None:
    """
    Sends what the file holds, if it holds anything. Before any message of this client.

    Raises:
        ConnectError: The data connection could not be opened; the file holds what it held.
    """
    file = session.outbox().file
    if file is None or not file.earlier:
        return
    session.data_link()
    messages = file.recovered
    streams = sorted({each.stream for each in messages if each.was_written and each.has_id})
    windows = session.call(lambda: id_windows(session.control, streams, _WINDOWS_S), _WINDOWS_S, "connect()")
    file.uncertain = uncertain(messages, windows)
    oldest = min(each.accepted_s for each in messages)
    log.warning(
        "%r: outbox %r holds %d messages of an earlier process, the oldest accepted at %s; they are sent now%s",
        session.label,
        file.path,
        len(messages),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(oldest)),
        f". {file.uncertain} of them may be stored twice: they may have been sent before, and are older than their "
        "station's idempotency window, or have no message id"
        if file.uncertain
        else "",
        extra={"memphis_client": session.label},
    )
