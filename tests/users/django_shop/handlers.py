"""What the shop does with messages; a test says in files what is to happen, and reads there what has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.db import connection

from django_shop.models import Order
from memphis_sync import Message
from memphis_sync.contrib.django import handler


@handler(
    os.environ.get("SHOP_STATION", "orders"),
    group="billing",
    alias=os.environ.get("SHOP_ALIAS", "default"),
    max_ack_time_ms=10_000,
    max_msg_deliveries=10,
)
def on_order(message: Message) -> None:
    """Saves an order. The one that the file ``stop-at`` names is not finished while that file is there."""
    number, is_new = bytes(message.data).decode(), connection.connection is None
    stop_at = Path("stop-at")
    with Path("begun").open("a") as begun:
        begun.write(f"{number}\n")
    while stop_at.exists() and stop_at.read_text() == number:
        time.sleep(0.02)
    Order.objects.create(customer_id=int(number))
    with Path("handled").open("a") as handled:
        handled.write(f"{number} {'with a new connection' if is_new else ''}\n")
