"""
Subjects that contain a station's name, and those without a class; a request, report or event has its subject in its
class.

Updates are published by the broker; names in subjects are internal.
"""

from __future__ import annotations

CLIENT_UPDATES = "$memphis_sdk_clients_updates"


def schema_updates(internal: str) -> str:
    """Where a station's schema changes are announced."""
    return f"$memphis_schema_updates_{internal}"


def functions_updates(internal: str) -> str:
    """Where changes of a station's functions are announced."""
    return f"$memphis_functions_updates_{internal}"


def dls(internal: str, group_internal: str) -> str:
    """Where dead letters are sent again to a consumer group; subscribe with this same text as the queue group."""
    return f"$memphis_dls_{internal}.{group_internal}"


def dls_before_dots(internal: str, group_internal: str) -> str:
    """The older form of dls(), which brokers send on as well; nobody should subscribe to both."""
    return f"$memphis_dls_{internal}_{group_internal}"
