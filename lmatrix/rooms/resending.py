"""What becomes of our users' pending LPDUs when the hub changes (PROTOCOL notes "Hub transfer").

Owns: signing them anew for the new hub, or, when that is this server, putting them into the order ourselves. Nothing
    is sent
twice: what the old hub accepted stands in the log before the event that made the new one the hub, and is settled with
it; it accepts nothing after that event.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from lmatrix.canonical_json import parse_object
from lmatrix.errors import LMatrixError
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.rooms.hub import Hub
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, PendingLpdu, PendingLpduStore
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.sequencing import LocalEvent, Sequenced


class Resender:
    """Gives pending LPDUs a new way.

    Args:
        identity: who signs.
        rooms, hub, outbox: where they go.
        database, store: where they are kept.
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
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._hub = hub
        self._outbox = outbox
        self._database = database
        self._store = store

    async def resume(self) -> None:
        """At start: those that a change of hub had made void when this server stopped."""
        for room_id in await self._database.read(lambda tx: self._store.rooms(tx)):
            await self.hub_changed(room_id)

    async def hub_changed(self, room_id: str) -> None:
        """Give every LPDU of the room that was signed for another hub than the present one its new way, in order."""
        loaded = await self._rooms.loaded(room_id)
        if loaded is None:
            return
        hub_server = loaded.room.hub_server
        pending = await self._database.read(lambda tx: self._store.for_room(tx, room_id))
        for one in pending:
            if one.hub_server == hub_server:
                continue
            if loaded.room.is_hub:
                await self._take(loaded, one)
            else:
                await self._outbox.replace(one, self._signed_for(loaded, one), hub_server)

    def _signed_for(self, loaded: LoadedRoom, pending: PendingLpdu) -> Lpdu:
        room = loaded.room
        event = parse_object(pending.canonical)
        return build_lpdu(
            room.version,
            room_id=room.room_id,
            type=event["type"],
            sender=event["sender"],
            content=event["content"],
            origin_server_ts=event["origin_server_ts"],
            hub_server=room.hub_server,
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
        except LMatrixError as error:
            await self._outbox.hub_answered(
                self._identity.server_name, [pending], {pending.lpdu_event_id: str(error)}, {}
            )
        else:
            self._outbox.resolved(pending.lpdu_event_id, sequenced.event_id)
