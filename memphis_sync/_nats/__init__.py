"""What both links need for NATS: TLS and the handshake; the hardened nats-py for the control link and the broker."""

from memphis_sync._nats.client import HardenedClient
from memphis_sync._nats.errors import ServerSaidError

__all__ = ["HardenedClient", "ServerSaidError"]
