"""Events in the form in which clients see them (Client-Server API v1.11, "Room event format").

Owns: the rendering of a stored event as a ``ClientEvent`` and as a stripped state event. Pure. Invariants: hashes,
signatures, ``hub_server`` and the event graph never reach a client; only what the event format names does.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from lmatrix.rooms.interfaces import JsonObject, StoredEvent


@attrs.frozen(slots=True)
class LogEvent:
    """A stored event, parsed: what visibility, filters and rendering look at.

    Attributes:
        stored: as the log holds it.
        fields: its fields; not to be changed.
    """

    stored: StoredEvent
    fields: JsonObject = attrs.field(repr=False)

    @classmethod
    def of(cls, stored: StoredEvent) -> LogEvent:
        """Parse what our own store holds; it was checked when it came in."""
        return cls(stored, json.loads(stored.canonical))

    @property
    def position(self) -> int:
        """Its place in the room's log."""
        return self.stored.position

    @property
    def event_id(self) -> str:
        """Its event ID."""
        return self.stored.event_id

    @property
    def type(self) -> str:
        """Its type."""
        return str(self.fields["type"])

    @property
    def state_key(self) -> str | None:
        """Its state key, ``None`` for a message event."""
        return self.fields.get("state_key")

    @property
    def sender(self) -> str:
        """Its sender's user ID."""
        return str(self.fields["sender"])

    @property
    def content(self) -> JsonObject:
        """Its content; not to be changed."""
        content: JsonObject = self.fields["content"]
        return content


@attrs.frozen(slots=True)
class Surroundings:
    """What is told about an event beside itself, in ``unsigned``.

    Attributes:
        now_ms: milliseconds since the epoch, for ``age``.
        transaction_id: the client transaction that sent it, for the device that did.
        redacted_because: the redaction that took effect on it.
        prev_content: content of the state event that it replaced.
        membership: what the asking user was in the room at that event.
    """

    now_ms: int
    transaction_id: str | None = None
    redacted_because: LogEvent | None = None
    prev_content: JsonObject | None = None
    membership: str | None = None


def client_event(event: LogEvent, around: Surroundings, *, with_room_id: bool) -> JsonObject:
    """A ``ClientEvent``, or (without ``room_id``) a ``ClientEventWithoutRoomID`` as ``/sync`` has them."""
    fields = event.fields
    shown: JsonObject = {
        "type": fields["type"],
        "event_id": event.event_id,
        "sender": fields["sender"],
        "origin_server_ts": fields["origin_server_ts"],
        "content": fields["content"],
    }
    if with_room_id:
        shown["room_id"] = event.stored.room_id
    state_key = event.state_key
    if state_key is not None:
        shown["state_key"] = state_key
    # Room version 11: clients that know older room versions look for ``redacts`` at the top level.
    if event.type == "m.room.redaction" and isinstance(event.content.get("redacts"), str):
        shown["redacts"] = event.content["redacts"]
    shown["unsigned"] = _unsigned(event, around, with_room_id)
    return shown


def stripped_event(event: LogEvent) -> JsonObject:
    """The four fields that somebody outside the room may see."""
    return {name: event.fields[name] for name in ("type", "state_key", "sender", "content")}


def _unsigned(event: LogEvent, around: Surroundings, with_room_id: bool) -> dict[str, Any]:
    unsigned: dict[str, Any] = {"age": max(0, around.now_ms - int(event.fields["origin_server_ts"]))}
    if around.transaction_id is not None:
        unsigned["transaction_id"] = around.transaction_id
    if around.membership is not None:
        unsigned["membership"] = around.membership
    if around.redacted_because is not None:
        bare = Surroundings(around.now_ms)
        unsigned["redacted_because"] = client_event(around.redacted_because, bare, with_room_id=with_room_id)
    elif around.prev_content is not None:
        unsigned["prev_content"] = around.prev_content
    return unsigned
