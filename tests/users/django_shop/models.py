"""The shop's tables."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a customer."""

    customer_id = models.IntegerField()
    total = models.DecimalField(max_digits=8, decimal_places=2, default=0)

    def __str__(self) -> str:
        return f"order {self.pk}"
