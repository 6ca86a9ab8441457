"""``GET /version``: what this server is (Server-Server API v1.11, "Server implementation").

Neither authenticated nor rate-limited: it is always the same.
"""

from __future__ import annotations

from lmatrix import __version__
from lmatrix.http.messages import JsonObject, JsonRequest


async def version(_request: JsonRequest) -> JsonObject:
    """The program's name and version."""
    return {"server": {"name": "lmatrix", "version": __version__}}
