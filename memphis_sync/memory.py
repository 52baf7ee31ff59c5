"""
What the ``memory://`` clients of this process have produced, for tests that need no broker.

    from memphis_sync.memory import sent
    with memphis_sync.connect("memory://") as client:
        client.produce("orders", "web", {"id": 7}, nonblocking=True)
    assert sent[-1].json() == {"id": 7}
"""

from memphis_sync._memory.sent import Sent, SentMessages, sent

__all__ = ["Sent", "SentMessages", "sent"]
