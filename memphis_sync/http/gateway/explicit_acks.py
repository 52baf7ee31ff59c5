"""
``/stations/{station}/consume``, ``/ack`` and ``/nack``: messages that the client answers when it is done with them.

A delivery token stands for one delivery of one message. It is signed and says whose it is, so nothing about it has to
be kept here: it works on any connection, and after a restart in a gateway with the same keys. A broker would take a
late answer for one of the newer delivery, so a token is refused once its ack time is over. What is kept, only in this
process and of the latest tokens, is how each was answered, so that another answer is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, NamedTuple, Optional

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import memphis_sync
from memphis_sync.errors import (
    ClosedError,
    DeadlineError,
    HeaderError,
    MemphisError,
    StationNotFoundError,
    TransportError,
    UsageError,
)
from memphis_sync.headers import header_values

from .errors import Problem, answer, as_json, refused, status_of
from .fields import MOST_BYTES as MOST_BYTES_OF_FIELDS, Fields, FieldsError, read_fields
from .metrics import count
from .room import Rows, give_back
from .sessions import Sessions, UserSession
from .settings import GatewaySettings
from .tokens import Tokens

BATCH_SIZE, MAX_BATCH_SIZE = 10, 5000
WAIT_MS, MAX_WAIT_MS = 5000, 60_000
ACK_MS, MAX_ACK_MS = 30_000, 43_200_000  # half a day, as with queues elsewhere
DELIVERIES = 10
MAX_DELAY_MS = 86_400_000
MAX_REASON = 1000
KEPT = 100_000  # answers that are remembered
PURPOSE = b"delivery"  # a signature is for one use
SLICE_S = 1.0  # how soon one learns that nobody waits any more
_ALPHABET = re.compile("[A-Za-z0-9_-]+")
MARK = 22  # characters at the beginning of a token that hold its signature


class Delivery(NamedTuple):
    """
    What a delivery token says.

    Attributes:
        account: The user's account.
        username: The user.
        station: The station, as it is called in the path.
        name: The consumer.
        group: Its group.
        ack_ms: Ack time of the group, in milliseconds.
        deliveries: Its number of deliveries.
        until_ms: When the ack time is over, in milliseconds since 1970.
        receipt: The message, as the client of the broker knows it.
    """

    account: int
    username: str
    station: str
    name: str
    group: str
    ack_ms: int
    deliveries: int
    until_ms: int
    receipt: str


@dataclass(frozen=True)
class Wanted:
    """What a consume asks for."""

    name: str
    group: str
    batch_size: int
    wait_s: float
    ack_ms: int
    deliveries: int


Act = Callable[[memphis_sync.Message], object]
Member = tuple[str, str, str, int, int]  # station, consumer, group, ack time and number of deliveries


class ExplicitAcks:
    """The three routes."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions, self._settings = sessions, settings
        self._answered: OrderedDict[str, str] = OrderedDict()  # the signature of a token: how

    # ---- consume ----------------------------------------------------------------------------------------------------

    async def consume(self, request: Request) -> Response:
        """POST /stations/{station}/consume: waits for messages, and returns them with their tokens."""
        session = await self._sessions.of(request)
        wanted = _wanted(await _fields(request, self._settings))
        station = request.path_params["station"]
        consumer = await _consumer(session, station, wanted.name, wanted.group, wanted.ack_ms, wanted.deliveries)
        account, username = session.account_id, session.username
        like = Delivery(
            account, username, station.lower(), wanted.name, wanted.group, wanted.ack_ms, wanted.deliveries, 0, ""
        )
        rows = Rows(session, request.scope, partial(_shown, consumer, like, self._sessions.tokens.signer(PURPOSE)))
        try:
            await self._fetch(session, rows, consumer, wanted, request)
        except (StationNotFoundError, ClosedError):
            session.forget_consumer(consumer)
            raise
        if rows.messages and await request.is_disconnected():  # nobody would answer them: others get them at once
            await session.call(give_back, rows.messages)
            raise ClientDisconnect
        count(request.scope, "consumed", len(rows.messages))
        body = b'{"error":null,"messages":[%s],"success":true}' % rows.joined()
        return Response(body, media_type="application/json")

    async def _fetch(
        self, session: UserSession, rows: Rows, consumer: memphis_sync.Consumer, wanted: Wanted, request: Request
    ) -> None:
        """Waits for a first message, and takes what else is there and memory has room for."""
        deadline = time.monotonic() + wanted.wait_s
        found = rows.messages
        while most := await rows.portion(wanted.batch_size - len(found)):
            left_s = deadline - time.monotonic()
            try:
                wait_s = 0.0 if found else min(max(left_s, 0.0), SLICE_S)
                new = await session.wait(consumer.fetch, most, timeout_s=wait_s)
            except MemphisError:
                if found:
                    break  # the next request hears of it
                raise
            if new:
                await rows.add(new)
            elif found or left_s <= SLICE_S or self._sessions.is_ending or await request.is_disconnected():
                break

    # ---- answers ----------------------------------------------------------------------------------------------------

    async def ack(self, request: Request) -> Response:
        """POST /stations/{station}/ack: their messages are done."""
        return await self._answer(request, lambda _: ("ack", lambda message: message.ack(wait=True)))

    async def nack(self, request: Request) -> Response:
        """POST /stations/{station}/nack: their messages come again, at once or later, or become dead letters."""
        return await self._answer(request, _how)

    async def _answer(self, request: Request, how: Callable[[Fields], tuple[str, Act]]) -> Response:
        session = await self._sessions.of(request)
        fields = await _fields(request, self._settings, self._settings.body_limit)
        try:
            what, act = how(fields)
            tokens = _tokens(fields)
        except FieldsError as exc:
            raise refused(400, str(exc)) from None
        failed: dict[int, tuple[int, str]] = {}  # by index: status and text
        together: dict[Member, list[tuple[int, Delivery]]] = {}  # what one consumer answers
        for index, token in enumerate(tokens):
            try:
                delivery = self._checked(session, request.path_params["station"], token, what)
            except Problem as exc:
                failed[index] = exc.status, exc.body["error"]
            else:
                if delivery is not None:
                    together.setdefault(delivery[2:7], []).append((index, delivery))
        for member, deliveries in together.items():
            receipts = [delivery.receipt for _, delivery in deliveries]
            for (index, _), error in zip(deliveries, await self._act(session, member, act, receipts)):
                if error is None:
                    self._remember(tokens[index], what)
                else:
                    failed[index] = 409 if isinstance(error, UsageError) else status_of(error), str(error)
        count(request.scope, "acknowledged" if what == "ack" else "returned", len(tokens) - len(failed))
        return _result(len(tokens), failed)

    def _checked(self, session: UserSession, station: str, token: str, what: str) -> Optional[Delivery]:
        """What is to be answered; None when that was done before. A Problem when the token does not allow it."""
        delivery = opened(self._sessions.tokens, token)
        if delivery is None:
            raise refused(400, "the token is not one of this gateway's delivery tokens")
        if delivery[:3] != (session.account_id, session.username, station.lower()):
            raise refused(403, "the token belongs to another user or station")
        before = self._answered.get(token[:MARK])
        if before == what:  # the answer to that may have been lost
            return None
        if before is not None:
            raise refused(409, f"the message was already answered with {before}")
        late_ms = time.time() * 1000 - delivery.until_ms
        if late_ms >= 0:
            raise refused(410, f"the ack time was over {late_ms:.0f} ms ago: the message is delivered again")
        return delivery

    def _remember(self, token: str, what: str) -> None:
        self._answered[token[:MARK]] = what
        if len(self._answered) > KEPT:
            self._answered.popitem(last=False)

    @staticmethod
    async def _act(session: UserSession, member: Member, act: Act, receipts: list[str]) -> list[Optional[MemphisError]]:
        """Answers messages of one consumer; what went wrong with each."""
        try:
            consumer = await _consumer(session, *member)
        except MemphisError as exc:
            return [exc] * len(receipts)
        errors = await session.call(_each, consumer, act, receipts)
        if any(isinstance(error, (StationNotFoundError, ClosedError)) for error in errors):
            session.forget_consumer(consumer)
        return errors


