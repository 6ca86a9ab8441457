"""Making rooms (Client-Server API v1.11, ``POST /createRoom``).

Owns: reading what the client asked for into a :class:`~lmatrix.events.creation.RoomPlan`. Which events that comes to is
:mod:`lmatrix.events.creation`'s matter. What this server cannot do (third-party invites) is refused, not ignored. A
room, its alias and its place in the list of public rooms are made together, or none of them.
"""

from __future__ import annotations

from typing import Any

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import ClientApiError, bad_json, invalid_param
from lmatrix.client_api.fields import optional_flag, optional_list, optional_object, optional_string, user_id
from lmatrix.client_api.interfaces import LocalUsers
from lmatrix.directory.aliases import Aliases
from lmatrix.directory.canonical_alias import aliases_named
from lmatrix.directory.naming_power import CANONICAL_ALIAS
from lmatrix.directory.public_rooms import PublicRooms
from lmatrix.errors import AliasTaken, BadAlias, EventRejected, SchemaViolation
from lmatrix.events.creation import InitialEvent, Preset, RoomPlan
from lmatrix.events.room_versions import room_version
from lmatrix.http.messages import JsonObject, JsonRequest

MAX_BODY = 512 * 1024
MAX_INVITES = 100
MAX_INITIAL_STATE = 200
_OURS_TO_SET = ("room_version", "creator")


class RoomCreation:
    """``/createRoom``.

    Args:
        rooms: makes the room.
        aliases: makes its alias.
        public_rooms: lists it.
        default_room_version: for clients that name none.
    """

    def __init__(
        self, rooms: LocalUsers, aliases: Aliases, public_rooms: PublicRooms, default_room_version: str
    ) -> None:
        self._rooms = rooms
        self._aliases = aliases
        self._public_rooms = public_rooms
        self._default_room_version = default_room_version

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (Endpoint("POST", "/createRoom", self._create, "create_room", MAX_BODY),)

    async def _create(self, request: JsonRequest, requester: Requester) -> Answer:
        body = request.json_or_empty()
        version = optional_string(body, "room_version")
        identifier = room_version(self._default_room_version if version is None else version).identifier
        plan, localpart = plan_of(body), optional_string(body, "room_alias_name")
        creator = requester.user_id
        try:
            if localpart is not None:
                plan = attrs.evolve(plan, alias=await self._aliases.free(localpart, creator))

            def beside(tx: Any, room_id: str) -> None:
                if plan.alias is not None:
                    self._aliases.claim(tx, plan.alias, room_id, creator)
                if plan.public:
                    self._public_rooms.publish(tx, room_id)

            room_id = await self._rooms.create_room(creator, identifier, plan, beside)
        except AliasTaken as taken:
            raise ClientApiError(400, "M_ROOM_IN_USE", str(taken)) from taken
        except (EventRejected, SchemaViolation) as impossible:
            # Not the creator is refused, but the state that was asked for: there is no room with it.
            raise ClientApiError(400, "M_INVALID_ROOM_STATE", str(impossible)) from impossible
        if plan.public:
            self._public_rooms.changed()
        return {"room_id": room_id}


def plan_of(body: JsonObject) -> RoomPlan:
    """What a ``createRoom`` body asks for.

    Raises:
        ClientApiError: something in it has the wrong type, or cannot be done here.
    """
    if optional_list(body, "invite_3pid"):
        raise ClientApiError(403, "M_THREEPID_DENIED", "This server invites by user ID only")
    return RoomPlan(
        preset=_preset(optional_string(body, "preset")),
        public=_is_public(optional_string(body, "visibility")),
        name=optional_string(body, "name"),
        topic=optional_string(body, "topic"),
        invite=_invites(optional_list(body, "invite")),
        is_direct=optional_flag(body, "is_direct"),
        initial_state=_initial_state(optional_list(body, "initial_state")),
        creation_content={
            key: value
            for key, value in (optional_object(body, "creation_content") or {}).items()
            if key not in _OURS_TO_SET
        },
        power_level_content_override=optional_object(body, "power_level_content_override") or {},
    )


def _preset(value: str | None) -> Preset | None:
    if value is None:
        return None
    try:
        return Preset(value)
    except ValueError as problem:
        known = ", ".join(preset.value for preset in Preset)
        raise invalid_param("preset", f"must be one of {known}") from problem


def _is_public(value: str | None) -> bool:
    if value in (None, "private"):
        return False
    if value == "public":
        return True
    raise invalid_param("visibility", "must be public or private")


def _invites(values: list[Any]) -> tuple[str, ...]:
    if len(values) > MAX_INVITES:
        raise invalid_param("invite", f"at most {MAX_INVITES} users")
    return tuple(dict.fromkeys(user_id(value, "invite") for value in values))


def _initial_state(values: list[Any]) -> tuple[InitialEvent, ...]:
    if len(values) > MAX_INITIAL_STATE:
        raise invalid_param("initial_state", f"at most {MAX_INITIAL_STATE} events")
    return tuple(_initial_event(value) for value in values)


def _initial_event(value: Any) -> InitialEvent:
    if not isinstance(value, dict):
        raise bad_json("initial_state", "a list of objects")
    event_type, state_key, content = value.get("type"), value.get("state_key", ""), value.get("content")
    if not isinstance(event_type, str) or not isinstance(state_key, str) or not isinstance(content, dict):
        raise bad_json("initial_state", "a list of objects with a type, a content and possibly a state_key")
    if event_type == CANONICAL_ALIAS and not state_key:
        for alias in aliases_named(content):
            raise BadAlias(alias, "does not lead to a room that is yet to be made; ask for it as room_alias_name")
    return InitialEvent(event_type, state_key, content)
