"""Who may say what a room is called."""

from __future__ import annotations

from lmatrix.events.power_levels import PowerLevels
from lmatrix.rooms.room import Room

CANONICAL_ALIAS = "m.room.canonical_alias"


def may_name(room: Room, user_id: str) -> bool:
    """Whether a user is in a room and may change its main alias (and, with it, remove aliases or have it listed)."""
    if room.membership(user_id) != "join":
        return False
    levels = PowerLevels.of(room.state)
    return levels.user_level(user_id) >= levels.level_for_event(CANONICAL_ALIAS, is_state=True)
