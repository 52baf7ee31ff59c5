"""
The subjects of the Memphis control plane.

Requests carry JSON and no headers. A plain reply is empty on success, otherwise an error text; producer, consumer and
schema creations, and schema activations, answer JSON. Updates are published by the broker; names in their subjects
are internal.
"""

from __future__ import annotations

STATION_CREATE = "$memphis_station_creations"
STATION_DESTROY = "$memphis_station_destructions"
PRODUCER_CREATE = "$memphis_producer_creations"
PRODUCER_DESTROY = "$memphis_producer_destructions"
CONSUMER_CREATE = "$memphis_consumer_creations"
CONSUMER_DESTROY = "$memphis_consumer_destructions"
SCHEMA_CREATE = "$memphis_schema_creations"
SCHEMA_ATTACH = "$memphis_schema_attachments"
SCHEMA_DETACH = "$memphis_schema_detachments"
SCHEMA_ACTIVATE = "$memphis_sync_schema_activations"  # of memphis-sync's own broker: Memphis does this by REST only

NOTIFICATIONS = "$memphis_notifications"
SCHEMA_DEAD_LETTERS = "$memphis_schemaverse_dls"
NACKED_DEAD_LETTERS = "$memphis_nacked_dls"
DEAD_LETTER_ACKS = "$memphis_pm_acks"

# Requests of our own: Memphis offers these through its REST API only.
DEAD_LETTER_REPORT = "$memphis_sync_dls_report"  # as NACKED_DEAD_LETTERS, with a plain reply when it is kept
DEAD_LETTER_LIST = "$memphis_sync_dls_list"
DEAD_LETTER_DATA = "$memphis_sync_dls_data"
DEAD_LETTER_RESEND = "$memphis_sync_dls_resend"
DEAD_LETTER_DROP = "$memphis_sync_dls_drop"
GIVEN_BACK = "$memphis_sync_given_back"  # what a member of a group gives back without having looked at it
OWED = "$memphis_sync_owed"  # how many messages come to a group again that are no dead letters yet
DEAD_LETTER_GROUP_GONE = "$memphis_sync_dls_group_gone"

MAX_DELIVERIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"  # a stream and a durable follow

CLIENT_UPDATES = "$memphis_sdk_clients_updates"


def queue_group(subject: str) -> str:
    """The queue group that the broker listens in: several copies of it share the requests of *subject*."""
    return f"{subject.lstrip('$')}_listeners_group"


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
