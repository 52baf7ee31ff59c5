"""
``memory://``: a client without a broker, for tests. It records what is produced.

Everything up to the wire is the real client, so no rule of produce() stands twice: arguments, encoding, the outbox and
its bounds, the deadlines. Only the two links lead to a recorder in this process instead of a broker.
"""

from memphis_sync._memory.links import MemoryControl, MemoryLink, refuse

__all__ = ["MemoryControl", "MemoryLink", "refuse"]
