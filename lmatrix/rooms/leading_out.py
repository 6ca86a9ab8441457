"""Leading local users out of rooms that have been blocked, and declining invites that a policy refuses.

Owns: :class:`LeadingOut`. When a room is blocked, every user of ours leaves it, by an ordinary ``m.room.member`` event,
and invites into it and knocks on it end (I-D "Spam Prevention"). A hub whose last user leaves so gives the room away,
if there is somebody to take it. An invite that came with the events of a room that this server is in could not be
refused beforehand; it is declined at once (I-D "User Privacy").

Invariant: only a plain refusal has such consequences, never a policy that gave no answer.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger

from lmatrix.errors import Forbidden, LMatrixError, ShuttingDown, Undecided, UnsupportedRoomVersion
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database, InviteStore, RoomStore
from lmatrix.rooms.policy import Invite, Policies, is_invite
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.room import Room
from lmatrix.rooms.sequencer import Commit

AT_ONE_TIME = 20
"""Users that leave at one time."""

_INSIDE = ("join", "invite", "knock")


class Leaves(Protocol):
    """See :class:`lmatrix.rooms.local_users.LocalUsers`."""

    async def leave(self, user_id: str, room_id: str, reason: str | None) -> None: ...


class LeadingOut:
    """Leads users out.

    Args:
        policies: say which rooms are blocked, and which invites are refused.
        rooms: the rooms.
        users: leave.
        database, store, invites: where rooms, invites and knocks are found.
    """

    log = Logger()

    def __init__(
        self,
        policies: Policies,
        rooms: Rooms,
        users: Leaves,
        database: Database,
        store: RoomStore,
        invites: InviteStore,
    ) -> None:
        self._policies = policies
        self._rooms = rooms
        self._users = users
        self._database = database
        self._store = store
        self._invites = invites
        self._slots = DeferredSemaphore(AT_ONE_TIME)

    def sweep_soon(self) -> None:
        """Begin to lead everybody out of the rooms that are blocked now; nobody waits for it."""
        self._by_itself(self.sweep())

    async def sweep(self) -> None:
        """Lead everybody out of the rooms that are blocked now.

        Raises:
            StorageFailed, Overloaded, ShuttingDown: which rooms there are could not be read.
        """

        def look(tx: Any) -> tuple[list[str], list[tuple[str, str]]]:
            return list(self._store.rooms_of_server(tx)), list(self._invites.all_pending(tx))

        if not self._policies.blocks_rooms:
            return
        room_ids, pending = await self._database.read(look)
        blocked = {
            room_id
            for room_id in dict.fromkeys([*room_ids, *(room_id for _, room_id in pending)])
            if await self._is_refused(self._policies.check_room(room_id))
        }
        leaving = [one for one in pending if one[1] in blocked]
        for room_id in room_ids:
            if room_id in blocked:
                leaving += [(user_id, room_id) for user_id in await self._inside(room_id)]
        if leaving:
            self.log.info("{count} users are led out of blocked rooms", count=len(leaving))
        await DeferredList(
            [self._slots.run(self._lead_out, user_id, room_id) for user_id, room_id in dict.fromkeys(leaving)],
            consumeErrors=True,
        )

    def committed(self, commit: Commit) -> None:
        """After a commit: invites of our users that came with it are held against the policies."""
        room = commit.room
        if room.is_hub:
            return  # asked before they were let in
        for appended in commit.draft.events:
            pdu = appended.pdu
            if is_invite(pdu) and pdu.state_key is not None and server_of(pdu.state_key) == room.server_name:
                self._by_itself(self._consider(room, Invite.of(pdu, room.hub_server)))

    async def _consider(self, room: Room, invite: Invite) -> None:
        refused = await self._is_refused(self._policies.check_invite(invite))
        if refused and room.membership(invite.invitee) == "invite":
            self.log.info(
                "{room_id}: the invite of {user_id} by {inviter} is declined",
                room_id=room.room_id,
                user_id=invite.invitee,
                inviter=invite.inviter,
            )
            await self._lead_out(invite.invitee, room.room_id)

    async def _is_refused(self, question: Coroutine[Any, Any, None]) -> bool:
        try:
            await question
        except Undecided:
            return False
        except Forbidden:
            return True
        return False

    async def _inside(self, room_id: str) -> list[str]:
        try:
            room = await self._rooms.load(room_id)
        except UnsupportedRoomVersion:
            return []
        if room is None or not room.is_participating:
            return []
        return [
            member.state_key
            for member in room.state.members()
            if member.content.get("membership") in _INSIDE and server_of(member.state_key) == room.server_name
        ]

    async def _lead_out(self, user_id: str, room_id: str) -> None:
        try:
            await self._users.leave(user_id, room_id, None)
        except ShuttingDown:
            return
        except LMatrixError as error:
            # A leave that waits for its hub is kept and sent; whatever else it is, the next start tries again.
            self.log.warn(
                "{room_id}: {user_id} has not left yet: {error}", room_id=room_id, user_id=user_id, error=error
            )

    def _by_itself(self, work: Coroutine[Any, Any, None]) -> None:
        def failed(failure: Any) -> None:
            if not failure.check(ShuttingDown):
                self.log.failure("users could not be led out of a room", failure=failure)

        Deferred.fromCoroutine(work).addErrback(failed)