def _shown(
    consumer: memphis_sync.Consumer, like: Delivery, sign: Callable[[bytes], bytes], messages: list[Any]
) -> list[bytes]:
    """Rows of the answer, made in a thread: five thousand messages would hold up the loop."""
    shown = []
    for message in messages:
        until_ms = int(time.time() * 1000 - message.age_ns / 1e6) + like.ack_ms
        delivery = like._replace(until_ms=until_ms, receipt=consumer.receipt(message))
        token = sealed(sign, delivery)
        shown.append(as_json({**shown_message(message), "ack_until_ms": until_ms, "token": token}))
    return shown


def _each(consumer: memphis_sync.Consumer, act: Act, receipts: list[str]) -> list[Optional[MemphisError]]:
    """Answers them one after the other; after a lost connection or a late reply the others are not tried."""
    errors: list[Optional[MemphisError]] = []
    for receipt in receipts:
        if errors and isinstance(errors[-1], (TransportError, DeadlineError)):
            errors.append(errors[-1])
            continue
        try:
            act(consumer.restore(receipt))
        except MemphisError as exc:
            errors.append(exc)
        else:
            errors.append(None)
    return errors


def _result(count: int, failed: dict[int, tuple[int, str]]) -> Response:
    if not failed:
        return answer({"error": None, "fail": 0, "sent": count, "success": True})
    errors = [{"error": text, "index": index, "status": status} for index, (status, text) in sorted(failed.items())]
    status, text = failed[min(failed)]
    body = {"error": text, "errors": errors, "fail": len(errors), "sent": count - len(errors), "success": False}
    return answer(body, status)


