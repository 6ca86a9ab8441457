"""What other servers may read of our rooms (I-D "Event and State APIs").

Owns: answering ``event``, ``state``, ``state_ids``, ``backfill`` and (Server-Server API v1.11) ``event_auth`` for
another server. What it gets of each event, whole, redacted or nothing, is :mod:`lmatrix.rooms.sight`'s decision.

Answers are put together from the stored canonical JSON, in the database's reading thread: they can be large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from lmatrix import canonical_json
from lmatrix.errors import NotFound, RoomRecovering, UnsupportedRoomVersion, WrongServer
from lmatrix.events.forms import Pdu
from lmatrix.rooms.auth_chain import auth_chain
from lmatrix.rooms.interfaces import Database, RoomStore, Standing, StoredEvent
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.room import Room
from lmatrix.rooms.sight import Asker, Sight, View

T = TypeVar("T")
Found = tuple[StoredEvent, Pdu]

MAX_BACKFILL = 100
"""Events in one answer to ``backfill``, at most."""


class RoomSource(Protocol):
    """Where rooms come from."""

    async def load(self, room_id: str) -> Room | None:
        """The room, or ``None`` when this server does not hold it."""


class History:
    """Reads rooms for other servers.

    Args:
        database, store: where rooms are.
        rooms: the rooms in memory.
        policies: may block a room: then every question about it is :class:`~lmatrix.errors.Forbidden`.
        takes_over: whether a server (second argument) is being offered a room by us at this moment.
    """

    def __init__(
        self,
        database: Database,
        store: RoomStore,
        rooms: RoomSource,
        policies: Policies,
        takes_over: Callable[[str, str], bool] = lambda room_id, server: False,
    ) -> None:
        self._policies = policies
        self._database = database
        self._store = store
        self._rooms = rooms
        self._takes_over = takes_over

    async def event(self, origin: str, event_id: str) -> bytes:
        """``GET /event/:eventId``: canonical JSON of the event, or of its redacted copy.

        Args:
            origin: the authenticated server that asks.

        Raises:
            NotFound: unknown, or the server has no reason to know of it.
        """
        stored = await self._database.read(lambda tx: self._store.event(tx, event_id))
        if stored is None:
            raise _unknown_event()
        room = await self._room(origin, stored.room_id)
        found = stored

        def work(tx: Any, view: View) -> bytes:
            pdu = view.pdu(found)
            sight = view.sight(found, pdu)
            if sight is Sight.NOTHING:
                raise _unknown_event()
            return view.shown(found, pdu, sight)

        return await self._look(origin, room, work)

    async def backfill(self, origin: str, room_id: str, event_id: str, limit: int) -> bytes:
        """``GET /backfill/:roomId``: canonical JSON of ``{"pdus": […]}``, oldest first, the event itself last.

        Stops at the first event that the server has no reason to know of, and where our own log has a hole.

        Args:
            limit: how many events at most, at least 1; :data:`MAX_BACKFILL` bounds it.

        Raises:
            NotFound: the room or the event is unknown, or the server has no reason to know of it.
            RoomRecovering: the event is unknown, but we may have forgotten it.
        """
        room = await self._room(origin, room_id)

        def work(tx: Any, view: View) -> bytes:
            last, pdu = self._event_of(tx, view, room_id, event_id)
            if view.sight(last, pdu) is Sight.NOTHING:
                raise _unknown_event()
            shown: list[bytes] = []
            for stored in self._store.events_before(tx, room_id, last.position, min(limit, MAX_BACKFILL)):
                pdu = view.pdu(stored)
                sight = view.sight(stored, pdu)
                if sight is not Sight.NOTHING:
                    shown.append(view.shown(stored, pdu, sight))
                elif stored.standing is not Standing.REJECTED:
                    break
            return b'{"pdus":' + _array(reversed(shown)) + b"}"

        return await self._look(origin, room, work)

    async def state(self, origin: str, room_id: str, event_id: str) -> bytes:
        """``GET /state/:roomId``: canonical JSON of ``{"auth_chain": […], "pdus": […]}`` as of just before the event.

        ``pdus`` is in the room's order; ``auth_chain`` is too, and so begins with the create event.

        Raises:
            NotFound: as :meth:`backfill`.
            WrongServer: this server is not the room's hub.
        """
        room = await self._hubs_room(origin, room_id)

        def work(tx: Any, view: View) -> bytes:
            whole, state, chain = self._state_before(tx, view, room_id, event_id)
            return (
                b'{"auth_chain":'
                + _state_array(view, chain, whole)
                + b',"pdus":'
                + _state_array(view, state, whole)
                + b"}"
            )

        return await self._look(origin, room, work)

    async def state_ids(self, origin: str, room_id: str, event_id: str) -> bytes:
        """``GET /state_ids/:roomId``: the same as event IDs, ``{"auth_chain_ids": […], "pdu_ids": […]}``.

        Raises:
            NotFound, WrongServer: as :meth:`state`.
        """
        room = await self._hubs_room(origin, room_id)

        def work(tx: Any, view: View) -> bytes:
            _, state, chain = self._state_before(tx, view, room_id, event_id)
            return canonical_json.encode(
                {
                    "auth_chain_ids": [event.event_id for event in chain],
                    "pdu_ids": [event.event_id for event in state],
                }
            )

        return await self._look(origin, room, work)

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> bytes:
        """``GET /event_auth/:roomId/:eventId``: canonical JSON of ``{"auth_chain": […]}``: the event's auth events,
        theirs, and so on; in the room's order, as far as this server knows it, and so from the hub with the create
        event first.

        The chain is state of the room: it is open to whom the state at the event would be, but not to those who may
        only see an invite. What this server does not hold of it is left out.

        Raises:
            NotFound: as :meth:`backfill`.
        """
        room = await self._room(origin, room_id)

        def work(tx: Any, view: View) -> bytes:
            stored, pdu = self._event_of(tx, view, room_id, event_id)
            sight = view.sight_as_member(stored, pdu)
            if sight is Sight.NOTHING:
                raise _unknown_event()
            chain = auth_chain(tx, self._store, [stored])
            return b'{"auth_chain":' + _state_array(view, chain, sight is Sight.WHOLE) + b"}"

        return await self._look(origin, room, work)

    async def _room(self, origin: str, room_id: str) -> Room:
        if not self._takes_over(room_id, origin):
            # Whoever is about to rid us of a blocked room needs all of it.
            await self._policies.check_room(room_id)
        try:
            room = await self._rooms.load(room_id)
        except UnsupportedRoomVersion:
            # Stored by a version of this program that knew more. Who may see what is in it cannot be told.
            room = None
        if room is None or room.state.get("m.room.create") is None:
            raise _unknown_event()
        return room

    async def _hubs_room(self, origin: str, room_id: str) -> Room:
        room = await self._room(origin, room_id)
        if not room.is_hub:
            raise WrongServer(room_id, room.hub_server)
        return room

    async def _look(self, origin: str, room: Room, work: Callable[[Any, View], T]) -> T:
        asker = Asker.of(origin, room, takes_over=room.is_hub and self._takes_over(room.room_id, origin))
        return await self._database.read(lambda tx: work(tx, View(tx, self._store, asker)))

    def _event_of(self, tx: Any, view: View, room_id: str, event_id: str) -> Found:
        stored = self._store.event(tx, event_id)
        if stored is None and view.held:
            # To say that there is no such event would be a lie, and evidence against us.
            raise RoomRecovering(room_id)
        if stored is None or stored.room_id != room_id:
            raise _unknown_event()
        return stored, view.pdu(stored)

    def _state_before(
        self, tx: Any, view: View, room_id: str, event_id: str
    ) -> tuple[bool, Sequence[StoredEvent], Sequence[StoredEvent]]:
        """Whether the event itself is seen whole; the state before it; the auth chain of that state."""
        stored, pdu = self._event_of(tx, view, room_id, event_id)
        sight = view.sight_as_member(stored, pdu)
        if sight is Sight.NOTHING:
            raise _unknown_event()
        state = self._store.state_before(tx, room_id, stored.position)
        chain = auth_chain(tx, self._store, state)
        return sight is Sight.WHOLE, state, chain


def _unknown_event() -> NotFound:
    """One message for all reasons: which of them it is would tell what must not be told."""
    return NotFound("event or room not found")


def _state_array(view: View, events: Iterable[StoredEvent], whole: bool) -> bytes:
    """State into which an event was sent, as somebody gets it who sees that event ``whole``, or not."""

    def shown(event: StoredEvent) -> bytes:
        # Whoever may see the event whole may see the state that it was sent into.
        if whole and event.standing is Standing.ACCEPTED:
            return event.canonical
        pdu = view.pdu(event)
        return view.shown(event, pdu, view.sight(event, pdu))

    return _array(map(shown, events))


def _array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
