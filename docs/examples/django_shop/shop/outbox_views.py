from django.db import transaction
from django.http import JsonResponse

from memphis_sync.contrib.django import outbox
from shop.models import Order


def order(request):
    with transaction.atomic():
        made = Order.objects.create(customer_id=request.POST["customer"])
        outbox.enqueue("orders", {"id": made.pk}, producer_partition_key=str(made.customer_id))
    return JsonResponse({"id": made.pk}, status=201)
