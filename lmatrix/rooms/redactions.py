"""What a redaction does to the room (I-D "Event Redactions"; PROTOCOL notes on ``m.room.redaction``).

Owns: deciding whether an ``m.room.redaction`` takes effect on its target, and the redacted copy. A redaction that may
not touch its target stays in the room as an event that redacts nothing.
"""

from __future__ import annotations

import attrs

from lmatrix.errors import InvalidIdentifier
from lmatrix.events.forms import Pdu
from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.redaction import redact
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.state import StateEvent, StateView
from lmatrix.ids import event_id, server_of


@attrs.frozen(slots=True)
class Redaction:
    """A redaction that was authorised, with what decides over its targets.

    Attributes:
        target: event ID that it names.
        sender: who redacts.
        room_id: in which room.
        version: the room's version.
        has_power: whether the sender has the power level ``redact``, and so may redact anybody's events.
    """

    target: str
    sender: str
    room_id: str
    version: RoomVersion
    has_power: bool

    def permits(self, target_sender: str) -> bool:
        """Whether it takes effect on an event of that sender."""
        return self.has_power or server_of(target_sender) == server_of(self.sender)

    def apply(self, canonical: bytes) -> bytes | None:
        """The redacted copy of a target, canonical JSON in and out; ``None`` when it may not touch it."""
        target = Pdu.from_canonical(canonical, self.version)
        if target.room_id != self.room_id or not self.permits(target.sender):
            return None
        return redact(target).canonical

    def redacted_state(self, version: RoomVersion, current: StateEvent) -> StateEvent:
        """The same state event with what redaction leaves of its content."""
        return attrs.evolve(current, content=version.redaction.redacted_content(current.type, dict(current.content)))


def redaction_by(pdu: Pdu, state: StateView) -> Redaction | None:
    """The redaction that an event is, if it is one and names an event.

    Args:
        pdu: any authorised event.
        state: state before it.
    """
    if pdu.type != "m.room.redaction" or pdu.state_key is not None:
        return None
    try:
        target = event_id(pdu.content.get("redacts"))
    except InvalidIdentifier:
        return None
    levels = PowerLevels.of(state)
    has_power = levels.user_level(pdu.sender) >= levels.level_for("redact")
    return Redaction(target, pdu.sender, pdu.room_id, pdu.room_version, has_power)
