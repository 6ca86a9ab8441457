"""Collecting what is kept against hubs into documents for others.

Owns: :class:`EvidenceExporter`. It adds to the kept events what somebody needs who was not there: the events by which
they are judged, and the public keys of all who signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import attrs

from lmatrix.canonical_json import parse_trusted
from lmatrix.crypto.signed_json import signatures_of
from lmatrix.errors import BadRequest, BadSignature, EventDropped, NotFound, UnsupportedRoomVersion
from lmatrix.events.auth_events import auth_event_keys
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.signatures import keys_wanted
from lmatrix.rooms.evidence_document import EvidenceDocument, EvidenceItem, JsonObject
from lmatrix.rooms.head_statements import HeadStatement
from lmatrix.rooms.interfaces import Database, Evidence, Keyring, RoomStore, StoredEvent
from lmatrix.rooms.overview import KeptEvidence, OverviewStore


@attrs.frozen(slots=True)
class EvidencePage:
    """Some of the evidence about a room.

    Attributes:
        document: for others.
        last: number of the last piece in it, after which the next page begins; ``None`` when there is no more.
    """

    document: EvidenceDocument
    last: int | None


class EvidenceExporter:
    """Makes documents.

    Args:
        server_name: ours.
        database, rooms, overview: where evidence and events are.
        keyring: for public keys; they are there already, unless a key could not be had when the evidence came.
    """

    def __init__(
        self, server_name: str, database: Database, rooms: RoomStore, overview: OverviewStore, keyring: Keyring
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._rooms = rooms
        self._overview = overview
        self._keyring = keyring

    async def page(self, room_id: str, after: int, limit: int) -> EvidencePage:
        """Evidence about a room, after the piece with that number (0: from the first).

        Raises:
            NotFound: this server does not hold the room.
        """
        version_name, kept, items = await self._database.read(lambda tx: self._read(tx, room_id, after, limit))
        wanted: dict[str, set[str]] = {}
        for pdu in _all_pdus(items, version_name):
            for server, key_ids in keys_wanted(pdu).items():
                wanted.setdefault(server, set()).update(key_ids)
        for server, key_ids in _signers_of_statements(items):
            wanted.setdefault(server, set()).update(key_ids)
        found = await self._keyring.keys_for(wanted)
        keys = {server: dict(known) for server, known in sorted(found.items()) if known}
        document = EvidenceDocument(room_id, version_name, self._server_name, items, keys)
        return EvidencePage(document, kept[-1].number if len(kept) == limit else None)

    def _read(
        self, tx: Any, room_id: str, after: int, limit: int
    ) -> tuple[str, Sequence[KeptEvidence], Sequence[EvidenceItem]]:
        room = self._overview.room(tx, room_id)
        if room is None:
            raise NotFound(f"this server does not know the room {room_id}")
        kept = self._overview.evidence_after(tx, room_id, after, limit)
        items = [self._item(tx, room.room_version, one) for one in kept]
        return room.room_version, kept, items

    def _item(self, tx: Any, version_name: str, one: KeptEvidence) -> EvidenceItem:
        evidence = one.evidence
        event = parse_trusted(evidence.event)
        auth_events, state = self._by_what(tx, version_name, evidence, event)
        return EvidenceItem(
            number=one.number,
            kind=evidence.kind,
            reason=evidence.reason,
            seen_ts=evidence.seen_ts,
            event=event,
            against=None if evidence.against is None else parse_trusted(evidence.against),
            auth_events=auth_events,
            state=state,
        )

    def _by_what(
        self, tx: Any, version_name: str, evidence: Evidence, event: JsonObject
    ) -> tuple[list[JsonObject], list[JsonObject]]:
        """By what a refused event is judged: the events that it cites, and our state before it."""
        version = _known_version(version_name)
        pdu = None if version is None else _pdu(event, version)
        if evidence.kind != "rejected" or pdu is None or version is None:
            return [], []
        cited = self._rooms.events(tx, pdu.auth_events)
        held = self._rooms.event(tx, pdu.event_id)
        state: list[StoredEvent | None] = []
        if held is not None and held.position > 0:
            wanted = auth_event_keys(version, pdu.type, pdu.sender, pdu.state_key, pdu.content, pdu.hub_server)
            state = [self._rooms.state_event_before(tx, pdu.room_id, held.position, *key) for key in wanted]
        return (
            [parse_trusted(cited[event_id].canonical) for event_id in pdu.auth_events if event_id in cited],
            [parse_trusted(one.canonical) for one in state if one is not None],
        )


def _all_pdus(items: Iterable[EvidenceItem], version_name: str) -> Iterable[Pdu]:
    version = _known_version(version_name)
    if version is None:
        return
    for item in items:
        for raw in (item.event, item.against, *item.auth_events, *item.state):
            pdu = None if raw is None else _pdu(raw, version)
            if pdu is not None:
                yield pdu


def _signers_of_statements(items: Iterable[EvidenceItem]) -> Iterable[tuple[str, set[str]]]:
    for item in items:
        statements = (item.against or {}).get("statements") if item.kind == "withheld" else None
        for raw in statements if isinstance(statements, list) else ():
            with suppress(BadRequest, BadSignature):
                statement = HeadStatement.parse(raw if isinstance(raw, dict) else {})
                yield statement.server, set(signatures_of(statement.json, statement.server))


def _known_version(identifier: str) -> RoomVersion | None:
    try:
        return room_version(identifier)
    except UnsupportedRoomVersion:
        return None


def _pdu(raw: JsonObject, version: RoomVersion) -> Pdu | None:
    try:
        return Pdu.parse(raw, version)
    except EventDropped:
        return None
