"""Redaction of an event, and who may have an event redacted.

Owns: the redacted copy of an LPDU or PDU, and the test that a redaction takes effect. What is kept stands in
:mod:`~lmatrix.events.redaction_rules`, whose names are offered here too.

Invariant: a redacted copy has the event ID of its original, and the original's signatures hold for it.

Source: I-D "Event Redactions"; protocol notes, "Events", last paragraph.
"""

from __future__ import annotations

from typing import TypeVar

from lmatrix import ids
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.hashing import redacted_members
from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.redaction_rules import Keep, RedactionRules, redact_fields
from lmatrix.events.state import StateView

__all__ = ["Keep", "RedactionRules", "redact", "redact_fields", "redaction_takes_effect"]

E = TypeVar("E", Lpdu, Pdu)


def redact(event: E) -> E:
    """The redacted copy of an event."""
    rules = event.room_version.redaction
    return type(event).of_checked(
        redact_fields(event.fields, rules),
        event.room_version,
        members=redacted_members(event.members, event.type, event.content, rules),
        event_id=event.event_id,
    )


def redaction_takes_effect(redaction_sender: str, target_sender: str, state: StateView) -> bool:
    """Whether an ``m.room.redaction`` redacts its target, rather than being an event that redacts nothing.

    Args:
        redaction_sender: user ID of the redaction's sender.
        target_sender: user ID of the sender of the event that it names, which must be of the same room.
        state: the state before the redaction.
    """
    if ids.server_of(redaction_sender) == ids.server_of(target_sender):
        return True
    levels = PowerLevels.of(state)
    return levels.user_level(redaction_sender) >= levels.level_for("redact")
