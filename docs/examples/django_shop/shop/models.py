from django.db import models


class Order(models.Model):
    customer_id = models.IntegerField()
    is_billed = models.BooleanField(default=False)
