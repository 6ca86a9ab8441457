"""Auth rule 9: changing the power levels.

Owns: what a power levels event may hold, and who may change which level. "Higher than" is taken as it stands: one may
change what equals one's own level.

Source: I-D "Auth Rules Algorithm", rule 9; protocol notes, "Readings of unclear text".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier
from lmatrix.events.auth_context import AuthContext, Verdict, reject

LEVEL_FIELDS: Final = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")


def power_levels_rule(context: AuthContext) -> Verdict:
    """Rule 9. A power levels event that gets this far is either allowed or rejected here."""
    event = context.event
    if event.type != "m.room.power_levels":
        return Verdict.GO_ON
    new = event.content
    _check_shape(new)
    # 9.4
    current_event = context.state.get("m.room.power_levels")
    if current_event is None:
        return Verdict.ALLOW
    current = current_event.content
    sender, level = event.sender, context.sender_level()
    # 9.5
    for field in LEVEL_FIELDS:
        before, after = _integer(current.get(field)), _integer(new.get(field))
        if before != after:
            _check_bound("9.5.1", sender, level, field, before)
            _check_bound("9.5.2", sender, level, field, after)
    for key, before, after in _changes(current.get("events"), new.get("events")):
        # 9.6
        _check_bound("9.6.1", sender, level, f"events.{key}", before)
        # 9.7
        _check_bound("9.7.1", sender, level, f"events.{key}", after)
    for key, before, after in _changes(current.get("users"), new.get("users")):
        # 9.8
        if key != sender:
            _check_bound("9.8.1", sender, level, f"users.{key}", before)
        # 9.9
        _check_bound("9.9.1", sender, level, f"users.{key}", after)
    # 9.10
    return Verdict.ALLOW


def _check_shape(content: Mapping[str, Any]) -> None:
    # 9.1
    for field in LEVEL_FIELDS:
        if field in content and type(content[field]) is not int:
            raise reject("9.1", f"{field} must be an integer")
    # 9.2
    if "events" in content and not _is_levels(content["events"]):
        raise reject("9.2", "events must be an object with integer values")
    # 9.3
    if "users" in content:
        if not _is_levels(content["users"]):
            raise reject("9.3", "users must be an object with integer values")
        for user_id in content["users"]:
            try:
                ids.user_id(user_id)
            except InvalidIdentifier as error:
                raise reject("9.3", f"users has a key that is not a user ID: {error.reason}") from error


def _is_levels(value: object) -> bool:
    return isinstance(value, Mapping) and all(type(level) is int for level in value.values())


def _check_bound(rule: str, sender: str, level: int, field: str, value: int | None) -> None:
    if value is not None and value > level:
        raise reject(rule, f"{sender} has power level {level}; changing {field} needs {value}")


def _changes(current: object, new: object) -> list[tuple[str, int | None, int | None]]:
    """(key, before, after) of each entry that was added, changed or removed."""
    before = current if isinstance(current, Mapping) else {}
    after = new if isinstance(new, Mapping) else {}
    changes = []
    for key in [*before, *(key for key in after if key not in before)]:
        old, now = _integer(before.get(key)), _integer(after.get(key))
        if old != now:
            changes.append((key, old, now))
    return changes


def _integer(value: object) -> int | None:
    return value if type(value) is int else None
