"""The rooms that a server shows to everybody (Client-Server API v1.11, "Listing rooms"; Server-Server API v1.11,
"Public Room Directory").

Owns: :class:`PublicRooms`. Invariants: a room is listed because somebody with power in it said so, and only while a
user of this server is in it; the list is read anew once a minute at most, and when it was changed here, however often
it is asked for; what it tells of a room is bounded; a room that is blocked here is shown to nobody.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from lmatrix.directory.interfaces import LoadsRooms, PublishedRoomStore, PublishedState
from lmatrix.directory.naming_power import may_name
from lmatrix.errors import BadRequest, Forbidden, InvalidParam, LMatrixError, NotFound
from lmatrix.rooms.interfaces import Database, JsonObject
from lmatrix.rooms.policy import Policies

LISTED_ANEW_S = 60.0
MAX_LISTED = 5000
"""Rooms in the list."""

DEFAULT_PAGE, MAX_PAGE = 100, 500
"""Rooms in one answer."""

MAX_NAME, MAX_TOPIC = 255, 2000
"""Characters that are told of a room's name and topic."""

_ASKED_AT_ONCE = 10
"""Rooms about which the policies are asked at one time."""

MAX_TERM = 255
"""Characters that are searched for."""

LISTED_STATE = {
    "m.room.canonical_alias": "alias",
    "m.room.name": "name",
    "m.room.topic": "topic",
    "m.room.avatar": "url",
    "m.room.join_rules": "join_rule",
    "m.room.history_visibility": "history_visibility",
    "m.room.guest_access": "guest_access",
    "m.room.create": "type",
}
"""The state events that the list is made from, and the field of each that is told."""


@attrs.frozen(slots=True)
class RoomQuery:
    """What somebody wants of the list.

    Attributes:
        limit: how many rooms.
        since: how many to pass over.
        term: what name, topic or alias must contain, in any case; ``""`` for anything.
        types: room types, ``None`` among them for rooms without one; ``None`` instead for all.
        nowhere: whether rooms of a network are wanted that there is not.
    """

    limit: int = DEFAULT_PAGE
    since: int = 0
    term: str = ""
    types: frozenset[str | None] | None = None
    nowhere: bool = False

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> RoomQuery:
        """From the body of a ``POST``.

        Raises:
            BadRequest: something in it has the wrong type.
            InvalidParam: or is of no use.
        """
        limit, since = body.get("limit"), body.get("since")
        if limit is not None and type(limit) is not int:
            raise BadRequest("limit must be an integer")
        if since is not None and not isinstance(since, str):
            raise BadRequest("since must be a string")
        wanted = body.get("filter") or {}
        network = body.get("third_party_instance_id")
        if not isinstance(wanted, dict) or not isinstance(network, str | None):
            raise BadRequest("filter must be an object, third_party_instance_id a string")
        term, types = wanted.get("generic_search_term"), wanted.get("room_types")
        if not isinstance(term, str | None):
            raise BadRequest("filter.generic_search_term must be a string")
        if types is not None and not (isinstance(types, list) and all(isinstance(one, str | None) for one in types)):
            raise BadRequest("filter.room_types must be a list of strings and null")
        if term is not None and len(term) > MAX_TERM:
            raise InvalidParam("filter.generic_search_term", f"longer than {MAX_TERM} characters")
        return cls.of(limit, since, term or "", None if types is None else frozenset(types), nowhere=bool(network))

    @classmethod
    def of(
        cls,
        limit: int | None,
        since: str | None,
        term: str = "",
        types: frozenset[str | None] | None = None,
        *,
        nowhere: bool = False,
    ) -> RoomQuery:
        """From its parts, as requests have them. Raises :class:`InvalidParam`."""
        if limit is not None and limit < 0:
            raise InvalidParam("limit", "must not be negative")
        if since is not None and not (since.isascii() and since.isdigit() and len(since) <= 9):
            raise InvalidParam("since", "is not one of this server's tokens")
        limit = DEFAULT_PAGE if limit is None else min(limit, MAX_PAGE)
        return cls(limit, int(since or 0), term.casefold(), types, nowhere)


@attrs.frozen(slots=True)
class ListedRoom:
    """A room as the list shows it.

    Attributes:
        entry: what is told of it.
        text: in what is searched.
        type: the room type.
    """

    entry: JsonObject
    text: str
    type: str | None

    @classmethod
    def of(cls, state: PublishedState) -> ListedRoom:
        """From the state of the room, in which anything may stand."""
        told = {kind: state.content.get(kind, {}).get(field) for kind, field in LISTED_STATE.items()}
        name, topic = _short(told["m.room.name"], MAX_NAME), _short(told["m.room.topic"], MAX_TOPIC)
        alias, avatar = _short(told["m.room.canonical_alias"], MAX_NAME), _short(told["m.room.avatar"], MAX_TOPIC)
        join_rule, room_type = told["m.room.join_rules"], _short(told["m.room.create"], MAX_NAME)
        optional = {
            "name": name,
            "topic": topic,
            "canonical_alias": alias,
            "avatar_url": avatar,
            "join_rule": _short(join_rule, MAX_NAME),
            "room_type": room_type,
        }
        entry = {
            "room_id": state.room_id,
            "num_joined_members": state.joined,
            "world_readable": told["m.room.history_visibility"] == "world_readable",
            "guest_can_join": told["m.room.guest_access"] == "can_join",
            **{key: value for key, value in optional.items() if value is not None},
        }
        text = "\n".join(one for one in (name, topic, alias) if one is not None).casefold()
        return cls(entry, text, room_type)


