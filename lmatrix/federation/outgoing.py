"""What goes into the next transaction to a destination (I-D "PUT /send/:txnId"; PROTOCOL notes 1 and 4).

Owns: choosing, in one read, from what a destination is owed: events of the rooms' logs, pending LPDUs, EDUs. Nothing is
changed here, and nothing but the transaction and immutable values is touched: it runs off the reactor thread.

Invariants: at most 50 events and 100 EDUs in a transaction; events of a room in the room's order, LPDUs of a room in
the order in which they were sent; one form of path for the whole transaction; an LPDU whose room version takes only
one in a transaction travels with no other event; no room waits for ever behind a busy one, since each gets an equal
share and the next transaction begins where the last one ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from itertools import islice, takewhile
from typing import Any

import attrs

from lmatrix import canonical_json
from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.room_versions import PathForm, room_version
from lmatrix.rooms.delivery_store import DeliveryStore, DestinationState
from lmatrix.rooms.interfaces import JsonObject, PendingLpdu, PendingLpduStore, RoomStore, StoredEvent

MAX_EVENTS = 50
"""Events in one transaction (I-D: "MUST NOT be more than 50 entries in ``pdus``")."""

MAX_EDUS = 100
"""EDUs in one transaction (I-D: "MUST NOT be more than 100 entries in ``edus``")."""

_PENDING_PAGE = 200
_AFTER_EVERYTHING = 2**62


class Kind(Enum):
    """The kinds of transaction: what may not travel together is of two kinds."""

    STABLE = (PathForm.STABLE, False)
    UNSTABLE = (PathForm.UNSTABLE, False)
    STABLE_ALONE = (PathForm.STABLE, True)
    UNSTABLE_ALONE = (PathForm.UNSTABLE, True)

    @property
    def path_form(self) -> PathForm:
        """The form of path that it goes to."""
        return self.value[0]

    @property
    def alone(self) -> bool:
        """Whether it carries one LPDU and no other event."""
        return self.value[1]


@attrs.frozen(slots=True)
class LogLane:
    """The log of a room, as something that is owed."""

    room_id: str


@attrs.frozen(slots=True)
class LpduLane:
    """The pending LPDUs of a room."""

    room_id: str


@attrs.frozen(slots=True)
class EduLane:
    """The EDU outbox."""


Lane = LogLane | LpduLane | EduLane


@attrs.frozen(slots=True)
class Reached:
    """How far a transaction carries a room's log.

    Attributes:
        position: of the last event in it.
        events: how many of the room's events are in it.
    """

    position: int
    events: int


@attrs.frozen(slots=True)
class Outgoing:
    """One transaction's content.

    Attributes:
        kind: which kind of transaction it is.
        body: canonical JSON of the request.
        reached: how far it carries the log of each room that has events in it.
        sent: the events of each of those rooms: event ID and position, ascending.
        lpdus: the LPDUs in it.
        edu_ids: the numbers of the EDUs in it that come from the outbox.
        fleeting: the subjects of those that do not, and need not arrive.
    """

    kind: Kind
    body: bytes
    reached: Mapping[str, Reached]
    sent: Mapping[str, Sequence[tuple[str, int]]]
    lpdus: tuple[PendingLpdu, ...]
    edu_ids: tuple[int, ...]
    fleeting: tuple[str, ...] = ()

    @property
    def has_edus(self) -> bool:
        """Whether there are EDUs in it, of either kind."""
        return bool(self.edu_ids or self.fleeting)

    @property
    def must_arrive(self) -> bool:
        """Whether there is anything in it that the destination is owed."""
        return bool(self.events or self.edu_ids)

    def taken(self, later: Collection[str]) -> Mapping[str, Reached]:
        """How far it carries the rooms' logs when some events are to be sent again, and with them all that follow.

        Args:
            later: their event IDs.
        """
        reached: dict[str, Reached] = {}
        for room_id, events in self.sent.items():
            taken = list(takewhile(lambda event: event[0] not in later, events))
            if taken:
                reached[room_id] = Reached(taken[-1][1], len(taken))
        return reached

    @property
    def events(self) -> int:
        """How many events and LPDUs are in it."""
        return sum(reached.events for reached in self.reached.values()) + len(self.lpdus)

    @property
    def lanes(self) -> frozenset[Lane]:
        """Where its content comes from."""
        lanes: set[Lane] = {LogLane(room_id) for room_id in self.reached}
        lanes.update(LpduLane(lpdu.room_id) for lpdu in self.lpdus)
        if self.has_edus:
            lanes.add(EduLane())
        return frozenset(lanes)


@attrs.frozen(slots=True)
class Wish:
    """What a destination's queue asks for.

    Attributes:
        destination: its server name.
        capacity: events that the transaction may have.
        reached: how far the destination has each room's log already, where the stored cursor does not say so yet.
        sent: pending IDs of LPDUs that were sent and wait for their echo, each with the time (milliseconds since the
            epoch) at which it is to be sent again.
        sent_edus: numbers of EDUs that were sent and may still be in the outbox.
        fleeting: EDUs that are in no outbox, by subject: their canonical JSON.
        held_back: lanes from which nothing may be taken now.
        only: the one lane from which to take; ``None``: all of them.
        after: the last room of the transaction before; the next share goes to the one after it.
        last: the kind of the transaction before; another kind goes first.
        last_had_lpdus: whether it carried LPDUs.
        known_forms: the path form of rooms where it is known; ``None`` for a room that cannot be served.
        with_state: whether to read the destination's stored state as well.
    """

    destination: str
    capacity: int
    now_ms: int
    reached: Mapping[str, Reached] = attrs.field(factory=dict)
    sent: Mapping[int, int] = attrs.field(factory=dict)
    sent_edus: frozenset[int] = frozenset()
    fleeting: Mapping[str, bytes] = attrs.field(factory=dict)
    held_back: frozenset[Lane] = frozenset()
    only: Lane | None = None
    after: str = ""
    last: Kind | None = None
    last_had_lpdus: bool = False
    known_forms: Mapping[str, PathForm | None] = attrs.field(factory=dict)
    with_state: bool = False

    def allows(self, lane: Lane) -> bool:
        """Whether something may be taken from the lane."""
        return lane == self.only if self.only is not None else lane not in self.held_back


@attrs.frozen(slots=True)
class Found:
    """What :func:`assemble` found.

    Attributes:
        outgoing: the next transaction's content, ``None`` when there is nothing to send now.
        state: the destination's stored state, when it was asked for.
        forms: path forms of rooms that were not known before; ``None`` for a room of a version that is not known.
        still_sent: those of the wish's ``sent`` that are still pending, or may be.
        lag: how many events of the log the destination is owed, this transaction's included.
        after: the last room that got a share.
        everything: whether the transaction has all that there is to send, now and later, but for what comes anew.
    """

    outgoing: Outgoing | None
    state: DestinationState | None
    forms: Mapping[str, PathForm | None]
    still_sent: frozenset[int]
    lag: int
    after: str
    everything: bool


@attrs.frozen(slots=True)
class Stores:
    """The stores that are read."""

    delivery: DeliveryStore
    pending: PendingLpduStore
    rooms: RoomStore


def assemble(tx: Any, stores: Stores, wish: Wish) -> Found:
    """Choose the content of the next transaction.

    Args:
        tx: the transaction to read in.
        stores: what to read from.
        wish: what is asked for.
    """
    state = stores.delivery.destination(tx, wish.destination) if wish.with_state else None
    pending, still_sent = _pending(tx, stores.pending, wish)
    rooms = _rooms(tx, stores.delivery, wish)
    edus = _edus(tx, stores.delivery, wish)
    fleeting = _fleeting(wish, MAX_EDUS - len(edus))
    forms, new_forms = _forms(tx, stores.rooms, rooms, wish)
    kinds = {Kind((form, False)) for form in forms.values()} | {_lpdu_kind(lpdu) for lpdu in pending}
    chosen = _Content(_kind_for_edus(wish, state), {}, {}, (), ())
    for kind in _in_turn(kinds, wish.last):
        eligible = [] if kind.alone else [room_id for room_id in rooms if forms.get(room_id) is kind.path_form]
        content = _content(tx, stores.delivery, wish, kind, eligible, pending)
        # A room may be owed nothing but what is on record as answered, and not stored yet: then another kind has its
        # turn.
        if content.events:
            chosen = content
            break
    outgoing = None
    if chosen.events or edus or fleeting:
        outgoing = Outgoing(
            kind=chosen.kind,
            body=transaction_body(
                chosen.events, [*(canonical_json.encode(edu) for _, edu in edus), *fleeting.values()]
            ),
            reached=chosen.reached,
            sent=chosen.sent,
            lpdus=tuple(chosen.lpdus),
            edu_ids=tuple(number for number, _ in edus),
            fleeting=tuple(fleeting),
        )
    # Counting what else there is costs a query; when everything fits there is nothing else.
    in_log = len(chosen.events) - len(chosen.lpdus)
    lag = stores.delivery.lag(tx, wish.destination) if len(chosen.events) >= wish.capacity else in_log
    after = list(chosen.reached)[-1] if chosen.reached else wish.after
    everything = (
        wish.only is None
        and not wish.held_back
        and kinds <= {chosen.kind}
        and len(chosen.events) < wish.capacity
        and len(chosen.lpdus) == len(pending)
        and len(edus) < MAX_EDUS
        and len(fleeting) == len(wish.fleeting)
    )
    return Found(outgoing, state, new_forms, still_sent, lag, after, everything)


def transaction_body(events: Sequence[bytes], edus: Sequence[bytes]) -> bytes:
    """The body of ``PUT /send/:txnId``, canonical because its parts are.

    Args:
        events: canonical JSON of PDUs and LPDUs.
        edus: canonical JSON of EDUs; with none of them the field is left out.
    """
    before = b'{"edus":[' + b",".join(edus) + b"]," if edus else b"{"
    return before + b'"pdus":[' + b",".join(events) + b"]}"


@attrs.frozen(slots=True)
class _Content:
    """The events of a transaction: canonical JSON, the rooms' logs first, then the LPDUs."""

    kind: Kind
    reached: Mapping[str, Reached]
    sent: Mapping[str, Sequence[tuple[str, int]]]
    lpdus: Sequence[PendingLpdu]
    events: Sequence[bytes]


