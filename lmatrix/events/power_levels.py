"""Power levels: who may do what.

Owns: reading ``m.room.power_levels``. It is asked with state in which anything may stand, so a level that is not an
integer, or a map that is not an object, counts as absent.

Source: I-D "Calculating Power Levels" and "m.room.power_levels".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from lmatrix.events.state import StateView

CREATOR_LEVEL: Final = 100
"""The creator's power level while the room has no power levels event."""

ACTION_DEFAULTS: Final[Mapping[str, int]] = {"ban": 50, "kick": 50, "redact": 50, "invite": 0}


@attrs.frozen(slots=True)
class PowerLevels:
    """The power levels that hold in some state.

    Attributes:
        content: content of the power levels event, empty when there is none.
        creator: who has :data:`CREATOR_LEVEL` because there is no such event; ``None`` when there is one.
    """

    content: Mapping[str, Any]
    creator: str | None

    @classmethod
    def of(cls, state: StateView) -> PowerLevels:
        """The power levels that hold in ``state``."""
        event = state.get("m.room.power_levels")
        if event is not None:
            return cls(event.content, None)
        create = state.get("m.room.create")
        return cls({}, None if create is None else create.sender)

    def user_level(self, user_id: str) -> int:
        """A user's power level."""
        if self.creator is not None:
            return CREATOR_LEVEL if user_id == self.creator else 0
        level = self._entry("users", user_id)
        return self._level("users_default", 0) if level is None else level

    def level_for(self, action: str) -> int:
        """The power level needed to ``ban``, ``kick``, ``redact`` or ``invite``."""
        return self._level(action, ACTION_DEFAULTS[action])

    def level_for_event(self, event_type: str, is_state: bool) -> int:
        """The power level needed to send an event of a type."""
        level = self._entry("events", event_type)
        if level is not None:
            return level
        return self._level("state_default", 50) if is_state else self._level("events_default", 0)

    def _level(self, field: str, default: int) -> int:
        value = self.content.get(field)
        return value if type(value) is int else default

    def _entry(self, field: str, key: str) -> int | None:
        levels = self.content.get(field)
        if not isinstance(levels, Mapping):
            return None
        value = levels.get(key)
        return value if type(value) is int else None
