"""Replaying a room from its first event, or from a state in the middle.

Owns: checking that a list of events is a whole room: one chain that begins with the create event, each event named by
its own hash, and each allowed by the state before it; or that it goes on so from a state that is given. Pure, and
independent of the way in which the events came here: it uses nothing that the sequencer or the participant remembered.
It can be fed a piece at a time, so that a long room does not stall anybody.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from lmatrix.errors import EventRejected
from lmatrix.events.auth_events import are_selected
from lmatrix.events.auth_rules import authorise
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.state import StateEvent, StateMap


@attrs.frozen(slots=True)
class Problem:
    """Something that is wrong with a room.

    Attributes:
        number: which event, counted from 1.
        event_id: its event ID.
        reason: what is wrong.
    """

    number: int
    event_id: str
    reason: str


class Replay:
    """The state of a room as far as it was replayed.

    Args:
        room_id: the room.
        version: its room version.
        begin_with: the state before the first event that is replayed, taken on trust; ``None`` to begin with the create
            event. What the first event follows is then taken on trust as well.
    """

    def __init__(self, room_id: str, version: RoomVersion, begin_with: Iterable[StateEvent] | None = None) -> None:
        self.state = StateMap(begin_with or ())
        self.events = 0
        self.head: str | None = None
        self._room_id = room_id
        self._version = version
        self._in_the_middle = begin_with is not None

    def take(self, pdus: Iterable[Pdu], *, rejected: frozenset[str] = frozenset()) -> list[Problem]:
        """The next events, oldest first; what is wrong with them.

        Args:
            rejected: event IDs that are known to hold a place in the chain only: they are checked to be chained, and to
                be what the rules refuse; they change no state.
        """
        problems: list[Problem] = []
        for pdu in pdus:
            self.events += 1
            problems.extend(Problem(self.events, pdu.event_id, reason) for reason in self._check(pdu, rejected))
            self.head = pdu.event_id
        return problems

    def _check(self, pdu: Pdu, rejected: frozenset[str]) -> Iterable[str]:
        if pdu.room_id != self._room_id:
            yield f"it belongs to {pdu.room_id}"
        if Pdu.from_canonical(pdu.canonical, self._version).event_id != pdu.event_id:
            yield "its event ID is not its hash"
        if not self._is_chained(pdu):
            yield f"it follows {', '.join(pdu.prev_events) or 'nothing'}, not {self.head or 'nothing'}"
        refusal = self._refusal(pdu)
        if pdu.event_id in rejected:
            if refusal is None:
                yield "it is held as rejected, but the rules allow it"
            return
        if refusal is not None:
            yield refusal
        if pdu.state_key is not None:
            self.state.set(StateEvent.from_pdu(pdu, self.events))

    def _is_chained(self, pdu: Pdu) -> bool:
        if self.head is None:
            return self._in_the_middle or not pdu.prev_events
        return not self._version.enforces_chain or tuple(pdu.prev_events) == (self.head,)

    def _refusal(self, pdu: Pdu) -> str | None:
        if self._version.enforces_chain and not are_selected(pdu.auth_events, pdu, self.state):
            return "its auth events are not those that the state before it gives"
        try:
            authorise(pdu, self.state, prev_events=pdu.prev_events)
        except EventRejected as error:
            return f"rule {error.rule}: {error}"
        return None
