"""
memphis_sync: the synchronous client for the Memphis message broker.

    with memphis_sync.connect("memphis://user:password@host") as memphis:
        memphis.produce("orders", "web", b"hello")

Importing it starts nothing: no thread, no connection, no hook.
"""

from __future__ import annotations

import logging as _logging

_logging.getLogger("memphis_sync").addHandler(_logging.NullHandler())
