"""What another server gets to see of a room's events (I-D "Calculating Event Visibility").

Owns: deciding for one server and one event: whole, redacted, or no sign that it exists.

*Whole*: some user of the server may see the event by the room's history visibility (Matrix's rules), or the event is
by, or about, one of its users, or the server itself put it into the room, as its hub, or it is being offered the room,
and will have to show it to others. *Redacted*: a user of the server was or became a member of the room after the event,
so that the server may know that there is an event, but none of them may see what is in it. *Nothing*: everything else.

Invariants: a rejected event is never handed out; one that soft-failed only as its redacted copy, which the chain
needs; an event without a place in our log is not handed out. What a participant fetched later it hands out only to
the servers of those whom it concerns, because it cannot know who was in the room then. The hub can.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum
from typing import Any

import attrs

from lmatrix.events.forms import Pdu
from lmatrix.events.redaction import redact
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.visibility import HISTORY_VISIBILITY, Visibility, server_may_see, visibility_at, visibility_of
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import RoomStore, Standing, StoredEvent
from lmatrix.rooms.room import Room

MEMBER = "m.room.member"


class Sight(Enum):
    """What a server gets of an event."""

    WHOLE = "whole"
    REDACTED = "redacted"
    NOTHING = "nothing"


@attrs.frozen(slots=True)
class Asker:
    """A server that asks about a room, and what the room says of it. Made in the reactor thread, used off it.

    Attributes:
        server: its name.
        users: its users who have, or ever had, a membership in the room.
        joined_now: whether one of them is joined.
        room_id, version: the room.
        holds_everything: whether this server knows the state at every event that it holds, as the hub does.
        takes_over: whether the asker is about to become the hub, with our consent.
        held: whether this server may have forgotten some of the room.
    """

    server: str
    users: tuple[str, ...]
    joined_now: bool
    room_id: str
    version: RoomVersion
    holds_everything: bool
    takes_over: bool = False
    held: bool = False

    @classmethod
    def of(cls, server: str, room: Room, *, takes_over: bool = False) -> Asker:
        """The server as the room knows it now."""
        return cls(
            server,
            tuple(event.state_key for event in room.state.members() if server_of(event.state_key) == server),
            room.joined_per_server[server] > 0,
            room.room_id,
            room.version,
            room.is_hub,
            takes_over,
            room.held,
        )


class View:
    """A room as one server may see it, within one read.

    Args:
        tx: the transaction to read in.
        store: the room's log and state.
        asker: who looks.
    """

    def __init__(self, tx: Any, store: RoomStore, asker: Asker) -> None:
        self._tx = tx
        self._store = store
        self._asker = asker
        self._visibilities: list[tuple[int, Visibility]] | None = None
        self._memberships: list[list[tuple[int, str]]] | None = None

    @property
    def held(self) -> bool:
        """Whether the room's log may lack something."""
        return self._asker.held

    def pdu(self, stored: StoredEvent) -> Pdu:
        """The stored event, read."""
        return Pdu.from_canonical(stored.canonical, self._asker.version, stored.event_id)

    def sight(self, stored: StoredEvent, pdu: Pdu) -> Sight:
        """What the asker gets of an event of the room."""
        asker = self._asker
        if stored.standing is Standing.REJECTED or stored.position == 0:
            return Sight.NOTHING
        by_them = pdu.sender_server == asker.server
        about_them = pdu.type == MEMBER and pdu.state_key is not None and server_of(pdu.state_key) == asker.server
        made_by_them = pdu.hub_server == asker.server
        sight = Sight.WHOLE if by_them or about_them or made_by_them else self.sight_as_member(stored, pdu)
        return Sight.REDACTED if sight is Sight.WHOLE and stored.standing is Standing.SOFT_FAILED else sight

    def sight_as_member(self, stored: StoredEvent, pdu: Pdu) -> Sight:
        """What the asker gets by the room's history visibility alone.

        This is what opens the room's state: an invite is its target's to see, and the room that it is for is not.
        """
        asker, position = self._asker, stored.position
        if stored.standing is Standing.REJECTED or position == 0:
            return Sight.NOTHING
        if asker.takes_over:
            return Sight.WHOLE
        if stored.stream is None and not asker.holds_everything:
            return Sight.NOTHING
        visibility = visibility_at(pdu.type, pdu.state_key, pdu.content, self._visibility_before(position))
        # Most rooms are shared and most who ask are members: that needs no look at their history.
        if server_may_see(pdu.type, visibility, (), asker.joined_now):
            return Sight.WHOLE
        at_the_event, joined_later = self._memberships_around(position)
        if server_may_see(pdu.type, visibility, at_the_event, joined_later):
            return Sight.WHOLE
        return Sight.REDACTED if joined_later else Sight.NOTHING

    def shown(self, stored: StoredEvent, pdu: Pdu, sight: Sight) -> bytes:
        """The event's canonical JSON, whole or redacted."""
        return stored.canonical if sight is Sight.WHOLE else redact(pdu).canonical

    def _visibility_before(self, position: int) -> Visibility:
        if self._visibilities is None:
            history = self._store.state_history(self._tx, self._asker.room_id, HISTORY_VISIBILITY, "")
            self._visibilities = [(event.position, visibility_of(self.pdu(event).content)) for event in history]
        index = bisect_left(self._visibilities, position, key=_position)
        return self._visibilities[index - 1][1] if index else visibility_of(None)

    def _memberships_around(self, position: int) -> tuple[set[str], bool]:
        """The memberships of the asker's users just before a position, and whether one joined at or after it."""
        if self._memberships is None:
            self._memberships = [self._memberships_of(user_id) for user_id in self._asker.users]
        before: set[str] = set()
        joined_later = False
        for memberships in self._memberships:
            index = bisect_left(memberships, position, key=_position)
            if index:
                before.add(memberships[index - 1][1])
            joined_later = joined_later or any(membership == "join" for _, membership in memberships[index:])
        return before, joined_later

    def _memberships_of(self, user_id: str) -> list[tuple[int, str]]:
        history = self._store.state_history(self._tx, self._asker.room_id, MEMBER, user_id)
        return [(event.position, str(self.pdu(event).content.get("membership"))) for event in history]


def _position(change: tuple[int, object]) -> int:
    return change[0]