def _content(
    tx: Any, store: DeliveryStore, wish: Wish, kind: Kind, rooms: Sequence[str], pending: Sequence[PendingLpdu]
) -> _Content:
    """Events for a transaction of one kind."""
    capacity = 1 if kind.alone else wish.capacity
    lpdus = _fitting([lpdu for lpdu in pending if _lpdu_kind(lpdu) is kind], capacity)
    taken: Mapping[str, Sequence[StoredEvent]] = {}
    if rooms:
        taken = _share_out(tx, store, wish, rooms, capacity - min(len(lpdus), _lpdu_quota(wish)))
    log = [event.canonical for events in taken.values() for event in events]
    lpdus = lpdus[: capacity - len(log)]
    return _Content(
        kind,
        {room_id: Reached(events[-1].position, len(events)) for room_id, events in taken.items()},
        {room_id: [(event.event_id, event.position) for event in events] for room_id, events in taken.items()},
        lpdus,
        log + [lpdu.canonical for lpdu in lpdus],
    )


def _pending(tx: Any, store: PendingLpduStore, wish: Wish) -> tuple[list[PendingLpdu], frozenset[int]]:
    """The LPDUs that may be sent now, and those sent before that are still pending."""
    sendable: list[PendingLpdu] = []
    still_sent: set[int] = set()
    after = 0
    while len(sendable) < wish.capacity:
        page = store.for_hub(tx, wish.destination, after, _PENDING_PAGE)
        for lpdu in page:
            due = wish.sent.get(lpdu.pending_id)
            if due is not None:
                still_sent.add(lpdu.pending_id)
            if (due is None or due <= wish.now_ms) and wish.allows(LpduLane(lpdu.room_id)):
                sendable.append(lpdu)
        if len(page) < _PENDING_PAGE:
            return sendable, frozenset(still_sent)
        after = page[-1].pending_id
    # Not all was looked at: what lies further on may still be pending.
    still_sent.update(pending_id for pending_id in wish.sent if pending_id > after)
    return sendable, frozenset(still_sent)


