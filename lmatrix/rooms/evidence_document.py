"""Evidence against hubs, in the form in which it can be handed to others.

Owns: :class:`EvidenceDocument` and its JSON. It is complete in itself: the events as they came, with their signatures;
the events by which they are judged; and the public keys of those who signed. What it proves is for
:mod:`lmatrix.rooms.evidence_judgement` to say, which believes nothing that a document merely claims.

The JSON::

    {"format": "org.lmatrix.evidence.1",
     "room_id": …, "room_version": …,
     "collected_by": <server name>,
     "evidence": [{"number": …, "kind": …, "reason": …, "seen_ts": …,
                   "event": <PDU>, "against": <PDU, or left out>,
                   "auth_events": [<PDU>, …], "state": [<PDU>, …]}, …],
     "keys": {<server name>: {<key ID>: {"key": …, "expired_ts": <or left out>}, …}, …}}

``against`` is no PDU where the kind is ``withheld``, but ``{"statements": [<head statement>, …]}`` (see
:mod:`lmatrix.rooms.head_statements`).

``auth_events`` are those that the event itself cites, as far as they are held; ``state`` is what the collector's log
has, just before the event, for what the auth rules look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmatrix import ids
from lmatrix.crypto.keys import InvalidKey, VerifyKey
from lmatrix.errors import BadRequest, InvalidIdentifier
from lmatrix.events.signatures import KnownKey

JsonObject = dict[str, Any]
Keys = Mapping[str, Mapping[str, KnownKey]]

FORMAT = "org.lmatrix.evidence.1"


@attrs.frozen(slots=True)
class EvidenceItem:
    """One piece of evidence.

    Attributes:
        number: the collector's.
        kind: ``"fork"``, ``"altered"``, ``"rejected"``, ``"dropped"``, ``"gap"``, ``"withheld"``, or one that is not
            known here.
        reason: what the collector noted.
        seen_ts: milliseconds since the epoch.
        event: the event as it came.
        against: what contradicts it.
        auth_events, state: see the module.
    """

    number: int
    kind: str
    reason: str
    seen_ts: int
    event: JsonObject
    against: JsonObject | None
    auth_events: Sequence[JsonObject]
    state: Sequence[JsonObject]

    def to_json(self) -> JsonObject:
        """As the document has it."""
        item: JsonObject = {
            "number": self.number,
            "kind": self.kind,
            "reason": self.reason,
            "seen_ts": self.seen_ts,
            "event": self.event,
            "auth_events": list(self.auth_events),
            "state": list(self.state),
        }
        if self.against is not None:
            item["against"] = self.against
        return item


@attrs.frozen(slots=True)
class EvidenceDocument:
    """Evidence about one room.

    Attributes:
        collected_by: the server that kept it.
        items: in the order in which they were found.
        keys: public keys, by server name and key ID.
    """

    room_id: str
    room_version: str
    collected_by: str
    items: Sequence[EvidenceItem]
    keys: Keys

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {
            "format": FORMAT,
            "room_id": self.room_id,
            "room_version": self.room_version,
            "collected_by": self.collected_by,
            "evidence": [item.to_json() for item in self.items],
            "keys": {
                server: {key_id: _key_json(key) for key_id, key in keys.items()} for server, keys in self.keys.items()
            },
        }

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> EvidenceDocument:
        """From JSON of whatever origin.

        Raises:
            BadRequest: it is no such document.
        """
        if raw.get("format") != FORMAT:
            raise BadRequest(f"not evidence of the format {FORMAT}")
        return cls(
            room_id=_text(raw, "room_id"),
            room_version=_text(raw, "room_version"),
            collected_by=_text(raw, "collected_by"),
            items=tuple(_item(item) for item in _objects(raw, "evidence")),
            keys={server: _keys(server, keys) for server, keys in _object(raw, "keys").items()},
        )


def _key_json(key: KnownKey) -> JsonObject:
    found: JsonObject = {"key": key.verify_key.to_base64()}
    if key.expired_ts is not None:
        found["expired_ts"] = key.expired_ts
    return found


def _keys(server: str, raw: object) -> Mapping[str, KnownKey]:
    try:
        ids.server_name(server)
    except InvalidIdentifier as error:
        raise BadRequest(f"keys: {error}") from error
    if not isinstance(raw, dict):
        raise BadRequest(f"keys: those of {server} must be an object")
    return {key_id: _key(key_id, key) for key_id, key in raw.items()}


def _key(key_id: str, raw: object) -> KnownKey:
    if not isinstance(raw, dict):
        raise BadRequest(f"keys: {key_id} must be an object")
    expired_ts = raw.get("expired_ts")
    if expired_ts is not None and type(expired_ts) is not int:
        raise BadRequest(f"keys: expired_ts of {key_id} must be an integer")
    try:
        return KnownKey(key_id, VerifyKey.from_base64(key_id, _text(raw, "key")), expired_ts)
    except InvalidKey as error:
        raise BadRequest(f"keys: {key_id}: {error}") from error


def _item(raw: Mapping[str, Any]) -> EvidenceItem:
    return EvidenceItem(
        number=_number(raw, "number"),
        kind=_text(raw, "kind"),
        reason=_text(raw, "reason"),
        seen_ts=_number(raw, "seen_ts"),
        event=_object(raw, "event"),
        against=None if raw.get("against") is None else _object(raw, "against"),
        auth_events=_objects(raw, "auth_events"),
        state=_objects(raw, "state"),
    )


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string")
    return value


def _number(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if type(value) is not int:
        raise BadRequest(f"{key} must be an integer")
    return value


def _object(raw: Mapping[str, Any], key: str) -> JsonObject:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise BadRequest(f"{key} must be an object")
    return value


def _objects(raw: Mapping[str, Any], key: str) -> list[JsonObject]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{key} must be a list of objects")
    return value
