"""
Which clients are connected now.

The server is asked when it matters (for instance when a member leaves its group): its list of connections is never out
of date, while a count kept from connect and disconnect events would be wrong after every lost event. Each account may
ask this about itself, so it works on an existing server too. If the server does not answer, every member counts as
connected, and a group's position is kept rather than dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Optional

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from memphis_sync.broker.storage.tables import connection_key

log = logging.getLogger("memphis_sync.broker")

_SUBJECT = "$SYS.REQ.ACCOUNT.PING.CONNZ"
_PAGE = 1024
_FIRST_S = 2.0  # for the first server to answer
_QUIET_S = 0.1  # after an answer, until no other server of a cluster is expected any more


async def open_connections(connection: Client) -> Optional[dict[str, str]]:
    """
    Where each open connection comes from, by its id: what stands before ``::`` in its name, or the whole name.

    Returns:
        ``host:port`` of each; None when the server does not list them.
    """
    found: dict[str, str] = {}
    offset, more, alone = 0, True, not connection.discovered_servers
    while more:
        answers = await _ask(connection, offset, alone=alone)
        if not answers:
            log.warning("the server does not list its connections: all members of a consumer group count as connected")
            return None
        more = False
        for answer in answers:
            data = answer.get("data") or {}
            for client in data.get("connections") or []:
                host, port = str(client.get("ip", "")), client.get("port", 0)
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                found[str(client.get("name", "")).partition("::")[0]] = address if host else ""
            more = more or offset + _PAGE < int(data.get("total", 0))
        offset += _PAGE
    return found


async def open_connection_keys(connection: Client) -> Optional[set[str]]:
    """The same as key tokens."""
    connected = await open_connections(connection)
    return None if connected is None else {connection_key(connection_id) for connection_id in connected}


async def _ask(connection: Client, offset: int, *, alone: bool) -> list[dict[str, Any]]:
    """One page from each server; *alone* means that one answer is all there will be."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, cb=answers.put)
    found: list[dict[str, Any]] = []
    try:
        await connection.publish(_SUBJECT, json.dumps({"limit": _PAGE, "offset": offset}).encode(), reply=inbox)
        wait = _FIRST_S
        while True:
            message = await asyncio.wait_for(answers.get(), wait)
            if not message.data:  # no responders
                break
            found.append(json.loads(message.data))
            if alone:
                break
            wait = _QUIET_S
    except (asyncio.TimeoutError, NatsError):
        pass  # what has come by now is all there is
    finally:
        await subscription.unsubscribe()
    return found
