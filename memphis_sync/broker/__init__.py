"""
A Memphis broker in one process and a child: the Memphis control plane on a stock nats-server with JetStream.

    python -m memphis_sync.broker --port 6666

`run()` is that program; `BrokerProcess` starts it from a program or a test and waits until it answers.
"""

from __future__ import annotations

from memphis_sync.broker.options import BrokerError, BrokerOptions, default_data_dir
from memphis_sync.broker.server.subprocess import BrokerProcess
from memphis_sync.broker.server.supervisor import run

__all__ = ["BrokerError", "BrokerOptions", "BrokerProcess", "default_data_dir", "run"]
