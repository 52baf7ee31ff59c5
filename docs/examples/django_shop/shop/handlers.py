from memphis_sync.contrib.django import handler
from shop.models import Order


@handler("orders", group="billing")
def on_order(message):
    Order.objects.filter(pk=message.json()["id"]).update(is_billed=True)
