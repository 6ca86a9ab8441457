"""Telling a room what a user of ours is called now (Client-Server API v1.11, "Events on Change of Profile
Information").

Owns: :class:`Renamer`, and :class:`Departures`, which of our users are on their way out of rooms of other hubs.
Invariant: a member event that is meant to change a name never lets anybody in: it is made only for a user who is joined
when its turn comes, and for none who has asked to leave before, whether or not the room knows of that yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from lmatrix.canonical_json import parse_object
from lmatrix.errors import WrongServer
from lmatrix.events.state import StateView
from lmatrix.rooms.asking import Asker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, MemberProfiles, PendingLpduStore
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.policy import Policies, ProposedEvent
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.room import RoomDraft
from lmatrix.rooms.sequencing import LocalEvent, take_local
from lmatrix.rooms.timestamps import Timestamps

MEMBER = "m.room.member"
NAMES = ("displayname", "avatar_url")
MAX_DEPARTURES = 10_000


class Departures:
    """Local users who have asked to leave rooms of other hubs, or whom others of ours are removing from them.

    The hub's answer ends an LPDU's wait in the outbox, and may come long before the event itself: in between nothing
    else here shows that the user is gone. The oldest are forgotten when there are very many.
    """

    def __init__(self) -> None:
        self._under_way: OrderedDict[tuple[str, str], None] = OrderedDict()

    def note(self, room_id: str, user_id: str, membership: object) -> None:
        """A member event about a user is about to be sent; only one that ends a membership counts."""
        if membership not in ("leave", "ban"):
            return
        self._under_way[room_id, user_id] = None
        self._under_way.move_to_end((room_id, user_id))
        while len(self._under_way) > MAX_DEPARTURES:
            self._under_way.popitem(last=False)

    def undo(self, room_id: str, user_id: str) -> None:
        """The user stays, or comes back."""
        self._under_way.pop((room_id, user_id), None)

    def under_way(self, room_id: str, user_id: str) -> bool:
        """Whether a user is on the way out."""
        return (room_id, user_id) in self._under_way


class Renamer:
    """Renames users in rooms.

    Args:
        identity: who signs.
        rooms, outbox, asker: the way into the room, whoever its hub is.
        database, pending: what waits for other hubs.
        profiles: what users are called.
        policies: whether the event may be sent.
        departures: who is on the way out.
        timestamps: time of events.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        outbox: Outbox,
        asker: Asker,
        *,
        database: Database,
        pending: PendingLpduStore,
        profiles: MemberProfiles,
        policies: Policies,
        departures: Departures,
        timestamps: Timestamps,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._outbox = outbox
        self._asker = asker
        self._database = database
        self._pending = pending
        self._profiles = profiles
        self._policies = policies
        self._departures = departures
        self._timestamps = timestamps

    async def rename(self, room_id: str, user_id: str) -> None:
        """Send a new member event, when the room calls a local user otherwise than the user's profile does now.

        Does nothing for a user who is not in the room, or not for long any more.

        Raises:
            Forbidden: a policy does not allow it.
            EventRejected, SendFailed: the room does not take it, or its hub has not answered yet.
        """
        await self._policies.check_room(room_id)
        loaded = await self._rooms.loaded(room_id)
        called = await self._database.read(lambda tx: self._profiles.member_fields(tx, user_id))
        if loaded is None or not loaded.room.is_participating:
            return
        if not _has_another_name(loaded.room.state, user_id, called):
            return
        content = {"membership": "join", **called}
        await self._policies.check_event(
            ProposedEvent(
                room_id=room_id,
                type=MEMBER,
                sender=user_id,
                state_key=user_id,
                content=content,
                origin=self._identity.server_name,
            )
        )
        while loaded.room.is_hub:
            event = LocalEvent(MEMBER, user_id, content, self._timestamps.next(user_id), user_id)

            def decide(draft: RoomDraft, event: LocalEvent = event) -> None:
                # What was queued before, the user's own leave perhaps, has been decided by now.
                if _has_another_name(draft.state, user_id, called):
                    take_local(draft, event, self._identity)

            try:
                await loaded.sequencer.submit(decide)
            except WrongServer:
                # The room moved while this waited its turn: it goes to whoever is the hub now.
                continue
            return
        if await self._is_leaving(room_id, user_id):
            return
        hub_server = loaded.room.hub_server
        lpdu = self._asker.signed(hub_server, loaded.room.version, room_id, user_id, content)
        await self._outbox.send(lpdu, hub_server, None)

    async def _is_leaving(self, room_id: str, user_id: str) -> bool:
        """Whether an end of the membership has been sent, or waits to be. What begins later is sent later."""
        pending = await self._database.read(lambda tx: self._pending.for_room(tx, room_id))
        for one in pending:
            lpdu = parse_object(one.canonical)
            if lpdu["type"] == MEMBER and lpdu.get("state_key") == user_id and not _joins(lpdu["content"]):
                return True
        return self._departures.under_way(room_id, user_id)


def _has_another_name(state: StateView, user_id: str, called: Mapping[str, Any]) -> bool:
    """Whether a user is joined, and not called so."""
    member = state.get(MEMBER, user_id)
    if member is None or not _joins(member.content):
        return False
    return {name: member.content[name] for name in NAMES if name in member.content} != called


def _joins(content: Mapping[str, Any]) -> bool:
    return content.get("membership") == "join"
