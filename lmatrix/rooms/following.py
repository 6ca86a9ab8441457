"""What a participant decides about the events that its hub sends (PROTOCOL notes "Order").

Owns: the pure decision of how a list of verified PDUs continues the log. A participant accepts a PDU only as the
successor of its head. What does not follow is either held already, or belongs after something that is missing (a
gap), or contradicts what is held (a fork: evidence against the hub). What follows but breaks the auth rules holds its
place in the chain, so that the room can go on, and is never state nor shown.

In a room version that does not enforce the chain a fork is logged, and the event is kept in the order of receipt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from types import MappingProxyType

import attrs

from lmatrix.errors import EventRejected
from lmatrix.events.auth_events import are_selected
from lmatrix.events.auth_rules import authorise
from lmatrix.events.forms import Pdu
from lmatrix.events.state import StateEvent
from lmatrix.rooms.interfaces import Standing
from lmatrix.rooms.room import RoomDraft


class Fate(Enum):
    """What became of a PDU from the hub."""

    APPENDED = "appended"
    HELD = "held"  # it was here before
    REJECTED = "rejected"  # appended, as a place in the chain only
    FOREIGN = "foreign"  # it is by a server that is not the hub at that place
    FORK = "fork"  # its predecessor has another successor here
    GAP = "gap"  # its predecessor is not here
    UNVERIFIED = "unverified"  # it, or one before it, cannot be verified yet


LATER = frozenset({Fate.GAP, Fate.UNVERIFIED})
"""What may still be appended, if only it is sent again."""


@attrs.frozen(slots=True)
class Followed:
    """A PDU and its fate.

    Attributes:
        reason: why, where it is not simply appended or held.
    """

    pdu: Pdu
    fate: Fate
    reason: str = ""


def follow(
    draft: RoomDraft,
    pdus: Sequence[Pdu],
    held: Collection[str],
    *,
    fill_gaps: bool,
    cited: Mapping[str, StateEvent | None] = MappingProxyType({}),
) -> list[Followed]:
    """Continue the log with what follows.

    Args:
        draft: the room; what follows is appended to it.
        pdus: verified PDUs of the room, in the order in which they came.
        held: event IDs, among those of ``pdus`` and their predecessors, that the log holds.
        fill_gaps: whether a gap can still be filled; when not, a version that does not enforce the chain keeps what
            comes after the gap.
        cited: in a version that does not enforce the chain, the events that ``pdus`` cite as auth events, as far as the
            log has them; ``None`` for those that are no state.
    """
    present, known = set(held), dict(cited)
    fates = []
    for pdu in pdus:
        one = _follow_one(draft, pdu, present, known, fill_gaps=fill_gaps)
        if one.fate in (Fate.APPENDED, Fate.REJECTED):
            present.add(pdu.event_id)
            known[pdu.event_id] = None if pdu.state_key is None else StateEvent.from_pdu(pdu)
        fates.append(one)
    return fates


def _follow_one(
    draft: RoomDraft,
    pdu: Pdu,
    present: Collection[str],
    cited: Mapping[str, StateEvent | None],
    *,
    fill_gaps: bool,
) -> Followed:
    if pdu.event_id in present or pdu.event_id == draft.head_event_id:
        return Followed(pdu, Fate.HELD)
    if tuple(pdu.prev_events) != draft.prev_events():
        missing = [event_id for event_id in pdu.prev_events if event_id not in present]
        if draft.version.enforces_chain:
            if missing:
                return Followed(pdu, Fate.GAP, f"its predecessor {missing[0]} is not known")
            return Followed(
                pdu, Fate.FORK, f"it names {', '.join(pdu.prev_events)}, not the head {draft.head_event_id}"
            )
        if missing and fill_gaps:
            return Followed(pdu, Fate.GAP, f"its predecessor {missing[0]} is not known")
    if pdu.hub_server is not None and pdu.hub_server != draft.hub_server:
        # It is not the hub that said this, so it takes no place in the hub's order.
        return Followed(pdu, Fate.FOREIGN, f"it names {pdu.hub_server} as the hub, which is {draft.hub_server}")
    try:
        _authorise(draft, pdu, cited)
    except EventRejected as error:
        draft.append(pdu, Standing.REJECTED)
        return Followed(pdu, Fate.REJECTED, f"rule {error.rule}: {error}")
    draft.append(pdu)
    return Followed(pdu, Fate.APPENDED)


def _authorise(draft: RoomDraft, pdu: Pdu, cited: Mapping[str, StateEvent | None]) -> None:
    auth_events = None
    if draft.version.enforces_chain:
        # In a linear room the auth events can be none but those that the hub selects from the state before the event.
        if not are_selected(pdu.auth_events, pdu, draft.state):
            raise EventRejected("4.2", "its auth events are not those that the state before it gives")
    elif all(event_id in cited for event_id in pdu.auth_events):
        # A version that tolerates forks has hubs that select from a state of a moment ago, which may be from before we
        # came. Where we have all of them, they are of the right kinds at least.
        found = [cited[event_id] for event_id in pdu.auth_events]
        auth_events = [event for event in found if event is not None]
        if len(auth_events) < len(found):
            raise EventRejected("4.2", "one of its auth events is no state")
    authorise(pdu, draft.state, prev_events=pdu.prev_events, auth_events=auth_events)


def leading_to(last: str, pdus: Mapping[str, Pdu], *, stop_at: str | None) -> list[Pdu]:
    """The unbroken line of events that ends with ``last``, oldest first, as far back as ``pdus`` has it.

    Args:
        pdus: by event ID.
        stop_at: an event ID before which nothing is wanted, itself not either.
    """
    line: list[Pdu] = []
    current = pdus.get(last)
    seen = set()
    while current is not None and current.event_id != stop_at and current.event_id not in seen:
        seen.add(current.event_id)
        line.append(current)
        current = next((pdus[prev] for prev in current.prev_events if prev in pdus), None)
    return line[::-1]


def in_chain_order(pdus: Sequence[Pdu]) -> list[Pdu]:
    """Sort by predecessor, oldest first, whatever order they came in; equals keep their order.

    Peers answer ``backfill`` oldest first, and prototypes newest first: only the chain tells.
    """
    by_id = {pdu.event_id: pdu for pdu in pdus}
    ordered: list[Pdu] = []
    placed: set[str] = set()
    for start in by_id.values():
        line = []
        current: Pdu | None = start
        while current is not None and current.event_id not in placed:
            placed.add(current.event_id)
            line.append(current)
            current = next((by_id[prev] for prev in current.prev_events if prev in by_id), None)
        ordered.extend(reversed(line))
    return ordered
