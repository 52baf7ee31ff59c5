"""
The control link: one nats-py connection for everything that is not frequent.

The only part of the client that imports nats.
"""

from __future__ import annotations

from nats.aio.subscription import Subscription

from memphis_sync._control.connection import ControlLink

__all__ = ["ControlLink", "Subscription"]
