"""Waking ``/sync`` requests that wait for something to happen.

Owns: :class:`Notifier`, the rooms' :class:`~lmatrix.rooms.interfaces.LocalAudience` and the devices'
:class:`~lmatrix.devices.interfaces.SyncWaker`, and its :class:`Listener`, one for each waiting request. Invariants: no
news is lost between a request's look into the database and its waiting, since it listens *before* it looks; nothing
that has already been seen wakes anybody (stream positions are compared); a listener that is closed leaves no trace;
there is a bound on how many there are.

Who is woken for news in a room: the listeners who have said that this room concerns them, and those who have not looked
into the database yet. A user whom an event brings *into* a room (an invite, a join from another device) cannot have
said so; for those the rooms name the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from lmatrix.errors import Overloaded

MAX_LISTENERS = 20_000
MAX_LISTENERS_OF_USER = 100
RETRY_AFTER_MS = 5_000


class Notifier:
    """Tells waiting requests that the stream advanced.

    Args:
        clock: for time-outs.
        max_listeners: bound on requests that wait at once.
        max_listeners_of_user: the same for one user.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        max_listeners: int = MAX_LISTENERS,
        max_listeners_of_user: int = MAX_LISTENERS_OF_USER,
    ) -> None:
        self._clock = clock
        self._max_listeners = max_listeners
        self._max_listeners_of_user = max_listeners_of_user
        self._count = 0
        self._by_user: dict[str, set[Listener]] = {}
        self._by_room: dict[str, set[Listener]] = {}
        self._undecided: set[Listener] = set()

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        """Something was committed. Never blocks, never raises.

        Args:
            stream: its stream position (the last one, of a batch).
            room_id: where.
            user_ids: whom it concerns; ``None`` for everybody in the room.
        """
        if user_ids is None:
            for listener in [*self._by_room.get(room_id, ()), *self._undecided]:
                listener.heard(stream, room_id)
            return
        self.users_advanced(stream, user_ids)

    def users_advanced(self, stream: int, user_ids: Iterable[str]) -> None:
        """Something for these users was committed. Never blocks, never raises."""
        for user_id in user_ids:
            for listener in list(self._by_user.get(user_id, ())):
                listener.heard(stream, None)

    def room_stirred(self, room_id: str) -> None:
        """Something happened in a room that has no place in the stream. Never blocks, never raises."""
        for listener in [*self._by_room.get(room_id, ()), *self._undecided]:
            listener.stirred()

    def listen(self, user_id: str) -> Listener:
        """Begin to listen, as a context manager. Raises :class:`Overloaded` beyond the bounds."""
        of_user = self._by_user.setdefault(user_id, set())
        if self._count >= self._max_listeners or len(of_user) >= self._max_listeners_of_user:
            if not of_user:
                del self._by_user[user_id]
            raise Overloaded(RETRY_AFTER_MS, "Too many requests are waiting for news.")
        listener = Listener(self, self._clock, user_id)
        of_user.add(listener)
        self._undecided.add(listener)
        self._count += 1
        return listener

    @property
    def listening(self) -> int:
        """How many requests listen."""
        return self._count

    def _decided(self, listener: Listener, before: frozenset[str], after: frozenset[str]) -> None:
        self._undecided.discard(listener)
        for room_id in before - after:
            self._leave_room(listener, room_id)
        for room_id in after - before:
            self._by_room.setdefault(room_id, set()).add(listener)

    def _leave_room(self, listener: Listener, room_id: str) -> None:
        listeners = self._by_room[room_id]
        listeners.discard(listener)
        if not listeners:
            del self._by_room[room_id]

    def _closed(self, listener: Listener, rooms: frozenset[str]) -> None:
        self._count -= 1
        self._undecided.discard(listener)
        for room_id in rooms:
            self._leave_room(listener, room_id)
        of_user = self._by_user[listener.user_id]
        of_user.discard(listener)
        if not of_user:
            del self._by_user[listener.user_id]


class Listener:
    """One waiting request. Made by :meth:`Notifier.listen` only; use it in a ``with`` block."""

    def __init__(self, notifier: Notifier, clock: IReactorTime, user_id: str) -> None:
        self.user_id = user_id
        self._notifier = notifier
        self._clock = clock
        self._rooms: frozenset[str] = frozenset()
        self._decided = False
        self._heard_by_room: dict[str, int] = {}
        self._heard_for_user = -1
        self._stirred = False
        self._seen = -1
        self._waiting: Deferred[bool] | None = None
        self._open = True

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open:
            self._open = False
            self._notifier._closed(self, self._rooms)

    def heard(self, stream: int, room_id: str | None) -> None:
        """News: in a room, or (``None``) about the user."""
        if room_id is None:
            self._heard_for_user = max(self._heard_for_user, stream)
        else:
            self._heard_by_room[room_id] = max(self._heard_by_room.get(room_id, -1), stream)
        if self._has_news():
            self._wake(True)

    def stirred(self) -> None:
        """News that has no place in the stream."""
        self._stirred = True
        if self._has_news():
            self._wake(True)

    def looks(self) -> None:
        """The request begins to look at what there is: whatever has been stirred until now, it will see."""
        self._stirred = False

    def seen(self, stream: int, rooms: Iterable[str]) -> None:
        """The request has looked into the database.

        Args:
            stream: up to where it saw everything.
            rooms: the rooms that concern this user as of then.
        """
        after = frozenset(rooms)
        self._notifier._decided(self, self._rooms, after)
        self._rooms = after
        self._decided = True
        self._seen = stream
        self._heard_by_room = {
            room_id: heard for room_id, heard in self._heard_by_room.items() if room_id in after and heard > stream
        }

    async def wait(self, seconds: float) -> bool:
        """Wait for news later than what was :meth:`seen`, which must have been called.

        Returns:
            whether there are any; ``False`` after the time-out. Cancelling is allowed.
        """
        if self._has_news():
            return True
        if seconds <= 0:
            return False
        waiting: Deferred[bool] = Deferred()
        self._waiting = waiting
        timer = self._clock.callLater(seconds, self._wake, False)
        try:
            return await waiting
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()

    def _has_news(self) -> bool:
        if not self._decided:
            return False
        if self._stirred or self._heard_for_user > self._seen:
            return True
        return any(heard > self._seen for heard in self._heard_by_room.values())

    def _wake(self, news: bool) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.called:
            self._waiting = None
            waiting.callback(news)
