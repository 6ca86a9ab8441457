"""Local users change their profiles, and the rooms that they are in are told (Client-Server API v1.11, "Profiles",
"Events on Change of Profile Information").

Owns: :class:`ProfileChanges`. A change is answered for when it is on disk. What follows, a new member event in each
room that the user is joined to, is done beside that, and marked as done only afterwards: a restart takes it up again.

Invariants: of one user's changes the last counts, however many come while the rooms are being told; what fails in one
room is logged, and keeps no other room from being told; so many rooms at a time are told and no more.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.directory.interfaces import Memberships, ProfileStore, Renames
from lmatrix.errors import LMatrixError, Overloaded, ShuttingDown, StorageFailed, Undecided
from lmatrix.rooms.interfaces import Database

MAX_AT_ONCE = 10
"""Rooms that are being told at one time."""

RETRY_S = 60.0
"""When the rooms are told again, if some could not take anything just then."""


class ProfileChanges:
    """Changes profiles.

    Args:
        database, store: the profiles.
        memberships: where their users are.
        renamer: tells a room.
        clock: for trying again.
    """

    log = Logger()

    def __init__(
        self,
        *,
        database: Database,
        store: ProfileStore,
        memberships: Memberships,
        renamer: Renames,
        clock: IReactorTime,
    ) -> None:
        self._database = database
        self._store = store
        self._memberships = memberships
        self._renamer = renamer
        self._clock = clock
        self._slots = DeferredSemaphore(MAX_AT_ONCE)
        self._telling: set[str] = set()
        self._retries: dict[str, IDelayedCall] = {}
        self._stopped = False

    async def set_field(self, user_id: str, name: str, value: str | None) -> None:
        """Change a local user's display name or avatar; returns when that is on disk.

        Args:
            name: one of :data:`~lmatrix.directory.profiles.FIELDS`.
            value: ``None`` or ``""``: none from now on.

        Raises:
            InvalidParam: the value is too long.
        """

        def work(tx: Any) -> bool:
            profile = self._store.profile(tx, user_id).with_field(name, value)
            return self._store.put_profile(tx, user_id, profile)

        if await self._database.write(work):
            self._tell(user_id)

    async def resume(self) -> None:
        """At start: go on with what was not finished."""
        for user_id in await self._database.read(self._store.users_unannounced):
            self._tell(user_id)

    async def stop(self) -> None:
        """Begin nothing more; what is not finished is taken up at the next start."""
        self._stopped = True
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()

    def _tell(self, user_id: str) -> None:
        """Have the rooms told. Whoever is doing so already looks again when it is done."""
        if self._stopped or user_id in self._telling:
            return
        retry = self._retries.pop(user_id, None)
        if retry is not None:
            retry.cancel()
        self._telling.add(user_id)
        Deferred.fromCoroutine(self._tell_rooms(user_id)).addBoth(self._told, user_id)

    def _told(self, result: bool | Failure, user_id: str) -> None:
        self._telling.discard(user_id)
        if isinstance(result, Failure) and not result.check(ShuttingDown):
            self.log.failure("{user_id}: the rooms are not told of the profile", failure=result, user_id=user_id)
        if result is not True and not self._stopped:
            self._retries[user_id] = self._clock.callLater(RETRY_S, self._retry, user_id)

    def _retry(self, user_id: str) -> None:
        del self._retries[user_id]
        self._tell(user_id)

    async def _tell_rooms(self, user_id: str) -> bool:
        """Tell the rooms until there is no news; whether all of them have taken it, or refused it for good."""

        def look(tx: Any) -> tuple[int | None, Sequence[str]]:
            change = self._store.unannounced(tx, user_id)
            return change, () if change is None else self._memberships.joined_rooms(tx, user_id)

        while not self._stopped:
            change, rooms = await self._database.read(look)
            if change is None:
                return True
            results = await DeferredList(
                [self._slots.run(self._tell_room, user_id, room_id) for room_id in rooms], consumeErrors=True
            )
            if not all(self._is_done(user_id, *entry) for entry in zip(rooms, results, strict=True)):
                return False
            await self._database.write(partial(self._store.announced, user_id=user_id, change=change))
        return False

    def _is_done(self, user_id: str, room_id: str, result: tuple[bool, Any]) -> bool:
        """Whether there is nothing more to do for a room, which may have refused the event."""
        succeeded, failure = result
        if succeeded:
            return True
        if failure.check(LMatrixError):
            self.log.warn(
                "{room_id}: the new profile of {user_id} is not told: {error}",
                room_id=room_id,
                user_id=user_id,
                error=failure.value,
            )
            return failure.check(Overloaded, StorageFailed, ShuttingDown, Undecided) is None
        self.log.failure(
            "{room_id}: the new profile of {user_id} is not told", failure=failure, room_id=room_id, user_id=user_id
        )
        return True

    def _tell_room(self, user_id: str, room_id: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._rename(user_id, room_id))

    async def _rename(self, user_id: str, room_id: str) -> None:
        if self._stopped:
            raise ShuttingDown("the server is stopping")
        await self._renamer.rename(room_id, user_id)