async def _consumer(
    session: UserSession, station: str, name: str, group: str, ack_ms: int, deliveries: int
) -> memphis_sync.Consumer:
    return await session.consumer(station, name, group, max_ack_time_ms=ack_ms, max_msg_deliveries=deliveries)


# ---- tokens ---------------------------------------------------------------------------------------------------------


def sealed(sign: Callable[[bytes], bytes], delivery: Delivery) -> str:
    """The token of a delivery."""
    body = json.dumps(delivery, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(sign(body) + body).decode().rstrip("=")


def opened(tokens: Tokens, token: str) -> Optional[Delivery]:
    """What a token says; None unless it is ours."""
    if not _ALPHABET.fullmatch(token):  # one spelling each: how it was answered is kept under its own
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error:
        return None
    body = tokens.signed(PURPOSE, raw)
    return None if body is None else Delivery(*json.loads(body))


# ---- what is asked for ----------------------------------------------------------------------------------------------


async def _fields(request: Request, settings: GatewaySettings, most_json: int = MOST_BYTES_OF_FIELDS) -> Fields:
    try:
        return await read_fields(request, settings, most_json)
    except FieldsError as exc:
        raise refused(400, f"Invalid request body: {exc}") from None


def _number(fields: Fields, name: str, default: int, least: int, most: int) -> int:
    value = fields.number(name)
    if value is None:
        return default
    if not least <= value <= most:
        raise FieldsError(f"{name} is {value}; it must be {least} to {most}")
    return value


def _wanted(fields: Fields) -> Wanted:
    try:
        name = fields.text("consumer_name")
        if not name:
            raise FieldsError("Consumer name is required")
        return Wanted(
            name=name.lower(),
            group=(fields.text("consumer_group") or name).lower(),
            batch_size=_number(fields, "batch_size", BATCH_SIZE, 1, MAX_BATCH_SIZE),
            wait_s=_number(fields, "batch_max_wait_time_ms", WAIT_MS, 0, MAX_WAIT_MS) / 1000,
            ack_ms=_number(fields, "ack_time_ms", ACK_MS, 100, MAX_ACK_MS),
            deliveries=_number(fields, "max_deliveries", DELIVERIES, 1, DELIVERIES),
        )
    except FieldsError as exc:
        raise refused(400, str(exc)) from None


def _tokens(fields: Fields) -> list[str]:
    tokens = [*fields.texts("tokens"), *fields.texts("token")]
    if not 1 <= len(tokens) <= MAX_BATCH_SIZE:
        raise FieldsError(f"tokens has {len(tokens)} delivery tokens; it must be a list of 1 to {MAX_BATCH_SIZE}")
    return tokens


def _how(fields: Fields) -> tuple[str, Act]:
    """What to do with a message that is not done."""
    delay_ms = _number(fields, "delay_ms", 0, 0, MAX_DELAY_MS)
    reason = fields.text("dead_letter")
    if len(reason) > MAX_REASON:
        raise FieldsError(f"dead_letter has {len(reason)} characters; it is a reason of {MAX_REASON} at most")
    if reason and delay_ms:
        raise FieldsError("delay_ms and dead_letter are both given; choose one")
    if reason:
        return "a dead letter", lambda message: message.dead_letter(reason)
    if delay_ms:
        return "nack", lambda message: message.delay(delay_ms=delay_ms)
    return "nack", lambda message: message.nack()


# ---- what is shown --------------------------------------------------------------------------------------------------


def shown_message(message: memphis_sync.Message) -> dict[str, Any]:
    """A message as JSON: its payload as text, or in base64 when it is not UTF-8; each header with all its values."""
    sent = message.timesent
    shown: dict[str, Any] = {
        "delivered": message.delivered,
        "partition": message.partition,
        "sequence": message.sequence,
        "time": None if sent is None else sent.isoformat(),
    }
    try:
        shown["message"] = message.data.decode()
    except UnicodeDecodeError:
        shown["message_base64"] = base64.b64encode(message.data).decode()
    try:
        shown["headers"] = header_values(message.header_block)
    except HeaderError:  # from any client
        shown["headers"] = {}
        shown["headers_base64"] = base64.b64encode(message.header_block).decode()
    return shown
