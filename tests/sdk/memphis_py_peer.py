"""
memphis-py as it comes from PyPI, told by lines of JSON what to call: the other side of fix_sdk.py.

    {"call": "station", "on": 3, "args": ["orders"], "kwargs": {}}  ->  {"value": {"$ref": 4, "kind": "Station"}}
    {"get": "producer_name", "on": 5}                               ->  {"value": "p"}

Object 0 is the SDK itself. It runs on an interpreter that has memphis-py (fix_memphis_py.py makes one).
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import sys
from enum import Enum
from types import SimpleNamespace
from typing import Any

import memphis
import memphis.types

ROOT = SimpleNamespace(
    **{name: getattr(memphis, name) for name in ("Headers", "Memphis")},
    Retention=memphis.types.Retention,
    Storage=memphis.types.Storage,
)


class Calls:
    """A callback for consume(): notes its arguments."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.calls: list[tuple[Any, ...]] = []
        self.more = asyncio.Event()

    async def __call__(self, *args: Any) -> None:
        self.calls.append(args)
        self.more.set()
        if self.fails:
            raise ValueError("a callback that fails")

    async def wait(self, count: int) -> list[Any]:
        while sum(len(args[0]) for args in self.calls) < count:
            self.more.clear()
            await self.more.wait()
        return [list(args) for args in self.calls]


class Objects:
    """What the tests hold, by number."""

    def __init__(self) -> None:
        self.held: list[Any] = [ROOT]

    def encode(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (bytes, bytearray)):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, (list, tuple)):
            return [self.encode(item) for item in value]
        if isinstance(value, dict):
            return {str(key): self.encode(item) for key, item in value.items()}
        if isinstance(value, Enum):
            return value.value
        self.held.append(value)
        return {"$ref": len(self.held) - 1, "kind": type(value).__name__, "text": str(value)}

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return self.held[value["$ref"]]
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        if "$bytearray" in value:
            return bytearray(base64.b64decode(value["$bytearray"]))
        if "$name" in value:
            found: Any = ROOT
            for part in value["$name"].split("."):
                found = getattr(found, part)
            return found
        return {key: self.decode(item) for key, item in value.items()}

    async def serve(self, request: dict[str, Any]) -> Any:
        if "held" in request:
            return len(self.held)
        if "forget" in request:
            del self.held[request["forget"] :]
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()  # a closed client of the SDK pings its consumers for ever
            return None
        if "callback" in request:
            self.held.append(Calls(**request["callback"]))
            return len(self.held) - 1
        if "wait" in request:
            calls = self.held[request["wait"]]
            return self.encode(await asyncio.wait_for(calls.wait(request["count"]), request["timeout_s"]))
        target = self.held[request["on"]]
        if "get" in request:
            return self.encode(getattr(target, request["get"]))
        result = getattr(target, request["call"])(*self.decode(request["args"]), **self.decode(request["kwargs"]))
        return self.encode(await result if inspect.isawaitable(result) else result)


async def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the SDK prints; the replies' pipe is for replies
    requests = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    objects = Objects()
    while line := await requests.readline():
        try:
            reply = {"value": await objects.serve(json.loads(line))}
        except Exception as exc:
            reply = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(reply), file=replies, flush=True)
    os._exit(0)  # the SDK leaves tasks that never end


if __name__ == "__main__":
    asyncio.run(main())