class PublicRooms:
    """Keeps the list.

    Args:
        server_name: ours.
        database, store: which rooms are in it.
        rooms: who has power in them.
        policies: may block a room.
        clock: when to read it anew.
    """

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        store: PublishedRoomStore,
        rooms: LoadsRooms,
        policies: Policies,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._store = store
        self._rooms = rooms
        self._policies = policies
        self._clock = clock
        self._list: Sequence[ListedRoom] | None = None
        self._read_at = 0.0
        self._reading: list[Deferred[Sequence[ListedRoom]]] = []
        self._changes = 0

    async def is_public(self, room_id: str) -> bool:
        """Whether a room is in the list. Raises :class:`NotFound` for a room that we do not hold."""
        if await self._rooms.load(room_id) is None:
            raise NotFound(f"the room {room_id} is not known here")
        return await self._database.read(lambda tx: self._store.is_published(tx, room_id))

    async def set_public(self, room_id: str, user_id: str, *, public: bool) -> None:
        """Put a room into the list, or take it out.

        Raises:
            NotFound: we do not hold such a room.
            Forbidden: the user may not say what the room is called, and so not this; or it is blocked here.
        """
        if public:
            await self._policies.check_room(room_id)
        room = await self._rooms.load(room_id)
        if room is None:
            raise NotFound(f"the room {room_id} is not known here")
        if not may_name(room, user_id):
            raise Forbidden(f"{user_id} may not say whether {room_id} is listed")
        await self._database.write(lambda tx: self._store.set_published(tx, room_id, public))
        self.changed()

    def publish(self, tx: Any, room_id: str) -> None:
        """Put a new room into the list, in the commit that makes it; :meth:`changed` is to be called afterwards."""
        self._store.set_published(tx, room_id, True)

    def changed(self) -> None:
        """The list was changed, and what was read of it is old."""
        self._changes += 1
        self._list = None

    async def page(self, query: RoomQuery) -> JsonObject:
        """A page of the list, the rooms with most members first, as all the endpoints answer it."""
        rooms = () if query.nowhere else await self._rooms_listed()
        found = [
            room for room in rooms if query.term in room.text and (query.types is None or room.type in query.types)
        ]
        end = query.since + query.limit
        answer: JsonObject = {
            "chunk": await self._allowed([room.entry for room in found[query.since : end]]),
            "total_room_count_estimate": len(found),
        }
        if end < len(found):
            answer["next_batch"] = str(end)
        if query.since > 0:
            answer["prev_batch"] = str(max(0, query.since - query.limit))
        return answer

    async def _allowed(self, entries: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Without those that are blocked here, or of which that cannot be told."""
        if not self._policies.blocks_rooms:
            return entries
        slots = DeferredSemaphore(_ASKED_AT_ONCE)
        asking = [slots.run(self._is_allowed, entry["room_id"]) for entry in entries]
        answers = await gatherResults(asking, consumeErrors=True)
        return [entry for entry, allowed in zip(entries, answers, strict=True) if allowed]

    def _is_allowed(self, room_id: str) -> Deferred[bool]:
        async def ask() -> bool:
            try:
                await self._policies.check_room(room_id)
            except LMatrixError:
                return False
            return True

        return Deferred.fromCoroutine(ask())

    async def _rooms_listed(self) -> Sequence[ListedRoom]:
        if self._list is not None and self._clock.seconds() < self._read_at + LISTED_ANEW_S:
            return self._list
        turn: Deferred[Sequence[ListedRoom]] = Deferred()
        self._reading.append(turn)
        if len(self._reading) == 1:
            reading = self._database.read(self._read)
            reading.addBoth(self._was_read, self._changes)
        return await turn

    def _read(self, tx: Any) -> list[ListedRoom]:
        states = self._store.published(tx, self._server_name, LISTED_STATE.keys(), MAX_LISTED)
        return [ListedRoom.of(state) for state in sorted(states, key=lambda one: (-one.joined, one.room_id))]

    def _was_read(self, result: list[ListedRoom] | Failure, changes: int) -> None:
        if not isinstance(result, Failure) and changes == self._changes:
            self._list, self._read_at = result, self._clock.seconds()
        waiting, self._reading = self._reading, []
        for turn in waiting:
            if not turn.called:
                turn.callback(result)


def _short(value: object, longest: int) -> str | None:
    return value[:longest] if isinstance(value, str) and value else None
