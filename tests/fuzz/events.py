"""Events for the fuzzer, properly signed by the north whatever is in them.

Owns: making LPDUs for our rooms and PDUs of the north's, and :func:`signed_again`, which gives every event inside a
body the hashes and the signature that its fields ask for, so that what is wrong with it is looked at behind the door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from lmatrix.canonical_json import encode
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import LMatrixError
from lmatrix.events.auth_events import select_auth_events
from lmatrix.events.building import build_hub_event, build_lpdu
from lmatrix.events.candidate import Draft
from lmatrix.events.hashing import content_hash, lpdu_hash
from lmatrix.events.redaction import redact_fields
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.interfaces import JsonObject
from tests.fuzz.world import ALICE, BOB, CARL, DORA, NORTH, US, ZOE, World

SENDERS = (BOB, CARL, DORA)
OURS = ("hub", "hub_v02", "ours_private", "ours_knock")
NORTHS = ("north", "north_v02", "north_private")

_MEMBERSHIPS = ("join", "leave", "invite", "ban", "knock")
_STATE = ("m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.name", "m.room.hub", "m.x")


@st.composite
def contents(draw: st.DrawFn, event_ids: tuple[str, ...]) -> tuple[str, str | None, JsonObject]:
    """Type, state key and content of an event that could be meant."""
    kind = draw(st.sampled_from(("message", "member", "state", "redaction", "commit", "create")))
    if kind == "message":
        return "m.room.message", None, {"msgtype": "m.text", "body": "hi"}
    if kind == "member":
        target = draw(st.sampled_from((*SENDERS, ALICE, ZOE, "@new:nobody.example")))
        return "m.room.member", target, {"membership": draw(st.sampled_from(_MEMBERSHIPS))}
    if kind == "redaction":
        return "m.room.redaction", None, {"redacts": draw(st.sampled_from((*event_ids, "$x")))}
    if kind == "commit":
        return "m.mls.commit", None, {"message": "AAEAAg", "public_group_state": "AA"}
    if kind == "create":
        return "m.room.create", "", {"room_version": "I.1"}
    state: JsonObject = {
        "users": {BOB: 100, ALICE: 50},
        "events": {"m.room.name": 50},
        "ban": 50,
        "join_rule": draw(st.sampled_from(("public", "invite", "knock"))),
        "history_visibility": draw(st.sampled_from(("shared", "joined", "world_readable", "invited"))),
        "previous_hub": US,
        "head": event_ids[-1],
        "valid_until_ts": 1_700_003_660_000,
    }
    return draw(st.sampled_from(_STATE)), "", state


@st.composite
def lpdus(draw: st.DrawFn, world: World) -> JsonObject:
    """An LPDU of one of the north's users, for a room of ours or of theirs."""
    assert world.stage is not None
    kind = draw(st.sampled_from((*OURS, *OURS, *NORTHS)))
    event_type, state_key, content = draw(contents(world.stage.events[kind]))
    lpdu = build_lpdu(
        version_of(kind),
        room_id=world.stage.rooms[kind],
        type=event_type,
        sender=draw(st.sampled_from(SENDERS)),
        content=content,
        origin_server_ts=int(world.clock.seconds() * 1000),
        hub_server=US if kind in OURS else NORTH,
        server_name=NORTH,
        keys=[world.north.key],
        state_key=state_key,
    )
    return dict(lpdu.fields)


@st.composite
def pdus(draw: st.DrawFn, world: World) -> JsonObject:
    """An event in one of the north's rooms that follows the head there, or does not."""
    assert world.stage is not None
    kind = draw(st.sampled_from(NORTHS))
    version, known = version_of(kind), world.stage.events[kind]
    event_type, state_key, content = draw(contents(known))
    loaded = world.done(world.north.server.rooms.rooms.loaded(world.stage.rooms[kind]))
    assert loaded is not None
    event = Draft(
        room_version=version,
        room_id=world.stage.rooms[kind],
        type=event_type,
        sender=draw(st.sampled_from((BOB, BOB, CARL))),
        content=content,
        origin_server_ts=int(world.clock.seconds() * 1000),
        state_key=state_key,
        hub_server=NORTH,
    )
    prev = draw(st.sampled_from((known[-1], known[-1], known[-1], known[-2], "$" + "x" * 43)))
    auth = select_auth_events(event, loaded.room.state)
    pdu = build_hub_event(
        version,
        room_id=event.room_id,
        type=event.type,
        sender=event.sender,
        content=dict(content),
        origin_server_ts=event.origin_server_ts,
        state_key=state_key,
        hub_server=NORTH,
        auth_events=auth,
        prev_events=[prev],
        keys=[world.north.key],
    )
    return dict(pdu.fields)


def version_of(kind: str) -> Any:
    """The version of a room."""
    return room_version("org.matrix.i-d.ralston-mimi-linearized-matrix.02" if kind.endswith("v02") else "I.1")


def signed_again(value: Any, key: SigningKey, choose: Callable[[], bool] = lambda: True) -> Any:
    """A copy in which every event is hashed and signed by the north anew, as far as that is possible."""
    if isinstance(value, list):
        return [signed_again(one, key, choose) for one in value]
    if not isinstance(value, dict):
        return value
    copied = {name: signed_again(inner, key, choose) for name, inner in value.items() if name != "content"}
    if "content" in value:
        copied["content"] = value["content"]
    if "hashes" not in copied or "content" not in copied or not choose():
        return copied
    try:
        return _signed(copied, key)
    except (LMatrixError, KeyError, TypeError, AttributeError, ValueError):
        return copied


def _signed(fields: JsonObject, key: SigningKey) -> JsonObject:
    others = fields.get("signatures")
    event = {name: value for name, value in fields.items() if name not in ("signatures", "hashes", "unsigned")}
    hashes: JsonObject = {}
    if "hub_server" in event:
        hashes["lpdu"] = {"sha256": lpdu_hash(event)}
    event["hashes"] = hashes
    if "prev_events" in event:
        hashes["sha256"] = content_hash(event)
    signature = key.sign(encode(redact_fields(event, room_version("I.1").redaction)))
    signatures = {**(others if isinstance(others, dict) else {}), NORTH: {key.key_id: signature}}
    return {**event, "signatures": signatures}
