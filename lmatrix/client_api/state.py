"""Reading a room's state and members (Client-Server API v1.11, "Getting events for a room").

Owns: ``GET …/state``, ``GET …/state/{type}``, ``GET …/members`` and ``GET …/joined_members``. Invariant: a member sees
the present state; somebody who left sees it as it was then; anybody sees it where the room is world-readable; nobody
else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix import canonical_json
from lmatrix.client_api.access import RoomAccess
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.client_events import LogEvent
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import room_id_in
from lmatrix.client_api.interfaces import AccountStore, TimelineStore
from lmatrix.client_api.rendering import Renderer
from lmatrix.client_api.room_view import membership_in
from lmatrix.client_api.tokens import parse_place
from lmatrix.errors import Forbidden, NotFound
from lmatrix.http.messages import JsonAnswer, JsonObject, JsonRequest
from lmatrix.rooms.interfaces import Database, RoomStore, Standing, StoredEvent


@attrs.frozen(slots=True)
class State:
    """The endpoints that read state.

    Attributes:
        database, store, timeline, accounts: what to read.
        access: who may.
        clock: for the age of events.
    """

    database: Database
    store: RoomStore
    timeline: TimelineStore
    accounts: AccountStore
    access: RoomAccess
    clock: IReactorTime

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers. The path that ends with a slash is that of an empty state key, as many clients write it."""
        return (
            Endpoint("GET", "/rooms/{roomId}/state", self._state, "get_state"),
            Endpoint("GET", "/rooms/{roomId}/state/{eventType}", self._one, "get_state_event"),
            Endpoint("GET", "/rooms/{roomId}/state/{eventType}/", self._one, "get_state_event"),
            Endpoint("GET", "/rooms/{roomId}/state/{eventType}/{stateKey}", self._one, "get_state_event"),
            Endpoint("GET", "/rooms/{roomId}/members", self._members, "members"),
            Endpoint("GET", "/rooms/{roomId}/joined_members", self._joined_members, "joined_members"),
        )

    async def _state(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, renderer = room_id_in(request.params), self._renderer(requester)

        def work(tx: Any) -> list[JsonObject]:
            position = self.access.last_readable(tx, room_id, requester.user_id)
            return renderer.state(tx, _shown(self.timeline.state_at(tx, room_id, position)))

        # The one answer of this API that is a list.
        return JsonAnswer(200, canonical_json.encode(await self.database.read(work)))

    async def _one(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, renderer = room_id_in(request.params), self._renderer(requester)
        event_type, state_key = request.params["eventType"], request.params.get("stateKey", "")
        shape = request.query_one("format")
        if shape not in (None, "content", "event"):
            raise invalid_param("format", "must be content or event")

        def work(tx: Any) -> JsonObject:
            position = self.access.last_readable(tx, room_id, requester.user_id)
            stored = self.store.state_event_before(tx, room_id, position + 1, event_type, state_key)
            if stored is None or stored.standing is not Standing.ACCEPTED:
                raise NotFound(f"The room has no {event_type} with the state key {state_key!r}")
            event = LogEvent.of(stored)
            return renderer.state(tx, [event])[0] if shape == "event" else event.content

        return await self.database.read(work)

    async def _members(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id, renderer = room_id_in(request.params), self._renderer(requester)
        at = request.query_one("at")
        place = None if at is None else parse_place(at, "at")
        only, but = request.query_one("membership"), request.query_one("not_membership")

        def work(tx: Any) -> JsonObject:
            position = self.access.last_readable(tx, room_id, requester.user_id)
            if place is not None:
                position = min(position, self.access.position_of(tx, room_id, place))
            members = _shown(self.timeline.members(tx, room_id, position))
            chosen = [
                member
                for member in members
                if (only is None or membership_in(member) == only) and (but is None or membership_in(member) != but)
            ]
            return {"chunk": renderer.state(tx, chosen)}

        return await self.database.read(work)

    async def _joined_members(self, request: JsonRequest, requester: Requester) -> Answer:
        room_id = room_id_in(request.params)

        def work(tx: Any) -> JsonObject:
            present = self.timeline.user_in_room(tx, room_id, requester.user_id)
            if present is None or present.membership != "join":
                raise Forbidden(f"{requester.user_id} is not in {room_id}")
            members = _shown(self.timeline.members(tx, room_id))
            return {
                "joined": {
                    str(member.state_key): _profile(member) for member in members if membership_in(member) == "join"
                }
            }

        return await self.database.read(work)

    def _renderer(self, requester: Requester) -> Renderer:
        now_ms = int(self.clock.seconds() * 1000)
        return Renderer(self.store, self.accounts, requester, now_ms, with_room_id=True)


def _shown(found: Sequence[StoredEvent]) -> list[LogEvent]:
    return [LogEvent.of(stored) for stored in found if stored.standing is Standing.ACCEPTED]


def _profile(member: LogEvent) -> JsonObject:
    """What a member event says of its user: ``display_name`` and ``avatar_url``, where it has them."""
    content = member.content
    named = (("display_name", content.get("displayname")), ("avatar_url", content.get("avatar_url")))
    return {key: value for key, value in named if isinstance(value, str)}
