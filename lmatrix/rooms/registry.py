"""The rooms that are in memory.

Owns: loading a room from the store once, however many ask for it at the same time, and forgetting those not used for a
while. Each loaded room has one :class:`~lmatrix.rooms.sequencer.Sequencer`, which alone may change it; a room with
unfinished work is never forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.errors import NotFound, UnsupportedRoomVersion
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.events.state import StateEvent, StateMap
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Database, RoomStore, StoredRoom
from lmatrix.rooms.room import Room, RoomDraft, count_joined
from lmatrix.rooms.sequencer import Commit, Sequencer

T = TypeVar("T")


@attrs.frozen(slots=True, eq=False)
class LoadedRoom:
    """A room and the sequencer that owns its changes."""

    room: Room
    sequencer: Sequencer


class Rooms:
    """All rooms of this server, loaded on demand.

    Args:
        database, store: where rooms are kept.
        server_name: this server's name.
        clock, metrics: for the sequencers.
        committed: told of every commit of every room.
        limit: how many idle rooms stay in memory.
    """

    log = Logger()

    def __init__(
        self,
        database: Database,
        store: RoomStore,
        server_name: str,
        clock: IReactorTime,
        metrics: Metrics,
        committed: Callable[[Commit], None],
        *,
        limit: int = 2000,
    ) -> None:
        self._database = database
        self._store = store
        self._server_name = server_name
        self._clock = clock
        self._metrics = metrics
        self._committed = committed
        self._limit = limit
        self._loaded: OrderedDict[str, LoadedRoom] = OrderedDict()
        self._loading: dict[str, list[Deferred[LoadedRoom | None]]] = {}
        self._joining: dict[str, str] = {}
        self._entrances: dict[str, tuple[DeferredLock, int]] = {}
        self._held: set[str] = set()
        self._confirm: Callable[[Room], Awaitable[None]] | None = None
        self._confirmed: set[str] = set()

    def attach(self, confirm: Callable[[Room], Awaitable[None]]) -> None:
        """Complete the circle: what is to be done before the first event is put into a room since we were started."""
        self._confirm = confirm

    async def load(self, room_id: str) -> Room | None:
        """The room, or ``None`` when this server does not hold it.

        Raises:
            UnsupportedRoomVersion: the room was stored by a version of lmatrix that knew more.
        """
        loaded = await self.loaded(room_id)
        return None if loaded is None else loaded.room

    async def loaded(self, room_id: str) -> LoadedRoom | None:
        """The room with its sequencer; as :meth:`load` otherwise."""
        present = self._loaded.get(room_id)
        if present is not None:
            self._loaded.move_to_end(room_id)
            return present
        waiting = self._loading.get(room_id)
        if waiting is not None:
            turn: Deferred[LoadedRoom | None] = Deferred()
            waiting.append(turn)
            return await turn
        self._loading[room_id] = []
        try:
            stored = await self._database.read(lambda tx: self._store.load_room(tx, room_id))
            loaded = None if stored is None else self._admit(stored)
        except BaseException as error:
            for turn in self._loading.pop(room_id):
                turn.errback(error)
            raise
        for turn in self._loading.pop(room_id):
            turn.callback(loaded)
        return loaded

    async def destinations(self, room_id: str) -> set[str]:
        """Every other server that takes part in the room; none when this server does not hold it."""
        try:
            room = await self.load(room_id)
        except UnsupportedRoomVersion:
            return set()
        return set() if room is None else room.destinations()

    async def takes_part(self, room_id: str) -> bool:
        """Whether this server has a user in the room."""
        try:
            room = await self.load(room_id)
        except UnsupportedRoomVersion:
            return False
        return room is not None and room.is_participating

    async def reload(self, room_id: str) -> LoadedRoom:
        """Read the room anew, after a join wrote, or may have written, a fresh snapshot past its sequencer. What was in
        memory is forgotten in any case.

        Raises:
            StorageFailed: it cannot be read now; whoever needs it next reads it.
            NotFound: it is not there.
        """
        present = self._loaded.get(room_id)
        if present is not None:
            await present.sequencer.idle()
            self._loaded.pop(room_id, None)
        loaded = await self.loaded(room_id)
        if loaded is None:
            raise NotFound(f"this server does not know the room {room_id}")
        return loaded

    def hold(self, room_id: str) -> None:
        """From now on nothing new is put into the room by us, as long as we are its hub; what is decided already is."""
        self._held.add(room_id)
        self._mark_held(room_id)

    def release(self, room_id: str) -> None:
        """Go on with the room."""
        self._held.discard(room_id)
        self._mark_held(room_id)

    def _mark_held(self, room_id: str) -> None:
        loaded = self._loaded.get(room_id)
        if loaded is not None:
            loaded.room.held = room_id in self._held

    async def enter(self, room_id: str) -> Entrance:
        """Wait for the right to create or (re-)join the room: one at a time. Use with ``with``."""
        lock, users = self._entrances.get(room_id, (DeferredLock(), 0))
        self._entrances[room_id] = (lock, users + 1)
        await lock.acquire()
        return Entrance(self, room_id)

    def leave_entrance(self, room_id: str) -> None:
        """Give the right back (called by :class:`Entrance`)."""
        lock, users = self._entrances[room_id]
        if users == 1:
            del self._entrances[room_id]
        else:
            self._entrances[room_id] = (lock, users - 1)
        lock.release()

    def expect_events(self, room_id: str, hub_server: str | None) -> None:
        """While a hub lets us into a room, its first events may overtake its answer; ``None`` ends the expectation."""
        if hub_server is None:
            self._joining.pop(room_id, None)
        else:
            self._joining[room_id] = hub_server

    async def expected(self, room_id: str, origin: str) -> None:
        """Wait while this origin is letting us into the room."""
        if self._joining.get(room_id) == origin:
            with await self.enter(room_id):
                return

    async def create(
        self,
        room_id: str,
        version: RoomVersion,
        decide: Callable[[RoomDraft], T],
        events: int,
        beside: Callable[[Any], None] | None = None,
    ) -> tuple[LoadedRoom, T]:
        """Make a new room whose first events ``decide`` appends; on disk with all of them, or not at all.

        Args:
            beside: called with the transaction, to write what belongs to the room; what it raises, there is no room.
        """
        room = Room(room_id, version, self._server_name, StateMap(), 0, None, 1)
        self._confirmed.add(room_id)
        loaded = self._with_sequencer(room)
        sequencer = loaded.sequencer

        def ahead(tx: Any) -> None:
            self._store.insert_room(tx, room_id, version.identifier, 1)
            if beside is not None:
                beside(tx)

        outcome = await sequencer.submit(decide, events=events, ahead=ahead)
        self._loaded[room_id] = loaded
        self._forget_idle()
        return loaded, outcome

    async def idle(self) -> None:
        """Wait until no sequencer has unfinished work."""
        for loaded in list(self._loaded.values()):
            await loaded.sequencer.idle()

    def _admit(self, stored: StoredRoom) -> LoadedRoom:
        room = room_of(stored, self._server_name)
        room.held = room.room_id in self._held
        loaded = self._with_sequencer(room)
        self._loaded[stored.room_id] = loaded
        self._loaded.move_to_end(stored.room_id)
        self._forget_idle()
        return loaded

    def _with_sequencer(self, room: Room) -> LoadedRoom:
        known = room.head_event_id is None or not room.is_hub or room.room_id in self._confirmed
        first = None if known else self._before_the_first
        return LoadedRoom(
            room, Sequencer(room, self._database, self._store, self._clock, self._metrics, self._committed, first)
        )

    async def _before_the_first(self, room: Room) -> None:
        # Once in a life of ours, however often the room is forgotten and loaded.
        self._confirmed.add(room.room_id)
        if self._confirm is not None:
            await self._confirm(room)

    def _forget_idle(self) -> None:
        excess = len(self._loaded) - self._limit
        if excess <= 0:
            return
        for room_id, loaded in list(self._loaded.items())[:-1]:
            if excess <= 0:
                break
            if not loaded.sequencer.busy:
                del self._loaded[room_id]
                excess -= 1


class Entrance:
    """The right to create or join a room, until the ``with`` block ends."""

    def __init__(self, rooms: Rooms, room_id: str) -> None:
        self._rooms = rooms
        self._room_id = room_id

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._rooms.leave_entrance(self._room_id)


def room_of(stored: StoredRoom, server_name: str) -> Room:
    """The in-memory room of a stored one.

    Raises:
        UnsupportedRoomVersion: see :meth:`Rooms.load`.
    """
    version = room_version(stored.room_version)
    state = StateMap()
    for event in stored.state:
        state.set(StateEvent.from_pdu(Pdu.from_canonical(event.canonical, version), event.position))
    return Room(
        room_id=stored.room_id,
        version=version,
        server_name=server_name,
        state=state,
        head_position=stored.head_position,
        head_event_id=stored.head_event_id,
        first_position=stored.first_position,
        joined_per_server=count_joined(event for _, event in state.items()),
    )
