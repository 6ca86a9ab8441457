"""A room in memory: what must be known to take its next event.

Owns: :class:`Room`, the state after the last committed event, and :class:`RoomDraft`, the same after events that are
not committed yet. Invariants: a :class:`Room` changes only by :meth:`RoomDraft.apply`, after the draft's events are
on disk; a draft never touches its room before that; every event that a draft takes while this server is the hub names
the one before it as its only predecessor.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

import attrs

from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.state import StateEvent, StateMap, StateOverlay
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import AppendedEvent, LogEntry, LogGrowth, RoomAppend, SpanChange, Standing
from lmatrix.rooms.redactions import Redaction, redaction_by

RECENT_LPDUS = 4096
"""How many of a room's last (sender, LPDU hash) pairs are remembered, for duplicates that the database cannot show
yet.
"""


@attrs.define(eq=False, slots=True)
class Room:
    """The state of one room after its last committed event.

    Attributes:
        room_id: the room.
        version: its room version.
        server_name: this server's name (its own users are not "destinations").
        state: current state.
        head_position: position of the last event; the position before the first one when there is none.
        head_event_id: its event ID, ``None`` when the room has no event yet.
        first_position: position of the current run's first event.
        joined_per_server: number of joined users of each server that has any.
        recent_lpdus: event ID for the last (sender, LPDU hash) pairs, oldest first.
        held: others may hold more of the room than we do: as the hub, we put nothing new into it.
    """

    room_id: str
    version: RoomVersion
    server_name: str
    state: StateMap
    head_position: int
    head_event_id: str | None
    first_position: int
    joined_per_server: Counter[str] = attrs.field(factory=Counter)
    recent_lpdus: OrderedDict[tuple[str, str], str] = attrs.field(factory=OrderedDict)
    held: bool = False

    @property
    def hub_server(self) -> str:
        """The current hub's server name."""
        return self.version.hub_server(self.state)

    @property
    def is_hub(self) -> bool:
        """Whether this server is the hub."""
        return self.hub_server == self.server_name

    @property
    def is_participating(self) -> bool:
        """Whether this server takes part: as the hub, or with at least one joined user."""
        return self.joined_per_server[self.server_name] > 0 or self.is_hub

    def membership(self, user_id: str) -> str:
        """A user's membership; ``"leave"`` where there is no event (I-D "m.room.member")."""
        return membership_of(self.state.get("m.room.member", user_id))

    def destinations(self) -> set[str]:
        """Every other server with a joined user."""
        return {
            server for server, joined in self.joined_per_server.items() if joined > 0 and server != self.server_name
        }


