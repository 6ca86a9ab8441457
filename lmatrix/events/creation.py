"""The events with which a new room begins.

Owns: :class:`RoomPlan`, what a creator asked for, and :func:`initial_events`, the ordered events that it comes to. They
are drafts in the order in which the hub builds and authorises them; invites are not among them, since an invite has its
own handshake.

Source: Matrix specification v1.11, client-server API "POST /createRoom"; I-D "m.room.create".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import attrs

from lmatrix.errors import BadRequest
from lmatrix.events.power_levels import CREATOR_LEVEL
from lmatrix.events.room_versions import RoomVersion

JsonObject = dict[str, Any]


class Preset(Enum):
    """Matrix's three presets."""

    PRIVATE_CHAT = "private_chat"
    TRUSTED_PRIVATE_CHAT = "trusted_private_chat"
    PUBLIC_CHAT = "public_chat"


@attrs.frozen(slots=True)
class InitialEvent:
    """A state event that is still to be built."""

    type: str
    state_key: str
    content: JsonObject


@attrs.frozen(slots=True)
class RoomPlan:
    """What a room's creator asked for.

    Attributes:
        preset: ``None`` for the one that goes with ``public``.
        public: whether the room's ``visibility`` is ``public``.
        invite: user IDs to invite once the room is there.
        is_direct: whether those invites are marked as direct chats.
        alias: the room's main alias.
        initial_state: state that goes before what the preset would set, but not before ``name`` and ``topic``.
        creation_content: further content of ``m.room.create``.
        power_level_content_override: replaces top-level fields of the power levels.
    """

    preset: Preset | None = None
    public: bool = False
    name: str | None = None
    topic: str | None = None
    invite: tuple[str, ...] = ()
    is_direct: bool = False
    alias: str | None = None
    initial_state: tuple[InitialEvent, ...] = ()
    creation_content: Mapping[str, Any] = attrs.field(factory=dict)
    power_level_content_override: Mapping[str, Any] = attrs.field(factory=dict)


_JOIN_RULES: Final = {
    Preset.PRIVATE_CHAT: "invite",
    Preset.TRUSTED_PRIVATE_CHAT: "invite",
    Preset.PUBLIC_CHAT: "public",
}
_GUEST_ACCESS: Final = {
    Preset.PRIVATE_CHAT: "can_join",
    Preset.TRUSTED_PRIVATE_CHAT: "can_join",
    Preset.PUBLIC_CHAT: "forbidden",
}


def initial_events(
    plan: RoomPlan, version: RoomVersion, creator: str, called: Mapping[str, Any] | None = None
) -> list[InitialEvent]:
    """The events of a new room, in order: create, the creator's join, power levels, and what was asked for.

    Args:
        creator: user ID of the creator, who sends all of them.
        called: the creator's display name and avatar, as member events have them.

    Raises:
        BadRequest: ``initial_state`` has an event that only the server makes.
    """
    for event in plan.initial_state:
        if event.type in ("m.room.create", "m.room.member"):
            raise BadRequest(f"initial_state cannot have {event.type}")
    preset = plan.preset or (Preset.PUBLIC_CHAT if plan.public else Preset.PRIVATE_CHAT)
    asked = {(event.type, event.state_key): event for event in plan.initial_state}
    events = [
        # The version is not the creator's to override.
        _state("m.room.create", {**plan.creation_content, "room_version": version.identifier}),
        InitialEvent("m.room.member", creator, {"membership": "join", **(called or {})}),
        # Power levels that were asked for take the place of the server's: they decide on all that follows.
        asked.pop(("m.room.power_levels", ""), None) or _power_levels(plan, preset, creator),
    ]
    if plan.alias is not None:
        alias = _state("m.room.canonical_alias", {"alias": plan.alias})
        asked.pop((alias.type, alias.state_key), None)
        events.append(alias)
    for event in _of_preset(preset):
        if (event.type, event.state_key) not in asked:
            events.append(event)
    named = [
        _state(event_type, {field: value})
        for event_type, field, value in (("m.room.name", "name", plan.name), ("m.room.topic", "topic", plan.topic))
        if value is not None
    ]
    for event in named:
        asked.pop((event.type, event.state_key), None)
    return [*events, *asked.values(), *named]


def default_power_levels(users: Sequence[str]) -> JsonObject:
    """The content of a new room's power levels event, with ``users`` at the creator's level."""
    return {
        "users": dict.fromkeys(users, CREATOR_LEVEL),
        "users_default": 0,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    }


def _power_levels(plan: RoomPlan, preset: Preset, creator: str) -> InitialEvent:
    # "All invitees are given the same power level as the room creator."
    trusted = plan.invite if preset is Preset.TRUSTED_PRIVATE_CHAT else ()
    content = default_power_levels((creator, *trusted))
    return _state("m.room.power_levels", {**content, **plan.power_level_content_override})


def _of_preset(preset: Preset) -> list[InitialEvent]:
    return [
        _state("m.room.join_rules", {"join_rule": _JOIN_RULES[preset]}),
        _state("m.room.history_visibility", {"history_visibility": "shared"}),
        _state("m.room.guest_access", {"guest_access": _GUEST_ACCESS[preset]}),
    ]


def _state(event_type: str, content: JsonObject) -> InitialEvent:
    return InitialEvent(event_type, "", content)
