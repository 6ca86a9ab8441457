"""Who is typing (Client-Server and Server-Server API v1.11, "Typing Notifications").

Owns: :class:`TypingNotices`, all of it in memory, and :class:`TypingSnapshot`, what ``/sync`` sees of it. Invariants:
nobody types for ever without saying so again; what is kept is bounded, by room and over all; other servers are told at
best effort, and no more often than they need to be.

What clients were told is expressed by a *serial*, a number that grows with every change and goes on growing when the
server is started again (it begins with the time). So a serial of an earlier life is recognised: it is below
:attr:`TypingSnapshot.floor`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lmatrix.devices.background import in_background
from lmatrix.devices.edus import TypingNotice, typing_edu
from lmatrix.devices.interfaces import EduDelivery, RoomServers, SyncWaker

MAX_TIMEOUT_MS = 45_000
"""How long a local user types without saying so again, at most: less than other servers believe it."""

REMOTE_TIMEOUT_S = 60.0
"""How long a user of another server is believed to be typing."""

TELL_AGAIN_S = 20.0
"""How often other servers are told that somebody still types."""

MAX_IN_ROOM = 100
"""Users of whom it is known that they type, in one room,"""

MAX_OVERALL = 10_000
"""and in all of them."""

REMEMBERED_S = 600.0
"""For how long it is known of a room where nobody types when that began."""


@attrs.frozen(slots=True)
class TypingSnapshot:
    """Who is typing at one moment.

    Attributes:
        floor: serials below this say nothing: what changed since them is not known any more.
        serial: the last one.
        rooms: room ID → the serial of its last change, and the users, sorted. Rooms in which nothing changed since
            ``floor`` are not there.
    """

    floor: int
    serial: int
    rooms: Mapping[str, tuple[int, tuple[str, ...]]]


NOBODY_TYPES = TypingSnapshot(0, 0, {})


@attrs.define(slots=True, eq=False)
class _Typist:
    alarm: IDelayedCall
    told_at: float


@attrs.define(slots=True, eq=False)
class _Room:
    serial: int
    changed_at: float
    typists: dict[str, _Typist] = attrs.field(factory=dict)


class TypingNotices:
    """Keeps track of who is typing.

    Args:
        rooms: whom to tell.
        delivery: tells them.
        waker: wakes local clients.
        clock: for the time-outs.
        max_in_room, max_overall: see the constants of this module.
    """

    log = Logger()

    def __init__(
        self,
        rooms: RoomServers,
        delivery: EduDelivery,
        waker: SyncWaker,
        clock: IReactorTime,
        *,
        max_in_room: int = MAX_IN_ROOM,
        max_overall: int = MAX_OVERALL,
    ) -> None:
        self._room_servers = rooms
        self._delivery = delivery
        self._waker = waker
        self._clock = clock
        self._max_in_room = max_in_room
        self._max_overall = max_overall
        self._serial = self._floor = int(clock.seconds() * 1000)
        self._rooms: dict[str, _Room] = {}
        self._count = 0
        self._snapshot: TypingSnapshot | None = None

    def set_local(self, room_id: str, user_id: str, *, typing: bool, timeout_ms: int = MAX_TIMEOUT_MS) -> None:
        """A local user, who is in the room, says whether it types, and for how long."""
        typist = self._typist(room_id, user_id)
        now = self._clock.seconds()
        if not typing:
            if typist is not None:
                self._ended(room_id, user_id)
            return
        timeout_s = min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        fresh = self._begun(room_id, user_id, timeout_s)
        if fresh is None:
            return
        if typist is None or now - fresh.told_at >= TELL_AGAIN_S:
            fresh.told_at = now
            self._tell(TypingNotice(room_id, user_id, True))

    def heard(self, notice: TypingNotice) -> None:
        """Another server says so of its user, who is in the room."""
        if notice.typing:
            self._begun(notice.room_id, notice.user_id, REMOTE_TIMEOUT_S, tell=False)
        elif self._typist(notice.room_id, notice.user_id) is not None:
            self._ended(notice.room_id, notice.user_id, tell=False)

    def left(self, room_id: str, user_id: str) -> None:
        """The user is not in the room any more; everybody knows by that."""
        if self._typist(room_id, user_id) is not None:
            self._ended(room_id, user_id, tell=False)

    def snapshot(self) -> TypingSnapshot:
        """Who is typing now."""
        self._forget_old()
        if self._snapshot is None:
            rooms = {room_id: (room.serial, tuple(sorted(room.typists))) for room_id, room in self._rooms.items()}
            self._snapshot = TypingSnapshot(self._floor, self._serial, rooms)
        return self._snapshot

    def stop(self) -> None:
        """Leave no alarm behind."""
        for room in self._rooms.values():
            for typist in room.typists.values():
                typist.alarm.cancel()
        self._rooms.clear()
        self._snapshot = None
        self._count = 0

    def _typist(self, room_id: str, user_id: str) -> _Typist | None:
        room = self._rooms.get(room_id)
        return None if room is None else room.typists.get(user_id)

    def _begun(self, room_id: str, user_id: str, timeout_s: float, *, tell: bool = True) -> _Typist | None:
        """Somebody types, perhaps still. ``None``: there is no room for one more."""
        typist = self._typist(room_id, user_id)
        if typist is not None:
            typist.alarm.reset(timeout_s)
            return typist
        room = self._rooms.get(room_id)
        if self._count >= self._max_overall or (room is not None and len(room.typists) >= self._max_in_room):
            return None
        room = self._changed(room_id)
        # A server tells of its own users only: the others' tell themselves.
        typist = _Typist(self._clock.callLater(timeout_s, self._timed_out, room_id, user_id, tell), 0.0)
        room.typists[user_id] = typist
        self._count += 1
        self._waker.room_stirred(room_id)
        return typist

    def _timed_out(self, room_id: str, user_id: str, tell: bool) -> None:
        self._ended(room_id, user_id, tell=tell)

    def _ended(self, room_id: str, user_id: str, *, tell: bool = True) -> None:
        room = self._changed(room_id)
        alarm = room.typists.pop(user_id).alarm
        if alarm.active():
            alarm.cancel()
        self._count -= 1
        self._waker.room_stirred(room_id)
        if tell:
            self._tell(TypingNotice(room_id, user_id, False))

    def _changed(self, room_id: str) -> _Room:
        self._forget_old()
        self._snapshot = None
        self._serial += 1
        now = self._clock.seconds()
        room = self._rooms.pop(room_id, None) or _Room(self._serial, now)
        room.serial, room.changed_at = self._serial, now
        # Kept in the order of their changes, the oldest first.
        self._rooms[room_id] = room
        return room

    def _forget_old(self) -> None:
        oldest = self._clock.seconds() - REMEMBERED_S
        quiet = []
        for room_id, room in self._rooms.items():
            if room.changed_at >= oldest:
                break
            if not room.typists:
                quiet.append(room_id)
        if quiet:
            self._snapshot = None
        for room_id in quiet:
            self._floor = max(self._floor, self._rooms.pop(room_id).serial)

    def _tell(self, notice: TypingNotice) -> None:
        async def tell() -> None:
            edu = typing_edu(notice)
            for destination in await self._room_servers.destinations(notice.room_id):
                self._delivery.offer_edu(destination, f"typing {notice.room_id} {notice.user_id}", edu)

        in_background(tell(), self.log, f"{notice.room_id}: other servers are not told who is typing")
