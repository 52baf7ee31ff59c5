"""
The endpoint that does nothing: what uvicorn and starlette cost by themselves.

    python _bare_http.py READY_FILE

Takes a free port, and writes it into the file.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = b'{"error":null,"success":true}'


async def nothing(_: Request) -> Response:
    """The answer to everything."""
    return Response(ANSWER, media_type="application/json")


def main() -> None:
    """Serves until SIGTERM."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    app = Starlette(routes=[Route("/{rest:path}", nothing, methods=["POST"])])
    ready = Path(sys.argv[1])
    part = ready.with_suffix(".part")
    part.write_text(str(listener.getsockname()[1]))
    part.replace(ready)
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
