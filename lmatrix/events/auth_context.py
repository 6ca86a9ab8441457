"""What an auth rule is given, and what it answers.

Owns: :class:`AuthContext`, the event under judgement with the state before it; the answer of a rule; and the small
questions that several rules ask of the state.

A rule is a function of the context. It returns :attr:`Verdict.ALLOW` (no later rule is asked) or :attr:`Verdict.GO_ON`,
or raises :class:`~lmatrix.errors.EventRejected`. Content may hold anything, so no question here may fail on a wrong
type.

Source: I-D "Authorization Rules".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import attrs

from lmatrix.errors import EventRejected
from lmatrix.events.candidate import Candidate
from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.state import StateEvent, StateView

MEMBERSHIPS: Final = frozenset({"join", "invite", "leave", "ban", "knock"})


class Verdict(Enum):
    """A rule's answer, when it does not reject."""

    ALLOW = "allow"
    GO_ON = "go on"


@attrs.frozen(slots=True)
class AuthContext:
    """One event, and everything that it is judged by.

    Attributes:
        event: the event.
        state: the state before it.
        create: the room's ``m.room.create``; ``None`` only before there is one.
        prev_events: IDs of the events that it follows: its own, or those that it is about to be given.
        auth_events: the state events that it cites; ``None`` when they were selected from ``state`` by our own hand.
        power_levels: the power levels in ``state``.
    """

    event: Candidate
    state: StateView
    create: StateEvent | None
    prev_events: Sequence[str]
    auth_events: Sequence[StateEvent] | None
    power_levels: PowerLevels

    def membership_of(self, user_id: str) -> str:
        """A user's current membership; ``leave`` for one who has none."""
        return membership_in(self.state, user_id)

    def sender_level(self) -> int:
        """The sender's current power level."""
        return self.power_levels.user_level(self.event.sender)


AuthRule = Callable[[AuthContext], Verdict]


def membership_in(state: StateView, user_id: str) -> str:
    """A user's membership in ``state``; ``leave`` for one who has none.

    Source: I-D "m.room.member".
    """
    event = state.get("m.room.member", user_id)
    return "leave" if event is None else membership_of_content(event.content)


def membership_of_content(content: Mapping[str, Any]) -> str:
    """``membership``, or ``leave`` when it is none of the five."""
    membership = content.get("membership")
    return membership if isinstance(membership, str) and membership in MEMBERSHIPS else "leave"


def reject(rule: str, reason: str) -> EventRejected:
    """The exception to raise; ``reason`` is shown to users."""
    return EventRejected(rule, reason)
