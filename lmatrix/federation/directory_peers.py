"""Requests to other servers about what their users and rooms are called.

Owns: :class:`HttpDirectoryPeers`, which implements :class:`~lmatrix.directory.interfaces.DirectoryPeers`. Invariant:
what a caller gets is well-formed and bounded, whatever the peer sent.

Implements the Server-Server API v1.11, "Querying for information", its asking side.
"""

from __future__ import annotations

from lmatrix import ids
from lmatrix.directory.interfaces import AliasTarget
from lmatrix.directory.profiles import Profile
from lmatrix.errors import InvalidIdentifier, NotFound, PeerRefused
from lmatrix.events.room_versions import PathForm
from lmatrix.federation.asking import Asker, Endpoint, RequestMaker, misbehaved
from lmatrix.federation.client import Query
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.resources import paths
from lmatrix.rooms.interfaces import JsonObject

MAX_SERVERS = 20
"""Servers that are kept of those that a peer names for an alias."""

_PROFILE = Endpoint(paths.QUERY_PROFILE, timeout_s=15, max_answer=64 * 1024)
_DIRECTORY = Endpoint(paths.QUERY_DIRECTORY, timeout_s=15, max_answer=1024 * 1024)


class HttpDirectoryPeers:
    """See :class:`~lmatrix.directory.interfaces.DirectoryPeers`.

    Args:
        client: makes the requests.
        traits: what is remembered of peers' peculiarities.
    """

    def __init__(self, client: RequestMaker, traits: PeerTraitsMemory) -> None:
        self._asker = Asker(client, traits)

    async def profile(self, destination: str, user_id: str) -> Profile:
        """``GET /query/profile``; what is in the answer and cannot be used counts as not set."""
        return Profile.told(await self._ask(_PROFILE, destination, [("user_id", user_id)]))

    async def alias(self, destination: str, alias: str) -> AliasTarget:
        """``GET /query/directory``; the peer itself is the last of the servers, if it does not name itself."""
        answer = await self._ask(_DIRECTORY, destination, [("room_alias", alias)])
        try:
            room_id = ids.room_id(answer.get("room_id"))
        except InvalidIdentifier as error:
            raise misbehaved(destination, str(error)) from error
        named = answer.get("servers")
        if not isinstance(named, list):
            raise misbehaved(destination, "servers is not a list")
        servers = [name for name in named[:MAX_SERVERS] if _is_server_name(name)]
        return AliasTarget(room_id, tuple(dict.fromkeys([*servers, destination])))

    async def _ask(self, endpoint: Endpoint, destination: str, query: Query) -> JsonObject:
        """An answer, or :class:`NotFound`: which of several 404 it was tells the asker nothing."""
        try:
            return await self._asker.ask(endpoint, PathForm.STABLE, destination, query=query)
        except PeerRefused as refusal:
            if refusal.status == 404:
                raise NotFound(f"{destination} does not know {query[0][1]}") from refusal
            raise


def _is_server_name(name: object) -> bool:
    try:
        ids.server_name(name)
    except InvalidIdentifier:
        return False
    return True
