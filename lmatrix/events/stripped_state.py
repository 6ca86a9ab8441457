"""Stripped state: the few facts about a room that go with an invite or a knock.

Owns: which state is shown to somebody who is not in the room yet, and the check of such a list that came from
elsewhere. What it says cannot be verified by its receiver.

Source: I-D "Stripped State".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from lmatrix import canonical_json, ids
from lmatrix.errors import SchemaViolation, UnsafeJson
from lmatrix.events.schema import MAX_EVENT_BYTES, identifier, required
from lmatrix.events.state import StateView

JsonObject = dict[str, Any]

STRIPPED_TYPES: Final = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
)
"""Event types, all with an empty state key, in the order in which they are given."""

MAX_STRIPPED_EVENTS: Final = 100


def stripped(state: StateView, also: Iterable[tuple[str, str]] = ()) -> list[JsonObject]:
    """The stripped state of a room.

    Args:
        also: further (type, state key) pairs to include, such as the membership of who invites.
    """
    pairs = [*((event_type, "") for event_type in STRIPPED_TYPES), *also]
    found = [state.get(event_type, state_key) for event_type, state_key in pairs]
    return [
        {"type": event.type, "state_key": event.state_key, "sender": event.sender, "content": dict(event.content)}
        for event in found
        if event is not None
    ]


def check_stripped(raw: object) -> list[JsonObject]:
    """Stripped state that came from elsewhere, reduced to the four fields that such an event has.

    Raises:
        SchemaViolation: it is not a list of stripped state events, has more than :data:`MAX_STRIPPED_EVENTS`, or one of
            them is larger than an event may be.
    """
    if not isinstance(raw, list):
        raise SchemaViolation("stripped state", "must be a list")
    if len(raw) > MAX_STRIPPED_EVENTS:
        raise SchemaViolation("stripped state", f"has more than {MAX_STRIPPED_EVENTS} events")
    return [_check_one(event) for event in raw]


def _check_one(event: object) -> JsonObject:
    if not isinstance(event, dict):
        raise SchemaViolation("stripped state", "its events must be objects")
    for key in ("type", "state_key"):
        if not isinstance(required(event, key), str):
            raise SchemaViolation(key, "must be a string")
    identifier(event, "sender", ids.user_id)
    if not isinstance(required(event, "content"), dict):
        raise SchemaViolation("content", "must be an object")
    kept = {key: event[key] for key in ("type", "state_key", "sender", "content")}
    try:
        size = len(canonical_json.encode(kept))
    except UnsafeJson as error:
        raise SchemaViolation("stripped state", str(error)) from error
    if size > MAX_EVENT_BYTES:
        raise SchemaViolation("stripped state", f"an event of {size} bytes; {MAX_EVENT_BYTES} are allowed")
    return kept
