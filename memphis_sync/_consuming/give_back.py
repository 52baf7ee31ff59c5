"""
Returns messages to their group that were received and not processed.

Our broker is told of them first, so that they use no delivery up; then each is given back to the server, which delivers
it at once to another member. A Memphis broker knows no difference, and counts the delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memphis_sync._base.logs import Log
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._consuming.source import Source
from memphis_sync._control.dead_letters import give_back
from memphis_sync._protocol.dead_letters import GivenBack
from memphis_sync._protocol.names import split_stream
from memphis_sync.errors import MemphisError
from memphis_sync.message import NAK, Message, parse_ack_subject

if TYPE_CHECKING:
    from memphis_sync._data import DataLink

log = Log("memphis_sync.consume")

GIVE_BACK_S = 1.0  # for the broker's word; a message that goes back without it uses a delivery up


async def return_untouched(source: Source, link: DataLink, messages: Sequence[Message]) -> None:
    """Gives messages back that nobody has looked at; dead letters that were sent again go to another member, too."""
    await report_untouched(source, link, messages)
    nack(messages)


async def report_untouched(
    source: Source, link: DataLink, messages: Sequence[Message], *, is_kept: bool = False
) -> bool:
    """
    Tells our broker of messages that nobody has looked at yet.

    Args:
        source: Their consumer.
        link: Its data link.
        messages: Dead letters that were sent again among them.
        is_kept: Those at their last delivery are not given back now, and a handler may yet get them.

    Returns:
        False when the broker does not know of them.
    """
    if link.is_memphis:
        return False
    letters = [message.id for message in messages if isinstance(message, ResentMessage)]
    deliveries = [_delivery(message) for message in messages if not isinstance(message, ResentMessage)]
    try:
        request = GivenBack.of(source.view.internal, source.consumer_group, deliveries, letters, kept=is_kept)
        await give_back(source.session.control, request, GIVE_BACK_S)
    except MemphisError as exc:
        log.debug("%r: the broker does not know of %d messages that go back: %s", source, len(messages), exc)
        return False
    return True


def nack(messages: Sequence[Message]) -> None:
    """Gives messages back to the server without a word to the broker; without a connection they come back by time."""
    try:
        for message in messages:
            if not message.is_dead_letter:
                message.respond(NAK)
    except MemphisError as exc:
        log.debug("giving %d messages back: %s", len(messages), exc)


def _delivery(message: Message) -> tuple[int, int, int]:
    meta = parse_ack_subject(message.reply)
    return split_stream(meta.stream)[1], meta.sequence, meta.delivered
