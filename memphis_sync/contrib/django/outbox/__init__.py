"""
The table outbox: a message is a row of the caller's transaction, and ``manage.py memphis_outbox`` sends it.

It is lost only with the database, and stored exactly once while the station remembers message ids, by default for 2
minutes. It is not the client's own outbox (``connect(outbox=PATH)``), a file that knows nothing of the database.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping
from typing import Any, Optional

from django.apps import apps as registry

import memphis_sync
from memphis_sync import ConfigurationError
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients
from memphis_sync.contrib.django._commit import checked_keywords
from memphis_sync.contrib.django._config import DEFAULT
from memphis_sync.types import Payload

APP = "memphis_sync.contrib.django.outbox"
MAX_MSG_ID = 255  # characters; the longest that every database keeps unique


def enqueue(
    station: str,
    message: Payload,
    *,
    using: Optional[str] = None,
    alias: str = DEFAULT,
    headers: Optional[Mapping[str, str]] = None,
    msg_id: Optional[str] = None,
    producer_partition_key: Optional[str] = None,
    producer_partition_number: int = -1,
    **unexpected: Any,
) -> str:
    """
    Puts a message into the table outbox: one INSERT in the caller's transaction, with which it is committed or rolled
    back. ``manage.py memphis_outbox`` sends it, in the order of the inserts.

        with transaction.atomic():
            order.save()
            outbox.enqueue("orders", {"id": order.pk}, producer_partition_key=str(order.customer_id))

    The message is written now, and checked if the client of this process knows the station's schema by now; a dict or
    list is written as JSON otherwise.

    Args:
        station: One station.
        message: As of produce().
        using: The database; by default the one that the routers give.
        alias: The client that is to send it, by its name in ``settings.MEMPHIS``.
        headers, producer_partition_key, producer_partition_number: As of produce().
        msg_id: Up to 255 characters, unique in the table; by default a random one. The broker stores it once.

    Returns:
        The message id.

    Raises:
        ConfigurationError, HeaderError, SchemaError: The message, an argument or the alias is wrong, or the app is not
            installed. Nothing was inserted.
        TypeError: There is no such keyword; the text has the nearest one.
        django.db.IntegrityError: The table has this *msg_id* already.
    """
    checked_keywords("enqueue", unexpected, frozenset(inspect.signature(enqueue).parameters) - {"unexpected"})
    if not registry.is_installed(APP):
        raise ConfigurationError(f"the table outbox is not installed: add {APP!r} to INSTALLED_APPS, then migrate")
    settings = _config.alias(alias)
    encoded = memphis_sync.encode_message(
        station,
        message,
        client=clients.opened(alias),
        headers=headers,
        msg_id=msg_id,
        producer_partition_key=producer_partition_key,
        producer_partition_number=producer_partition_number,
        json_default=settings.arguments.get("json_default"),
    )
    own_id = uuid.uuid4().hex if msg_id is None else msg_id
    if not 1 <= len(own_id) <= MAX_MSG_ID:
        raise ConfigurationError(
            f"msg_id has {len(own_id)} characters; in the table outbox it must have 1 to {MAX_MSG_ID}"
        )
    from memphis_sync.contrib.django.outbox.models import OutboxMessage  # noqa: PLC0415  once the apps are loaded

    OutboxMessage.objects.using(using).create(
        alias=alias,
        station=station,
        payload=encoded.payload,
        headers=dict(headers or {}),
        msg_id=own_id,
        partition_key=producer_partition_key,
        partition_number=int(producer_partition_number),
    )
    return own_id


__all__ = ["enqueue"]
