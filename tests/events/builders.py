"""What the tests of the pure core build their events and rooms with.

Owns: three servers with fixed keys, four users, and small constructors for state and drafts. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmatrix.crypto.keys import SigningKey
from lmatrix.events.candidate import Draft
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, V02, RoomVersion, room_version
from lmatrix.events.signatures import KnownKey
from lmatrix.events.state import StateEvent, StateMap

I1 = room_version(DEFAULT_ROOM_VERSION)
V2 = room_version(V02)

HUB = "hub.example"
PARTICIPANT = "participant.example"
THIRD = "third.example"
SERVERS = (HUB, PARTICIPANT, THIRD)

ALICE = "@alice:hub.example"
BOB = "@bob:participant.example"
CAROL = "@carol:participant.example"
DAVE = "@dave:third.example"

ROOM = "!room:hub.example"
HEAD = "$head"
CREATE_ID = "$create"
NOW = 1_681_340_188_825

KEYS: Mapping[str, SigningKey] = {
    server: SigningKey.generate("one", bytes([number]) * 32) for number, server in enumerate(SERVERS, 1)
}


def known_keys(*servers: str, expired_ts: int | None = None) -> dict[str, dict[str, KnownKey]]:
    """The verify keys of some servers (of all, when none is named), as a keyring answers."""
    return {
        server: {KEYS[server].key_id: KnownKey(KEYS[server].key_id, KEYS[server].public, expired_ts)}
        for server in servers or SERVERS
    }


def state_event(
    event_type: str,
    content: Mapping[str, Any],
    *,
    sender: str = ALICE,
    state_key: str = "",
    event_id: str | None = None,
) -> StateEvent:
    """A state event whose ID tells what it is."""
    return StateEvent(event_id or f"${event_type}|{state_key}", event_type, state_key, sender, content)


def create_event(version: RoomVersion = I1) -> StateEvent:
    """Alice's room."""
    return state_event("m.room.create", {"room_version": version.identifier}, event_id=CREATE_ID)


def member(user_id: str, membership: object) -> StateEvent:
    """A membership, sent by its user."""
    return state_event("m.room.member", {"membership": membership}, sender=user_id, state_key=user_id)


def power_levels(**content: Any) -> StateEvent:
    """A power levels event."""
    return state_event("m.room.power_levels", content)


def room(*extra: StateEvent, version: RoomVersion = I1, members: Mapping[str, object] | None = None) -> StateMap:
    """Alice's room with her in it, and Bob too unless ``members`` says otherwise."""
    memberships = {ALICE: "join", BOB: "join"} if members is None else {ALICE: "join", **members}
    return StateMap([create_event(version), *(member(user, what) for user, what in memberships.items()), *extra])


def draft(
    event_type: str = "m.room.message",
    content: Mapping[str, Any] | None = None,
    *,
    sender: str = BOB,
    state_key: str | None = None,
    hub_server: str | None = HUB,
    version: RoomVersion = I1,
    room_id: str = ROOM,
    origin_server_ts: int = NOW,
) -> Draft:
    """An event to be judged."""
    return Draft(version, room_id, event_type, sender, content or {}, origin_server_ts, state_key, hub_server)


def membership(target: str, value: object, *, sender: str | None = None, version: RoomVersion = I1) -> Draft:
    """A change of membership, by its target unless ``sender`` says otherwise."""
    return draft("m.room.member", {"membership": value}, sender=sender or target, state_key=target, version=version)


def lpdu_arguments(**changes: Any) -> dict[str, Any]:
    """Arguments for ``build_lpdu``: a message by Bob."""
    arguments: dict[str, Any] = {
        "room_id": ROOM,
        "type": "m.room.message",
        "sender": BOB,
        "content": {"msgtype": "m.text", "body": "Hello — world"},
        "origin_server_ts": NOW,
        "hub_server": HUB,
        "server_name": PARTICIPANT,
        "keys": [KEYS[PARTICIPANT]],
    }
    return arguments | changes


def place(prev_events: Sequence[str] = (HEAD,)) -> dict[str, Any]:
    """Arguments for ``complete_lpdu``: what the hub adds."""
    return {
        "auth_events": [CREATE_ID, "$bob"],
        "prev_events": list(prev_events),
        "server_name": HUB,
        "keys": [KEYS[HUB]],
    }


def hub_arguments(**changes: Any) -> dict[str, Any]:
    """Arguments for ``build_hub_event``: a topic set by Alice."""
    arguments: dict[str, Any] = {
        "room_id": ROOM,
        "type": "m.room.topic",
        "sender": ALICE,
        "content": {"topic": "Ordering"},
        "origin_server_ts": NOW,
        "hub_server": HUB,
        "auth_events": [CREATE_ID, "$alice"],
        "prev_events": [HEAD],
        "keys": [KEYS[HUB]],
        "state_key": "",
    }
    return arguments | changes
