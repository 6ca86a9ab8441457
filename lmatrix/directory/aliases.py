"""Room aliases: made, looked up, removed (Client-Server API v1.11, "Room aliases"; Server-Server API v1.11, "Querying
for information").

Owns: :class:`Aliases`. Invariants: an alias of ours is made by somebody who is in the room that it leads to, or
together with that room; it is removed by whoever made it, by whoever may say what the room's main alias is, or by the
operator; there are bounds on how many a room has, and a user has made.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix import ids
from lmatrix.directory.canonical_alias import CanonicalAliases
from lmatrix.directory.interfaces import (
    AliasStore,
    AliasTarget,
    DirectoryPeers,
    LoadsRooms,
    Memberships,
    StoredAlias,
)
from lmatrix.directory.lookups import Lookups
from lmatrix.directory.naming_power import may_name
from lmatrix.errors import AliasTaken, Forbidden, InvalidIdentifier, InvalidParam, NotFound, UnsupportedRoomVersion
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.room import Room

MAX_ALIASES_OF_ROOM = 100
MAX_ALIASES_BY_USER = 500

MAX_SERVERS = 20
"""Servers that are named for one alias."""


class Aliases:
    """The aliases of this server, and where others lead.

    Args:
        server_name: ours.
        database, store: our aliases.
        memberships, rooms: the rooms that they lead to.
        policies: may block a room; no alias of ours leads there then.
        peers: whom to ask about other servers' aliases.
        clock: the time.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        store: AliasStore,
        memberships: Memberships,
        rooms: LoadsRooms,
        policies: Policies,
        peers: DirectoryPeers,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._store = store
        self._memberships = memberships
        self._rooms = rooms
        self._policies = policies
        self._peers = peers
        self._clock = clock
        self._lookups: Lookups[AliasTarget] = Lookups(clock)

    # -- Looking up ---------------------------------------------------------------------------------------------------

    def is_local(self, alias: str) -> bool:
        """Whether an alias would be one of ours."""
        return ids.server_of(alias) == self._server_name

    async def local(self, alias: str) -> AliasTarget:
        """Where an alias of ours leads.

        Raises:
            NotFound: there is no such alias.
            Forbidden: the room is blocked here.
        """
        found = await self._database.read(lambda tx: self._store.alias(tx, alias)) if self.is_local(alias) else None
        if found is None:
            raise _unknown(alias)
        await self._policies.check_room(found.room_id)
        return AliasTarget(found.room_id, self._servers(await self._room(found.room_id)))

    async def find(self, alias: str) -> AliasTarget:
        """Where any alias leads.

        Raises:
            NotFound: there is no such alias, as far as its server says.
            PeerError: that server gives no usable answer.
            Overloaded: too many servers are being asked.
        """
        if self.is_local(alias):
            return await self.local(alias)
        return await self._lookups.find(alias, lambda: self._peers.alias(ids.server_of(alias), alias))

    async def all_after(self, alias: str, limit: int) -> Sequence[StoredAlias]:
        """A page of all our aliases in the order of their names, after that one (``""``: from the first)."""
        return await self._database.read(lambda tx: self._store.aliases_after(tx, alias, limit))

    async def of_room(self, room_id: str) -> Sequence[str]:
        """Our aliases of a room. Raises :class:`Forbidden` for one that is blocked here."""
        await self._policies.check_room(room_id)
        return await self._database.read(lambda tx: self._store.aliases_of_room(tx, room_id))

    # -- Making -------------------------------------------------------------------------------------------------------

    async def free(self, localpart: str, creator: str) -> str:
        """An alias of ours that nobody has made yet, and that a user may make.

        Raises:
            InvalidParam: there can be none with that localpart.
            AliasTaken: somebody has.
            Forbidden: the user has made too many.
        """
        alias = f"#{localpart}:{self._server_name}"
        self._check_own(alias)

        def look(tx: Any) -> None:
            if self._store.alias(tx, alias) is not None:
                raise AliasTaken(alias)
            self._check_maker(tx, creator)

        await self._database.read(look)
        return alias

    def claim(self, tx: Any, alias: str, room_id: str, creator: str) -> None:
        """Make an alias, for somebody who may.

        Raises:
            AliasTaken: it exists already.
            Forbidden: there are too many.
        """
        if len(self._store.aliases_of_room(tx, room_id)) >= MAX_ALIASES_OF_ROOM:
            raise Forbidden(f"a room can have at most {MAX_ALIASES_OF_ROOM} aliases on one server")
        self._check_maker(tx, creator)
        self._store.put_alias(tx, StoredAlias(alias, room_id, creator), int(self._clock.seconds() * 1000))

    async def create(self, alias: str, room_id: str, creator: str) -> None:
        """Make an alias for a room that its maker is in.

        Raises:
            InvalidParam: it cannot be an alias of ours.
            AliasTaken: it exists already.
            Forbidden: the user is not in the room, it is blocked here, or there are too many aliases.
        """
        self._check_own(alias)
        await self._policies.check_room(room_id)

        def work(tx: Any) -> None:
            if not self._memberships.is_joined(tx, room_id, creator):
                raise Forbidden(f"{creator} is not in {room_id}")
            self.claim(tx, alias, room_id, creator)

        await self._database.write(work)
        self.log.info("{room_id}: {creator} made the alias {alias}", room_id=room_id, creator=creator, alias=alias)

    # -- Removing -----------------------------------------------------------------------------------------------------

    async def remove(self, alias: str, user_id: str, canonical: CanonicalAliases) -> None:
        """Remove an alias of ours at a user's wish; the room no longer calls itself so, if the user has a say in that.

        Raises:
            NotFound: there is no such alias.
            Forbidden: it is not the user's to remove.
        """
        found = await self._database.read(lambda tx: self._store.alias(tx, alias)) if self.is_local(alias) else None
        if found is None:
            raise _unknown(alias)
        room = await self._room(found.room_id)
        has_a_say = room is not None and may_name(room, user_id)
        if found.creator != user_id and not has_a_say:
            raise Forbidden(f"{alias} is not yours to remove")
        await self._remove(found, user_id)
        if room is not None and has_a_say:
            await canonical.withdraw(room, alias, user_id)

    async def remove_for_operator(self, alias: str) -> str:
        """Remove an alias of ours, whosever it is; where it led. Raises :class:`NotFound`."""
        found = await self._database.read(lambda tx: self._store.alias(tx, alias))
        if found is None:
            raise _unknown(alias)
        await self._remove(found, "the operator")
        return found.room_id

    async def _remove(self, found: StoredAlias, who: str) -> None:
        def work(tx: Any) -> None:
            if self._store.alias(tx, found.alias) != found:
                raise _unknown(found.alias)
            self._store.remove_alias(tx, found.alias)

        await self._database.write(work)
        self.log.info("{room_id}: {who} removed the alias {alias}", room_id=found.room_id, who=who, alias=found.alias)

    # -- Rooms --------------------------------------------------------------------------------------------------------

    async def _room(self, room_id: str) -> Room | None:
        try:
            return await self._rooms.load(room_id)
        except UnsupportedRoomVersion:
            return None

    def _servers(self, room: Room | None) -> tuple[str, ...]:
        """Servers that may let one into a room: its hub, then those with most users, ourselves among the first."""
        if room is None or room.head_event_id is None:
            return (self._server_name,)
        by_size = [server for server, joined in room.joined_per_server.most_common() if joined > 0]
        ours = [self._server_name] if room.is_participating else []
        return tuple(dict.fromkeys([room.hub_server, *ours, *by_size]))[:MAX_SERVERS]

    def _check_maker(self, tx: Any, creator: str) -> None:
        if self._store.aliases_by(tx, creator) >= MAX_ALIASES_BY_USER:
            raise Forbidden(f"a user can have made at most {MAX_ALIASES_BY_USER} room aliases")

    def _check_own(self, alias: str) -> None:
        try:
            ids.room_alias(alias)
        except InvalidIdentifier as problem:
            raise InvalidParam("room alias", str(problem)) from problem
        if not self.is_local(alias):
            raise InvalidParam("room alias", f"{alias} is not one of this server, {self._server_name}")
        if any(character.isspace() or unicodedata.category(character) == "Cc" for character in alias):
            raise InvalidParam("room alias", "white space and control characters cannot be typed by others")


def _unknown(alias: str) -> NotFound:
    return NotFound(f"the room alias {alias} is not known")
