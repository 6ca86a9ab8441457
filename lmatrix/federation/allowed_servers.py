"""Talking to some servers only.

Owns: :class:`OnlyFrom` and :class:`OnlyTo`, which stand before what lets requests in and what finds the way out, where
an administrator has named the servers that this one federates with.
"""

from __future__ import annotations

from collections.abc import Collection

from lmatrix.errors import Forbidden, PeerUnreachable
from lmatrix.federation.client import RouteFinder
from lmatrix.federation.discovery import Route
from lmatrix.federation.resources.admission import Authenticates
from lmatrix.http.messages import JsonObject, JsonRequest


class OnlyFrom:
    """Authenticates requests, and refuses those of other servers.

    Args:
        authenticator: tells who made a request.
        servers: who may.
    """

    def __init__(self, authenticator: Authenticates, servers: Collection[str]) -> None:
        self._authenticator = authenticator
        self._servers = servers

    async def authenticate(self, request: JsonRequest, content: JsonObject | None) -> str:
        """The server that made a request.

        Raises:
            Unauthenticated: it does not prove where it comes from.
            Forbidden: it comes from a server that this one does not federate with.
        """
        origin = await self._authenticator.authenticate(request, content)
        if origin not in self._servers:
            raise Forbidden(f"this server does not federate with {origin}")
        return origin


class OnlyTo:
    """Finds the way to some servers, and to no others.

    Args:
        finder: finds it.
        servers: to whom.
    """

    def __init__(self, finder: RouteFinder, servers: Collection[str]) -> None:
        self._finder = finder
        self._servers = servers

    async def resolve(self, server_name: str) -> Route:
        """The way to a server. Raises :class:`~lmatrix.errors.PeerUnreachable`, also for one that is not allowed."""
        if server_name not in self._servers:
            raise PeerUnreachable(server_name, "this server does not federate with it")
        return await self._finder.resolve(server_name)
