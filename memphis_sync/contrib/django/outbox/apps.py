"""``INSTALLED_APPS += ["memphis_sync.contrib.django.outbox"]``, then ``manage.py migrate``."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """The app."""

    name = "memphis_sync.contrib.django.outbox"
    label = "memphis_outbox"
    verbose_name = "Memphis outbox"
    default_auto_field = "django.db.models.BigAutoField"
