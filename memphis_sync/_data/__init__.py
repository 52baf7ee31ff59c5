"""
The data link: a separate TCP connection for produced messages, their acks, pulls, deliveries and message acks.

Threads: ``memphis-reader-N`` connects, reads and connects again; ``memphis-sender-N`` writes and expires deadlines;
both spend their lives inside the C core without the GIL, or under TLS in the two loops of ``tls_loops``.
What nobody foresaw in either is logged and reported, and the connection is made again.
``memphis-callbacks-N`` hands out delivery reports and link events, from first use; it belongs to the client, whose
control link uses it too.
Locks: ``DataLink._state`` guards the state of the connection; ``PullConsumer._lock`` makes the fetches of one consumer
follow each other. Neither is held while the other is taken, except that a fetch may wait on the state.
"""

from memphis_sync._data.callbacks import Callbacks, Change
from memphis_sync._data.connection import DataLink
from memphis_sync._data.outages import LinkName, Outages
from memphis_sync._data.pull_consumer import PullConsumer
from memphis_sync._data.pull_subscription import GroupPartition

__all__ = ["Callbacks", "Change", "DataLink", "GroupPartition", "LinkName", "Outages", "PullConsumer"]