def _edus(tx: Any, store: DeliveryStore, wish: Wish) -> Sequence[tuple[int, JsonObject]]:
    """The oldest EDUs that were not sent yet."""
    if not wish.allows(EduLane()):
        return ()
    waiting = store.edus(tx, wish.destination, MAX_EDUS + len(wish.sent_edus))
    return [(number, edu) for number, edu in waiting if number not in wish.sent_edus][:MAX_EDUS]


def _fleeting(wish: Wish, limit: int) -> dict[str, bytes]:
    """EDUs that are in no outbox, as many as there is room for."""
    return dict(islice(wish.fleeting.items(), limit)) if wish.allows(EduLane()) else {}


def _rooms(tx: Any, store: DeliveryStore, wish: Wish) -> list[str]:
    """The rooms whose log is owed, the one after the last served first."""
    owed = sorted(row[0] for row in store.owed_rooms(tx, wish.destination) if wish.allows(LogLane(row[0])))
    return [room_id for room_id in owed if room_id > wish.after] + [room for room in owed if room <= wish.after]


def _share_out(
    tx: Any, store: DeliveryStore, wish: Wish, rooms: Sequence[str], capacity: int
) -> dict[str, Sequence[StoredEvent]]:
    """Events of several rooms: an equal share for each in turn, then what is left over to whoever has more."""
    taken: dict[str, Sequence[StoredEvent]] = {}

    def fetch(room_id: str, limit: int) -> int:
        reached = wish.reached.get(room_id)
        events = store.owed_events(tx, wish.destination, room_id, limit, reached.position if reached else 0)
        before = len(taken.get(room_id, ()))
        if events:
            taken[room_id] = events
        return len(events) - before

    share = max(1, capacity // len(rooms)) if rooms else 0
    left = capacity
    hungry = []
    for room_id in rooms:
        if left <= 0:
            break
        asked = min(share, left)
        got = fetch(room_id, asked)
        left -= got
        if got == asked:
            hungry.append(room_id)
    for room_id in hungry:
        if left <= 0 or share == capacity:
            break
        left -= fetch(room_id, len(taken[room_id]) + left)
    return taken


def _lpdu_quota(wish: Wish) -> int:
    """How many places LPDUs may keep from the log: half, and every second transaction when there is one place only."""
    if wish.capacity > 1:
        return wish.capacity // 2
    return 0 if wish.last_had_lpdus else 1


def _lpdu_kind(lpdu: PendingLpdu) -> Kind | None:
    try:
        version = room_version(lpdu.room_version)
    except UnsupportedRoomVersion:
        return None
    return Kind((version.outbound_paths, version.max_lpdus_per_transaction <= 1))


def _fitting(lpdus: Sequence[PendingLpdu], capacity: int) -> list[PendingLpdu]:
    """As many as every room version among them allows in one transaction."""
    chosen: list[PendingLpdu] = []
    for lpdu in lpdus:
        capacity = min(capacity, room_version(lpdu.room_version).max_lpdus_per_transaction)
        if len(chosen) >= capacity:
            break
        chosen.append(lpdu)
    return chosen


def _in_turn(kinds: set[Kind | None], last: Kind | None) -> list[Kind]:
    """The kinds that may have content, each one's turn after the last one's."""
    order = list(Kind)
    start = 0 if last is None else order.index(last) + 1
    return [kind for kind in order[start:] + order[:start] if kind in kinds]


def _kind_for_edus(wish: Wish, state: DestinationState | None) -> Kind:
    """EDUs belong to no room: as the last transaction went, else as the destination is known to want it."""
    if wish.last is not None:
        return Kind((wish.last.path_form, False))
    return Kind.UNSTABLE if state is not None and state.path_form == "unstable" else Kind.STABLE


def _forms(
    tx: Any, store: RoomStore, rooms: Sequence[str], wish: Wish
) -> tuple[dict[str, PathForm], dict[str, PathForm | None]]:
    """The path form of each room that can be served, and what of this was not known before."""
    forms: dict[str, PathForm] = {}
    new: dict[str, PathForm | None] = {}
    for room_id in rooms:
        form = wish.known_forms.get(room_id)
        if form is None and room_id not in wish.known_forms:
            form = new[room_id] = _form_of(tx, store, room_id)
        if form is not None:
            forms[room_id] = form
    return forms, new


def _form_of(tx: Any, store: RoomStore, room_id: str) -> PathForm | None:
    """A room's version says which form of path its events take; the create event carries it.

    ``None`` for a room of a version that this server does not know (any more). Such a room is left out: it must not
    keep the others from the destination.
    """
    create = store.state_event_before(tx, room_id, _AFTER_EVERYTHING, "m.room.create", "")
    if create is None:
        return None
    content = canonical_json.parse_object(create.canonical).get("content")
    try:
        return room_version(content.get("room_version") if isinstance(content, dict) else None).outbound_paths
    except UnsupportedRoomVersion:
        return None
