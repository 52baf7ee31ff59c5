"""The table of the outbox."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class OutboxMessage(models.Model):
    """
    A message that the broker does not have yet. There is no column for its state: the row is deleted when the broker
    has confirmed the message.

    Attributes:
        created_at: When it was enqueued.
        alias: The client, by its name in ``settings.MEMPHIS``.
        station: Where it goes.
        payload: As it is sent.
        headers: Text to text.
        msg_id: By which the broker drops a second copy.
        partition_key: Messages with the same key go to the same partition; None without one.
        partition_number: The partition; -1: by key or *msg_id*.
        failed_at: When it was refused for good; None while it waits. Set it to None again to have it sent.
        error: Why it was refused.
    """

    created_at = models.DateTimeField(default=timezone.now)
    alias = models.CharField(max_length=100, default="default")
    station = models.CharField(max_length=128)
    payload = models.BinaryField()
    headers = models.JSONField(default=dict)
    msg_id = models.CharField(max_length=255, unique=True)
    partition_key = models.TextField(null=True, default=None)  # noqa: DJ001  an empty key is a key
    partition_number = models.IntegerField(default=-1)
    failed_at = models.DateTimeField(null=True, default=None)
    error = models.TextField(default="")

    class Meta:
        """The table's name, which users read in their database."""

        db_table = "memphis_outbox"
        verbose_name = "message of the outbox"

    def __str__(self) -> str:
        return f"{self.msg_id} to {self.station}"
