"""
memphis_sync in a Django project: clients that are described in the settings and opened at their first use.

In the settings: ``INSTALLED_APPS += ["memphis_sync.contrib.django"]`` and ``MEMPHIS = {"default": {"URL": ...}}``.

``memphis`` is the client of ``default``, ``clients["archive"]`` that of another alias. produce_on_commit() waits for
the commit; memphis_sync.contrib.django.outbox keeps the message in a table until the broker has it. ``handler`` marks a
function that ``manage.py memphis_consume`` runs.
"""

from __future__ import annotations

from memphis_sync import handler
from memphis_sync.contrib.django._clients import Clients, clients, memphis
from memphis_sync.contrib.django._commit import NotAccepted, produce_on_commit

__all__ = ["Clients", "NotAccepted", "clients", "handler", "memphis", "produce_on_commit"]
