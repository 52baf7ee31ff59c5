"""The shop's views."""

from __future__ import annotations

import os
from typing import Any

from django.db import transaction
from django.http import HttpResponse, JsonResponse

from django_shop.models import Order
from memphis_sync.contrib.django import memphis, produce_on_commit


def produce(request: Any, first: int, count: int) -> HttpResponse:
    """So many messages, without waiting; answers with the process."""
    for number in range(first, first + count):
        memphis.produce(os.environ["SHOP_STATION"], "web", str(number), nonblocking=True)
    return HttpResponse(str(os.getpid()))


def order(request: Any, customer: int) -> JsonResponse:
    """An order, and a message about it after the commit."""
    with transaction.atomic():
        made = Order.objects.create(customer_id=customer)
        produce_on_commit(os.environ["SHOP_STATION"], {"id": made.pk}, producer_partition_key=str(customer))
    return JsonResponse({"id": made.pk}, status=201)


def fails(request: Any) -> HttpResponse:
    """Produces, which fails while the broker is away."""
    memphis.produce(os.environ["SHOP_STATION"], "web", "x")
    return HttpResponse("stored")
