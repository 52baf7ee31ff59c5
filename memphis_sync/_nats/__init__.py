"""What both links need of NATS: TLS and the handshake; nats-py hardened, for the control link and for the broker."""

from memphis_sync._nats.client import HardenedClient
from memphis_sync._nats.errors import ServerSaidError

__all__ = ["HardenedClient", "ServerSaidError"]