class RoomDraft:
    """A room as it will be once some events are committed.

    Args:
        room: the room as it is on disk.

    Attributes:
        joins, leaves: users who are joined by this draft and were not before, and the reverse.
        new_servers: servers with a joined user by this draft, and none before.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self.state = StateOverlay(room.state)
        self.head_position = room.head_position
        self.head_event_id = room.head_event_id
        self.events: list[AppendedEvent] = []
        self.extra_destinations: set[str] = set()
        self.joins: set[str] = set()
        self.leaves: set[str] = set()
        self.new_servers: set[str] = set()
        self._joined: Counter[str] = Counter()
        self._spans: list[SpanChange] = []
        self._lpdus: dict[tuple[str, str], str] = {}
        self.was_hub = room.head_event_id is None or room.is_hub
        self.hub_before = room.server_name if room.head_event_id is None else room.hub_server

    @property
    def version(self) -> RoomVersion:
        """The room's version."""
        return self.room.version

    @property
    def hub_server(self) -> str:
        """The hub as of this draft."""
        return self.version.hub_server(self.state)

    def prev_events(self) -> tuple[str, ...]:
        """What the next event must name as its predecessor: the head, or nothing in an empty room."""
        return () if self.head_event_id is None else (self.head_event_id,)

    def known_lpdu(self, sender: str, lpdu_hash: str) -> str | None:
        """Event ID of the event already made from this LPDU, as far as memory reaches."""
        key = (sender, lpdu_hash)
        return self._lpdus.get(key) or self.room.recent_lpdus.get(key)

    def joined(self, server: str) -> int:
        """How many joined users a server has as of this draft."""
        return self.room.joined_per_server[server] + self._joined[server]

    @property
    def own_users_left(self) -> bool:
        """Whether this server has fewer joined users by this draft."""
        return self._joined[self.room.server_name] < 0

    def append(self, pdu: Pdu, standing: Standing = Standing.ACCEPTED) -> AppendedEvent:
        """Take an event as the next one. The caller has verified and authorised it.

        A rejected event holds its place in the chain, and changes nothing else.
        """
        position = self.head_position + 1
        redaction: Redaction | None = None
        if standing is not Standing.REJECTED:
            redaction = redaction_by(pdu, self.state)
            if redaction is not None:
                self._redact_state(redaction)
        lpdu_hash = pdu.lpdu_hash
        appended = AppendedEvent(
            position=position,
            pdu=pdu,
            standing=standing,
            lpdu_hash=lpdu_hash,
            redacts=redaction.target if redaction else None,
            redact=redaction.apply if redaction else None,
        )
        if pdu.state_key is not None and standing is not Standing.REJECTED:
            if pdu.type == "m.room.member":
                self._membership_changes(pdu, position)
            was_hub = self._is_hub()
            self.state.set(StateEvent.from_pdu(pdu, position))
            if pdu.prev_events and self._is_hub() is not was_hub:
                self._hub_changes(position, becomes_hub=not was_hub)
        if lpdu_hash is not None:
            self._lpdus[(pdu.sender, lpdu_hash)] = pdu.event_id
        self.events.append(appended)
        self.head_position = position
        self.head_event_id = pdu.event_id
        return appended

    def _membership_changes(self, pdu: Pdu, position: int) -> None:
        user_id = pdu.state_key
        assert user_id is not None  # noqa: S101 - narrowed by the caller
        server = server_of(user_id)
        before = membership_of(self.state.get("m.room.member", user_id))
        after = pdu.content.get("membership")
        was_joined, is_joined = before == "join", after == "join"
        if is_joined and not was_joined:
            if self.joined(server) == 0:
                self._span(server, position, opened=True)
                self.new_servers.add(server)
            self._joined[server] += 1
            self.joins.add(user_id)
            self.leaves.discard(user_id)
        elif was_joined and not is_joined:
            self._joined[server] -= 1
            self.leaves.add(user_id)
            self.joins.discard(user_id)
            if self.joined(server) == 0:
                self._span(server, position, opened=False)
                self.extra_destinations.add(server)
                self.new_servers.discard(server)
        elif pdu.sender != user_id and before in ("invite", "knock") and self.joined(server) == 0:
            # The I-D's fan-out rule: a kick or ban reaches the server of its target, which is owed just this event.
            self._span(server, position, opened=True)
            self._span(server, position, opened=False)
            self.extra_destinations.add(server)

    def _hub_changes(self, position: int, *, becomes_hub: bool) -> None:
        """Both hubs owe the log up to, or from, and including the change: whichever of the two is heard first, nobody
        goes on asking the old one.
        """
        servers = self.room.joined_per_server.keys() | self._joined.keys()
        for server in sorted(servers - {self.room.server_name}):
            if self.joined(server) > 0:
                self._spans.append(SpanChange(server, position, opened=becomes_hub))

    def _span(self, server: str, position: int, *, opened: bool) -> None:
        # Only a hub owes its room's events to others.
        if server != self.room.server_name and self._is_hub():
            self._spans.append(SpanChange(server, position, opened))

    def _is_hub(self) -> bool:
        return self.state.get("m.room.create") is not None and self.hub_server == self.room.server_name

    def _redact_state(self, redaction: Redaction) -> None:
        changes = self.state.changes
        for (event_type, state_key), current in self.room.state.items():
            if current.event_id == redaction.target and (event_type, state_key) not in changes:
                self._redact_current(redaction, current)
                return
        for current in list(changes.values()):
            if current.event_id == redaction.target:
                self._redact_current(redaction, current)
                return

    def _redact_current(self, redaction: Redaction, current: StateEvent) -> None:
        if redaction.permits(current.sender):
            self.state.set(redaction.redacted_state(self.version, current))

    def as_append(self) -> RoomAppend:
        """The effect of this draft, for the store."""
        return RoomAppend(self.room.room_id, tuple(self.events), tuple(self._spans))

    def destinations(self) -> set[str]:
        """Every server that is owed some of this draft's events, when this server is the hub."""
        owed = self.room.destinations() | self.extra_destinations
        owed.update(server for server, change in self._joined.items() if change and self.joined(server) > 0)
        owed.discard(self.room.server_name)
        return owed

    def growth(self) -> LogGrowth | None:
        """What this draft adds to the log, as told to the servers that take part; ``None`` when it also changes who is
        owed what, or events that are there already.
        """
        if not self.events or self._spans or not self.was_hub:
            return None
        if any(appended.redact is not None for appended in self.events):
            return None
        entries = [LogEntry(one.position, one.pdu.event_id, one.pdu.canonical) for one in self.events]
        return LogGrowth(self.room.room_id, self.version.outbound_paths, entries)

    def apply(self) -> None:
        """Make the room what this draft says. To be called once, after the commit."""
        room = self.room
        self.state.apply_to(room.state)
        room.head_position = self.head_position
        room.head_event_id = self.head_event_id
        for server, change in self._joined.items():
            room.joined_per_server[server] += change
            if room.joined_per_server[server] <= 0:
                del room.joined_per_server[server]
        room.recent_lpdus.update(self._lpdus)
        while len(room.recent_lpdus) > RECENT_LPDUS:
            room.recent_lpdus.popitem(last=False)


def membership_of(event: StateEvent | None) -> str:
    """The membership that a member event gives; ``"leave"`` for none or for nonsense."""
    if event is None:
        return "leave"
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else "leave"


def count_joined(state: Iterable[StateEvent]) -> Counter[str]:
    """Number of joined users of each server."""
    return Counter(
        server_of(event.state_key)
        for event in state
        if event.type == "m.room.member" and event.content.get("membership") == "join"
    )
