"""
The files of the console's pages: a fixed table, read once, so no path of a request ever reaches the file system.

A URL carries the digest of its file, so browsers may keep it for ever and see a new release at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file: its bytes, their type, and the short digest in its URL."""

    content: bytes
    media_type: str
    digest: str


def load_assets() -> dict[str, Asset]:
    """All files by name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = Asset(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
    return found


class Assets:
    """Serves them, and knows their URLs."""

    def __init__(self) -> None:
        self._files = load_assets()

    def url(self, base: str, name: str) -> str:
        """The URL of a file below *base*."""
        return f"{base}/static/{name}?v={self._files[name].digest}"

    async def serve(self, request: Request) -> Response:
        """The handler of ``static/{name}``."""
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        is_named = request.query_params.get("v") == asset.digest
        kept = "public, max-age=31536000, immutable" if is_named else "no-cache"
        return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": kept})
