"""The two forms of an event: what a participant signs (LPDU) and what the hub makes of it (PDU).

Owns: :class:`Lpdu` and :class:`Pdu`, frozen values that are known to have their room version's shape, and which of the
two a JSON object is.

Invariants: ``fields`` holds no ``unsigned``, ``age_ts`` or ``event_id``, and every other field as it came; a value that
exists is at most 65 536 bytes of canonical JSON. That its hashes and signatures are right is not said by its existence:
see :mod:`~lmatrix.events.verification`.

What an event shares with the JSON that it was parsed from (``content``, ``signatures``) must not be changed afterwards.

Source: I-D "Events", "Linearized PDU"; protocol notes, "Events".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

import attrs

from lmatrix import canonical_json, ids
from lmatrix.errors import EventTooLarge, SchemaViolation, UnsafeJson
from lmatrix.events import hashing, schema
from lmatrix.events.members import Members, encode_members, join
from lmatrix.events.room_versions import RoomVersion

JsonObject = dict[str, Any]
E = TypeVar("E", bound="_Event")


@attrs.frozen(slots=True, eq=False, repr=False)
class _Event:
    """What the two forms have in common.

    Attributes:
        fields: the event as a JSON object.
        sender_server: the server name in ``sender``.
        origin_server_ts: milliseconds since the epoch, as the sender's server says.
        lpdu_hash: ``hashes.lpdu.sha256`` as the event declares it; ``None`` when it has none.
        signatures: server name → key ID → unpadded base64.
    """

    room_version: RoomVersion
    fields: JsonObject
    room_id: str
    type: str
    state_key: str | None
    sender: str
    sender_server: str
    origin_server_ts: int
    content: JsonObject
    hub_server: str | None
    lpdu_hash: str | None
    signatures: Mapping[str, Mapping[str, str]]
    # What has been computed so far; each is filled in when it is first asked for, and never changes.
    _members: Members | None
    _canonical: bytes | None
    _signing_bytes: bytes | None
    _event_id: str | None

    @classmethod
    def of_checked(
        cls,
        fields: JsonObject,
        version: RoomVersion,
        *,
        members: Members | None = None,
        canonical: bytes | None = None,
        signing_bytes: bytes | None = None,
        event_id: str | None = None,
    ) -> Self:
        """An event from fields that are known to have the right shape, with what is already known of its encoding."""
        sender = fields["sender"]
        hub_server = fields.get("hub_server")
        return cls(
            version,
            fields,
            fields["room_id"],
            fields["type"],
            fields.get("state_key"),
            sender,
            ids.server_of(sender),
            fields["origin_server_ts"],
            fields["content"],
            hub_server,
            None if hub_server is None else fields["hashes"]["lpdu"]["sha256"],
            fields["signatures"],
            members,
            canonical,
            signing_bytes,
            event_id,
        )

    @classmethod
    def from_canonical(cls, canonical: bytes, version: RoomVersion, event_id: str | None = None) -> Self:
        """An event as our own storage keeps it: nothing is checked again.

        Args:
            canonical: its canonical JSON, as it was stored.
            event_id: its event ID, where the caller knows it; else it is computed when asked for.
        """
        return cls.of_checked(canonical_json.parse_trusted(canonical), version, canonical=canonical, event_id=event_id)

    @property
    def members(self) -> Members:
        """The canonical JSON in pieces, by field."""
        members = self._members
        if members is None:
            members = encode_members(self.fields)
            object.__setattr__(self, "_members", members)
        return members

    @property
    def canonical(self) -> bytes:
        """Canonical JSON, signatures included: what is stored and sent."""
        canonical = self._canonical
        if canonical is None:
            canonical = join(self.members.values())
            object.__setattr__(self, "_canonical", canonical)
        return canonical

    @property
    def signing_bytes(self) -> bytes:
        """What a signature over this form covers: redacted, canonical, without signatures."""
        signed = self._signing_bytes
        if signed is None:
            signed = hashing.signing_bytes(self.members, self.type, self.content, self.room_version.redaction)
            object.__setattr__(self, "_signing_bytes", signed)
        return signed

    @property
    def event_id(self) -> str:
        """The event ID. An LPDU's own is not that of the PDU which the hub makes from it."""
        event_id = self._event_id
        if event_id is None:
            event_id = hashing.event_id_of_signed_bytes(self.signing_bytes)
            object.__setattr__(self, "_event_id", event_id)
        return event_id

    @property
    def is_state(self) -> bool:
        """Whether it is a state event."""
        return self.state_key is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Event):
            return NotImplemented
        return (
            type(self) is type(other) and self.room_version is other.room_version and self.canonical == other.canonical
        )

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.event_id} {self.type} by {self.sender} in {self.room_id}>"


