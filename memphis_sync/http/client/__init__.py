"""
The client over HTTP, for networks that allow nothing else (extra ``http``).

It works with the gateway of memphis-sync and with Memphis' own. The first says in each response what it can do (the
header Memphis-Gateway); what the client promises less of with the second is in the docstrings and in
docs/how-to/http-client.md. httpx is imported with the first client.
"""

from __future__ import annotations

from memphis_sync.http.client.client import HttpClient, connect
from memphis_sync.http.client.message import HttpMessage, HttpMessages
from memphis_sync.http.client.results import GatewayAnswer, HttpBulkResult

__all__ = ["GatewayAnswer", "HttpBulkResult", "HttpClient", "HttpMessage", "HttpMessages", "connect"]
