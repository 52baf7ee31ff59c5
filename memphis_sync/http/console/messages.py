"""The message browser: looking uses up no delivery, and leaves nothing behind at the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from starlette.exceptions import HTTPException
from starlette.responses import Response

from . import showing
from .pages import Visit, link, whole_number
from .stations import handle_of

if TYPE_CHECKING:
    import memphis_sync
    from memphis_sync.info import PeekedMessages, StationInfo

PAGE = 20  # messages
PAGE_BYTES = 4 * 1024 * 1024  # of payload and headers that a page reads at most, but for its first message


def _look(client: memphis_sync.Memphis, name: str, **which: Any) -> tuple[StationInfo, PeekedMessages]:
    station = handle_of(client, name)
    return station.info(), station.peek(max_bytes=PAGE_BYTES, **which)


async def messages(visit: Visit) -> Response:
    """The newest messages, or those from a sequence on."""
    name = visit.request.path_params["name"].lower()
    first = visit.number("from", 0) or None
    partition = _partition(visit.request.query_params.get("partition", ""))
    info, found = await visit.call(_look, visit.client, name, limit=PAGE, partition=partition, from_sequence=first)
    if first is None:
        found.reverse()  # the newest first
    sequences = [each.sequence for each in found]
    lowest = min((part.first_sequence for part in info.partitions), default=1)
    highest = max((part.last_sequence for part in info.partitions), default=0)
    at = min(sequences, default=first or 0)
    return visit.show(
        "messages.html",
        name=name,
        station=info,
        partition=partition,
        from_sequence=first,
        messages=found,
        older=max(at - PAGE, 1) if at > lowest else None,
        newer=max(sequences) + 1 if first is not None and sequences and max(sequences) < highest else None,
    )


def _partition(text: str) -> Optional[int]:
    return None if not text.strip() else whole_number("partition", text, 0)


def _look_at(client: memphis_sync.Memphis, name: str, partition: int, sequence: int) -> PeekedMessages:
    return handle_of(client, name).peek(1, partition=partition, from_sequence=sequence)


async def message(visit: Visit) -> Response:
    """One message, or the next one that is still there."""
    params = visit.request.path_params
    name, partition = params["name"].lower(), whole_number("partition", params["partition"], 0)
    sequence = whole_number("sequence", params["sequence"], 0)
    found = await visit.call(_look_at, visit.client, name, partition, sequence) if sequence else []
    if not found:
        raise HTTPException(
            404, f"Partition {partition} of {name} has no message with sequence {sequence} or a later one."
        )
    shown = found[0]
    if shown.sequence != sequence:
        visit.login.notify(f"There is no message {sequence} any more; this is the next one.")
        return visit.go("stations", name, "messages", str(partition), str(shown.sequence))

    def view_link(view: str) -> str:
        return link(visit.base, "stations", name, "messages", str(partition), str(sequence), view=view)

    payload = showing.payload(shown.data, visit.request.query_params.get("view", ""))
    return visit.show("message.html", name=name, message=shown, payload=payload, view_link=view_link)
