"""Getting the content of events that are held here as redacted copies (PROTOCOL notes "Hub transfer").

Owns: making a candidate's copy of a room as good as its hub's. History from before our users came may have been for
others' eyes only, and was given to us without its content. Who becomes the hub will have to give it to those others, so
it needs all of it; and while a hub offers us its room, it shows us all of it (:mod:`lmatrix.rooms.sight`).

What was redacted in the room has no content anywhere any more: of that the hub shows what we have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lmatrix.events.forms import Pdu
from lmatrix.events.verification import hashes_match
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.interfaces import Database, Peers, RoomStore, StoredEvent
from lmatrix.rooms.room import Room

PAGE = 100


class Contents:
    """Fetches what redacted copies lack.

    Args:
        checker: verifies what comes.
        database, store: the log.
        peers: the way to the hub.
    """

    def __init__(self, checker: EventChecker, database: Database, store: RoomStore, peers: Peers) -> None:
        self._checker = checker
        self._database = database
        self._store = store
        self._peers = peers

    async def fetch(self, room: Room, events: Sequence[StoredEvent], source: str) -> None:
        """Replace redacted copies among some events of our log by the events themselves, as far as they can be had.

        Args:
            events: of the room, ascending.
            source: who is asked.

        Raises:
            PeerError: it did not answer.
            StorageFailed: what came could not be stored.
        """
        wanted = [event.event_id for event in events if self._lacks_content(room, event)]
        while wanted:
            raws = await self._peers.backfill(source, room.version, room.room_id, wanted[-1], PAGE)
            came = {pdu.event_id: pdu for pdu in self._checker.parse_pdus(raws, room.version)}
            # Only what was redacted does not match its hashes here, and of that there is nothing to be had.
            whole = [came[event_id] for event_id in wanted if event_id in came and hashes_match(came[event_id])]
            verified = await self._checker.verified(whole)
            if verified:
                await self._database.write(partial(_put, self._store, verified))
            wanted = [event_id for event_id in wanted[:-1] if event_id not in came]

    def _lacks_content(self, room: Room, event: StoredEvent) -> bool:
        return event.redacted_by is None and not hashes_match(Pdu.from_canonical(event.canonical, room.version))


def _put(store: RoomStore, events: Sequence[Pdu], tx: Any) -> None:
    store.put_contents(tx, events)
