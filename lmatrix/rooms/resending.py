"""What becomes of our users' pending LPDUs when the hub changes (PROTOCOL notes "Hub transfer").

Owns: signing them anew for the new hub, or, when that is this server, putting them into the order ourselves. Nothing
is sent twice: what the old hub accepted stands in the log before the event that made the new one the hub, and is
settled with it; it accepts nothing after that event. Nothing is forgotten: an LPDU stays pending until it has been
replaced, or its outcome is known, and what could not be done is tried again.

Invariant: one at a time goes through a room's pending LPDUs, so that none is signed anew twice.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lmatrix.canonical_json import parse_object
from lmatrix.errors import LMatrixError, Overloaded, ShuttingDown, StorageFailed, WrongServer
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.rooms.hub import Hub
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, PendingLpdu, PendingLpduStore
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.room import Room
from lmatrix.rooms.sequencing import LocalEvent, Sequenced

RETRY_SECONDS = 1.0
"""How long to wait before what failed for no fault of an event's is tried again."""

PIECE = 500
"""LPDUs that are signed anew at one time."""

_NO_FAULT_OF_THE_EVENT = (StorageFailed, Overloaded)


class Resender:
    """Gives pending LPDUs a new way.

    Args:
        identity: who signs.
        rooms, hub, outbox: where they go.
        database, store: where they are kept.
        clock: for the pause before another attempt.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        hub: Hub,
        outbox: Outbox,
        database: Database,
        store: PendingLpduStore,
        clock: IReactorTime,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._hub = hub
        self._outbox = outbox
        self._database = database
        self._store = store
        self._clock = clock
        self._at_work: set[str] = set()
        self._again: set[str] = set()

    async def resume(self) -> None:
        """At start: those that a change of hub had made void when this server stopped."""
        for room_id in await self._database.read(lambda tx: self._store.rooms(tx)):
            await self.hub_changed(room_id)

    def stored(self, room_id: str, hub_server: str) -> None:
        """An LPDU for this hub is on disk (called by the outbox). The hub may have changed since it was signed, and
        what was pending then been seen to already.
        """
        Deferred.fromCoroutine(self._check(room_id, hub_server)).addErrback(
            lambda failure: self.log.failure("{room_id}: pending LPDUs", failure=failure, room_id=room_id)
        )

    async def hub_changed(self, room_id: str) -> None:
        """Give every LPDU of the room that was signed for another hub than the present one its new way, in order."""
        if room_id in self._at_work:
            self._again.add(room_id)
            return
        self._at_work.add(room_id)
        try:
            self._again.add(room_id)
            while room_id in self._again:
                self._again.discard(room_id)
                try:
                    await self._go_through(room_id)
                except _NO_FAULT_OF_THE_EVENT as error:
                    self.log.warn(
                        "{room_id}: pending LPDUs wait: {error}", room_id=room_id, error=getattr(error, "reason", error)
                    )
                    await deferLater(self._clock, RETRY_SECONDS)
                    self._again.add(room_id)
                except ShuttingDown:
                    return  # they are found at the next start
        finally:
            self._at_work.discard(room_id)
            self._again.discard(room_id)

    async def _check(self, room_id: str, hub_server: str) -> None:
        loaded = await self._rooms.loaded(room_id)
        if loaded is not None and loaded.room.hub_server != hub_server:
            await self.hub_changed(room_id)

    async def _go_through(self, room_id: str) -> None:
        loaded = await self._rooms.loaded(room_id)
        if loaded is None or (loaded.room.held and loaded.room.is_hub):
            return  # a room that is held is gone through when it is released
        pending = await self._database.read(lambda tx: self._store.for_room(tx, room_id))
        hub_server = loaded.room.hub_server
        void = [one for one in pending if one.hub_server != hub_server]
        if not loaded.room.is_hub:
            for start in range(0, len(void), PIECE):
                anew = [(one, self._signed_for(loaded.room, one, hub_server)) for one in void[start : start + PIECE]]
                await self._outbox.replace(anew, hub_server)
            return
        for one in void:
            if loaded.room.is_hub:
                await self._take(loaded, one)

    def _signed_for(self, room: Room, pending: PendingLpdu, hub_server: str) -> Lpdu:
        event = parse_object(pending.canonical)
        return build_lpdu(
            room.version,
            room_id=room.room_id,
            type=event["type"],
            sender=event["sender"],
            content=event["content"],
            origin_server_ts=event["origin_server_ts"],
            hub_server=hub_server,
            server_name=self._identity.server_name,
            keys=self._identity.keys,
            state_key=event.get("state_key"),
        )

    async def _take(self, loaded: LoadedRoom, pending: PendingLpdu) -> None:
        event = parse_object(pending.canonical)
        local = LocalEvent(
            event["type"], event["sender"], event["content"], event["origin_server_ts"], event.get("state_key")
        )

        def settle(tx: Any, sequenced: list[Sequenced]) -> None:
            self._outbox.settle_one(tx, pending.lpdu_event_id, sequenced[0].event_id)

        try:
            [sequenced] = await self._hub.take_local(loaded, [local], settle)
        except WrongServer:
            # The room has moved on while this waited its turn: what is pending still is gone through again.
            self._again.add(loaded.room.room_id)
        except (*_NO_FAULT_OF_THE_EVENT, ShuttingDown):
            raise
        except LMatrixError as error:
            await self._outbox.hub_answered(
                self._identity.server_name, [pending], {pending.lpdu_event_id: str(error)}, {}, {}
            )
        else:
            self._outbox.resolved(pending.lpdu_event_id, sequenced.event_id)
