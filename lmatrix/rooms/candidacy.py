"""Becoming the hub of a room, the candidate's side (PROTOCOL notes "Hub transfer").

Owns: answering a hub's offer. Before it signs, a candidate holds the whole room up to the head that it is offered, from
the create event on, contents included, and has replayed it: it will have to answer for that history to everybody. How
far a room was replayed is remembered, so that a repeated offer is quick.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lmatrix.errors import BadRequest, Forbidden, NotFound, PeerError, StorageFailed
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.power_levels import PowerLevels
from lmatrix.ids import event_id as check_event_id
from lmatrix.rooms.contents import Contents
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, JsonObject, RoomStore, StoredEvent
from lmatrix.rooms.participant import Participant
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.replay import Replay
from lmatrix.rooms.scrollback import Scrollback
from lmatrix.rooms.timestamps import Timestamps

PIECE = 200
"""Events that are replayed before the reactor gets a turn."""

REMEMBERED_REPLAYS = 100


class Candidacy:
    """Takes rooms over.

    Args:
        identity: who signs.
        rooms, participant, scrollback, contents: how the whole room is come by.
        database, store: the log.
        policies: may block a room.
        clock, timestamps: for the reactor's turns, and the time of the event.
        willing: whether we take rooms over at all (configuration).
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        participant: Participant,
        scrollback: Scrollback,
        contents: Contents,
        database: Database,
        store: RoomStore,
        policies: Policies,
        clock: IReactorTime,
        timestamps: Timestamps,
        *,
        willing: bool,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._participant = participant
        self._scrollback = scrollback
        self._contents = contents
        self._database = database
        self._store = store
        self._clock = clock
        self._timestamps = timestamps
        self._policies = policies
        self._willing = willing
        self._replays: dict[str, tuple[Replay, int]] = {}
        self._one_at_a_time = DeferredLock()

    async def offered(self, origin: str, offer: JsonObject) -> Lpdu:
        """Answer a hub's offer of its room with our signed ``m.room.hub`` event.

        Args:
            origin: the authenticated asker.
            offer: ``{"room_id", "room_version", "head", "valid_until_ts"}``.

        Raises:
            BadRequest, InvalidIdentifier: it is no offer, or one that is over.
            NotFound: we are not in the room.
            Forbidden: we do not take it: it is not the origin's to give, we are not willing, or its history is not
                whole.
        """
        room_id, valid_until = offer.get("room_id"), offer.get("valid_until_ts")
        head = check_event_id(offer.get("head"))
        if not isinstance(room_id, str) or type(valid_until) is not int:
            raise BadRequest("an offer has room_id, room_version, head and valid_until_ts")
        await self._policies.check_room(room_id)
        loaded = await self._rooms.loaded(room_id)
        if loaded is None or not loaded.room.is_participating:
            raise NotFound(f"this server is not in the room {room_id}")
        room = loaded.room
        if room.hub_server != origin or room.is_hub:
            raise Forbidden(f"{room_id} is not {origin}'s to give")
        if offer.get("room_version") != room.version.identifier or not room.version.hub_is_state:
            raise BadRequest(f"{room_id} has version {room.version.identifier}")
        if not self._willing:
            raise Forbidden("this server does not take rooms over")
        await self._one_at_a_time.run(lambda: self._make_whole(loaded, head, origin))
        now_ms = self._timestamps.next(self._signer(loaded))
        if now_ms > valid_until:
            raise BadRequest("the offer is over; the room is whole here now, and another one will be answered quickly")
        return build_lpdu(
            room.version,
            room_id=room_id,
            type=HUB_EVENT,
            sender=self._signer(loaded),
            content={"previous_hub": origin, "head": head, "valid_until_ts": valid_until},
            origin_server_ts=now_ms,
            hub_server=origin,
            server_name=self._identity.server_name,
            keys=self._identity.keys,
            state_key="",
        )

    def _signer(self, loaded: LoadedRoom) -> str:
        """Our most powerful joined user."""
        levels = PowerLevels.of(loaded.room.state)
        ours = [
            member.state_key
            for member in loaded.room.state.members()
            if member.content.get("membership") == "join" and self._identity.owns(member.state_key)
        ]
        if not ours:
            raise NotFound("this server has no user in the room")
        return min(ours, key=lambda user_id: (-levels.user_level(user_id), user_id))

    async def _make_whole(self, loaded: LoadedRoom, head: str, source: str) -> None:
        if not await self._participant.catch_up(loaded, head, source):
            raise Forbidden(f"{loaded.room.room_id}: this server could not get all events up to {head}")
        await self._fetch_beginning(loaded)
        await self._replay(loaded, source)

    async def _fetch_beginning(self, loaded: LoadedRoom) -> None:
        room = loaded.room
        while True:
            oldest = await self._oldest(loaded)
            if not Pdu.from_canonical(oldest.canonical, room.version).prev_events:
                return
            await self._scrollback.fetch(loaded, oldest.position, PIECE)
            if (await self._oldest(loaded)).event_id == oldest.event_id:
                raise Forbidden(f"{room.room_id}: this server could not get what was before {oldest.event_id}")

    async def _oldest(self, loaded: LoadedRoom) -> StoredEvent:
        room_id, head = loaded.room.room_id, loaded.room.head_position
        oldest = await self._database.read(lambda tx: self._store.oldest_before(tx, room_id, head))
        if oldest is None:
            raise StorageFailed(f"{room_id} has no events")
        return oldest

    async def _replay(self, loaded: LoadedRoom, source: str) -> None:
        room = loaded.room
        replay, position = self._replays.pop(room.room_id, (Replay(room.room_id, room.version), 0))
        while position < room.head_position:
            events = await self._piece(room.room_id, position)
            if not events:
                break
            # Also an event that holds a place in the chain only is a problem here: nobody else would be given it.
            problems = replay.take([Pdu.from_canonical(event.canonical, room.version) for event in events])
            if problems:
                first = problems[0]
                self.log.warn(
                    "{room_id}: not taken over: event {number} ({event_id}): {reason}",
                    room_id=room.room_id,
                    number=first.number,
                    event_id=first.event_id,
                    reason=first.reason,
                )
                raise Forbidden(f"{room.room_id} does not hold together at {first.event_id}: {first.reason}")
            try:
                await self._contents.fetch(room, events, source)
            except PeerError as error:
                raise Forbidden(f"{room.room_id}: this server could not get its history's contents: {error}") from error
            position = events[-1].position
            await deferLater(self._clock, 0)
        self._replays[room.room_id] = (replay, position)
        while len(self._replays) > REMEMBERED_REPLAYS:
            del self._replays[next(iter(self._replays))]

    async def _piece(self, room_id: str, after: int) -> Sequence[StoredEvent]:
        return await self._database.read(lambda tx: self._store.events_between(tx, room_id, after, 2**62, PIECE))
