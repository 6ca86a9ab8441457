"""Room aliases (Client-Server API v1.11, "Room aliases").

Owns: the endpoints, and :func:`room_named`, which makes a room of a path that names a room or an alias. Where our
aliases lead is told to anybody; where others do to whoever is logged in here, since a request is made for it.
"""

from __future__ import annotations

from typing import Any

from lmatrix import ids
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.elsewhere import AskingElsewhere
from lmatrix.client_api.endpoints import Answer, Endpoint, OpenEndpoint
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import required_string, room_id_in
from lmatrix.client_api.interfaces import TimelineStore
from lmatrix.client_api.room_view import RoomView
from lmatrix.devices.interfaces import SharingStore
from lmatrix.directory.aliases import Aliases
from lmatrix.directory.canonical_alias import CanonicalAliases
from lmatrix.directory.interfaces import AliasTarget
from lmatrix.errors import Forbidden, InvalidIdentifier
from lmatrix.http.messages import JsonRequest
from lmatrix.rooms.interfaces import Database, RoomStore


class AliasEndpoints:
    """Makes, shows and removes aliases.

    Args:
        aliases, canonical: carry it out.
        elsewhere: who may have other servers asked.
        database, store, timeline, sharing: who may see a room's aliases.
    """

    def __init__(
        self,
        aliases: Aliases,
        canonical: CanonicalAliases,
        elsewhere: AskingElsewhere,
        *,
        database: Database,
        store: RoomStore,
        timeline: TimelineStore,
        sharing: SharingStore,
    ) -> None:
        self._aliases = aliases
        self._canonical = canonical
        self._elsewhere = elsewhere
        self._database = database
        self._store = store
        self._timeline = timeline
        self._sharing = sharing

    def endpoints(self) -> tuple[Endpoint | OpenEndpoint, ...]:
        """What it answers."""
        path = "/directory/room/{roomAlias}"
        return (
            OpenEndpoint("GET", path, self._get, "get_alias"),
            Endpoint("PUT", path, self._put, "put_alias"),
            Endpoint("DELETE", path, self._delete, "delete_alias"),
            Endpoint("GET", "/rooms/{roomId}/aliases", self._of_room, "room_aliases"),
        )

    async def _get(self, request: JsonRequest) -> Answer:
        alias = _alias_in(request, "roomAlias")
        if not self._aliases.is_local(alias):
            await self._elsewhere.check(request)
        target = await self._aliases.find(alias)
        return {"room_id": target.room_id, "servers": list(target.servers)}

    async def _put(self, request: JsonRequest, requester: Requester) -> Answer:
        alias, body = _alias_in(request, "roomAlias"), request.json()
        room_id = room_id_in({"room_id": required_string(body, "room_id")}, "room_id")
        await self._aliases.create(alias, room_id, requester.user_id)
        return {}

    async def _delete(self, request: JsonRequest, requester: Requester) -> Answer:
        await self._aliases.remove(_alias_in(request, "roomAlias"), requester.user_id, self._canonical)
        return {}

    async def _of_room(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id = room_id_in(request.params)

        def may_see(tx: Any) -> bool:
            if self._sharing.is_joined(tx, room_id, requester.user_id):
                return True
            view = RoomView.load(tx, self._store, self._timeline, room_id, requester.user_id)
            return view.is_world_readable

        if not await self._database.read(may_see):
            raise Forbidden(f"{requester.user_id} is not in {room_id}")
        return {"aliases": list(await self._aliases.of_room(room_id))}


async def room_named(request: JsonRequest, aliases: Aliases) -> AliasTarget:
    """The room of a path that may have an alias instead of a room ID, and the servers that the alias's server names.

    Raises:
        ClientApiError: it is neither.
        NotFound, PeerError: as :meth:`Aliases.find`.
    """
    if request.params["roomIdOrAlias"].startswith("#"):
        return await aliases.find(_alias_in(request, "roomIdOrAlias"))
    return AliasTarget(room_id_in(request.params, "roomIdOrAlias"), ())


def _alias_in(request: JsonRequest, name: str) -> str:
    try:
        return ids.room_alias(request.params[name])
    except InvalidIdentifier as problem:
        raise invalid_param(name, str(problem)) from problem
