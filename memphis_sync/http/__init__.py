"""
HTTP: a client for a gateway, a gateway with Memphis' REST protocol, and a page to look at stations.

    import memphis_sync.http
    with memphis_sync.http.connect("https://gateway:4444", username="root", password="memphis") as memphis:
        memphis.produce("orders", b"hello")

Nothing here is needed by the rest of the package, and each part imports its libraries when it is used.
"""

from __future__ import annotations

from memphis_sync.http.client import GatewayAnswer, HttpBulkResult, HttpClient, HttpMessage, HttpMessages, connect

__all__ = ["GatewayAnswer", "HttpBulkResult", "HttpClient", "HttpMessage", "HttpMessages", "connect"]
