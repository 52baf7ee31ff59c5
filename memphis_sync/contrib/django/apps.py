"""``INSTALLED_APPS += ["memphis_sync.contrib.django"]``: checks and commands. It opens nothing."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks as django_checks

from memphis_sync.contrib.django import checks


class MemphisConfig(AppConfig):
    """The app."""

    name = "memphis_sync.contrib.django"
    label = "memphis"
    verbose_name = "Memphis"

    def ready(self) -> None:
        """Registers the checks."""
        django_checks.register(checks.check_settings, checks.TAG)
        django_checks.register(checks.check_handlers, checks.TAG)
        django_checks.register(checks.check_tls, checks.TAG, deploy=True)
