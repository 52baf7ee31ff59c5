"""nats-py, hardened: the one client for the control link and for the broker's service."""

from memphis_sync._nats.client import HardenedClient
from memphis_sync._nats.errors import NotMemphisError, ServerSaidError

__all__ = ["HardenedClient", "NotMemphisError", "ServerSaidError"]
