"""History from before a participant's log begins (I-D "GET /backfill").

Owns: fetching older events from the hub when a local user scrolls back past what is held, verifying them, and putting
them below the run that they belong to. They are history: they change no state, and wake nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger

from lmatrix.canonical_json import parse_object
from lmatrix.errors import PeerError
from lmatrix.events.forms import Pdu
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.following import in_chain_order
from lmatrix.rooms.interfaces import AppendedEvent, Database, Peers, RoomStore, Standing, StoredEvent
from lmatrix.rooms.registry import LoadedRoom, Rooms

PAGE = 100


class Scrollback:
    """Fetches older events.

    Args:
        rooms: so that a room's history is fetched by one caller at a time.
        checker: verifies events.
        database, store: the log.
        peers: the way to the hub.
    """

    log = Logger()

    def __init__(
        self,
        rooms: Rooms,
        checker: EventChecker,
        database: Database,
        store: RoomStore,
        peers: Peers,
    ) -> None:
        self._rooms = rooms
        self._checker = checker
        self._database = database
        self._store = store
        self._peers = peers

    async def fetch(self, loaded: LoadedRoom, position: int, limit: int) -> None:
        """Try to hold ``limit`` events at and before ``position``. A hub that does not answer is logged, not an
        error: the user sees what there is.
        """
        room = loaded.room
        with await self._rooms.enter(room.room_id):
            held = await self._database.read(
                lambda tx: self._store.events_before(tx, room.room_id, position, limit + 1)
            )
            missing = limit + 1 - len(held)
            if missing <= 0 or not held:
                return
            oldest = held[-1]
            if not parse_object(oldest.canonical).get("prev_events"):
                return  # the create event: there is nothing before it
            try:
                raws = await self._peers.backfill(
                    room.hub_server, room.version, room.room_id, oldest.event_id, min(max(missing, PAGE), PAGE)
                )
            except PeerError as error:
                self.log.info("{room_id}: no older events could be had: {error}", room_id=room.room_id, error=error)
                return
            parsed = [pdu for pdu in self._checker.parse_pdus(raws, room.version) if pdu.room_id == room.room_id]
            older = before(oldest, await self._checker.verified(parsed))
            if older:
                await self._database.write(lambda tx: self._prepend(tx, room.room_id, older))

    def _prepend(self, tx: Any, room_id: str, older: Sequence[AppendedEvent]) -> None:
        """Only down to what an earlier run holds: there the two runs join up."""
        held = self._store.events(tx, [event.pdu.event_id for event in older])
        in_log = [event.pdu.event_id in held and held[event.pdu.event_id].position > 0 for event in older]
        fresh = older[len(in_log) - in_log[::-1].index(True) :] if True in in_log else older
        if fresh:
            self._store.prepend(tx, room_id, fresh)


def before(oldest: StoredEvent, pdus: Sequence[Pdu]) -> list[AppendedEvent]:
    """The events that lead up to ``oldest`` without a gap, with their positions, oldest first."""
    by_id = {pdu.event_id: pdu for pdu in in_chain_order(pdus)}
    line: list[AppendedEvent] = []
    position = oldest.position
    prev_events: Sequence[Any] = parse_object(oldest.canonical).get("prev_events", ())
    while len(prev_events) == 1 and prev_events[0] in by_id and prev_events[0] != oldest.event_id:
        pdu = by_id.pop(prev_events[0])
        position -= 1
        line.append(AppendedEvent(position, pdu, Standing.ACCEPTED, pdu.lpdu_hash))
        prev_events = pdu.prev_events
    return line[::-1]