@attrs.frozen(slots=True, eq=False, repr=False)
class Lpdu(_Event):
    """An event as a participant signs it for one hub: without auth events, predecessors and top-level hashes."""

    @classmethod
    def parse(cls, raw: object, version: RoomVersion) -> Self:
        """An LPDU from outside.

        Args:
            raw: the JSON object, as :func:`lmatrix.canonical_json.parse` gives it.
            version: its room's version.

        Raises:
            SchemaViolation: it does not have the shape.
            EventTooLarge: more than 65 536 bytes.
        """
        fields = schema.strip(raw)
        schema.check_common(fields)
        schema.check_lpdu(fields)
        return encode_bounded(cls, fields, version)


@attrs.frozen(slots=True, eq=False, repr=False)
class Pdu(_Event):
    """A complete event, in its place in the room."""

    @classmethod
    def parse(cls, raw: object, version: RoomVersion) -> Self:
        """A PDU from outside.

        Args:
            raw: the JSON object, as :func:`lmatrix.canonical_json.parse` gives it.
            version: its room's version.

        Raises:
            SchemaViolation: it does not have the shape.
            EventTooLarge: more than 65 536 bytes.
        """
        fields = schema.strip(raw)
        schema.check_common(fields)
        schema.check_pdu(fields)
        return encode_bounded(cls, fields, version)

    @property
    def auth_events(self) -> tuple[str, ...]:
        """IDs of the state events that it cites as the proof that it is allowed."""
        return tuple(self.fields["auth_events"])

    @property
    def prev_events(self) -> tuple[str, ...]:
        """IDs of the events that it follows: exactly one, unless it is the first or a DAG-capable server's."""
        return tuple(self.fields["prev_events"])

    @property
    def content_hash(self) -> str:
        """``hashes.sha256`` as the event declares it."""
        declared: str = self.fields["hashes"]["sha256"]
        return declared

    def lpdu_signing_bytes(self) -> bytes:
        """What the participant's signature covers: the LPDU form of this event. Only for one with ``hub_server``."""
        return hashing.lpdu_signing_bytes(
            self.members, self.type, self.content, self.fields["hashes"], self.room_version.redaction
        )


def encode_bounded(cls: type[E], fields: JsonObject, version: RoomVersion) -> E:
    """An event from fields that have the right shape, within the size limit.

    Raises:
        SchemaViolation: something in it has no canonical JSON.
        EventTooLarge: more than 65 536 bytes.
    """
    try:
        members = encode_members(fields)
    except UnsafeJson as error:
        raise SchemaViolation("event", str(error)) from error
    return of_members(cls, fields, version, members)


def of_members(
    cls: type[E], fields: JsonObject, version: RoomVersion, members: Members, signing_bytes: bytes | None = None
) -> E:
    """An event from fields that have the right shape and their members, within the size limit.

    Raises:
        EventTooLarge: more than 65 536 bytes.
    """
    canonical = join(members.values())
    if len(canonical) > schema.MAX_EVENT_BYTES:
        raise EventTooLarge(len(canonical))
    return cls.of_checked(fields, version, members=members, canonical=canonical, signing_bytes=signing_bytes)


def is_lpdu(raw: Mapping[str, Any]) -> bool:
    """Whether a JSON object is meant as an LPDU: it lacks everything that only a hub can add."""
    hashes = raw.get("hashes")
    return (
        "auth_events" not in raw and "prev_events" not in raw and not (isinstance(hashes, dict) and "sha256" in hashes)
    )


def peek_room_id(raw: object) -> str:
    """The room of an event whose room version is not known yet.

    Raises:
        SchemaViolation: it has no valid room ID.
    """
    if not isinstance(raw, dict):
        raise SchemaViolation("event", "must be an object")
    return schema.identifier(raw, "room_id", ids.room_id)
