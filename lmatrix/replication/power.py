"""Power levels on the two sides.

Owns: :func:`power_to_lm` and :func:`power_to_dag`. Both sides know the same levels; they differ in who is there. The
DAG side has the bridge bot, and in room versions from 12 on *creators*, who stand above every level and must not be
listed. The LM side has neither: there a creator is listed with a level above everybody else's.

A creator's level on the LM side is the same high one whatever the others are, since nobody there can raise anybody
above their own.

Invariants: both functions are pure; going there and back gives what there was, as far as the other side can express it
(what it cannot, :func:`power_to_dag` takes over from the DAG room's present levels); a second round changes nothing.

Source: I-D "m.room.power_levels"; Matrix specification v1.16, room version 12.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from lmatrix.replication.names import Names

JsonObject = dict[str, Any]

_LEVELS: Final = ("users_default", "events_default", "state_default", "ban", "kick", "redact", "invite")
_MAX_LEVEL: Final = 2**53 - 1

ABOVE_ALL: Final = 1_000_000
"""The level of those who stand above all others, unless a room has levels that are higher still."""


def power_to_lm(content: Mapping[str, Any], names: Names, creators: Collection[str]) -> JsonObject:
    """The LM room's power levels for those of a DAG room.

    Args:
        creators: see :attr:`lmatrix.replication.interfaces.DagRoom.creators`.
    """
    shared = _without_users(content)
    users: dict[str, int] = {}
    for user_id, level in _levels(content.get("users")).items():
        named = None if user_id in creators else names.to_lm(user_id)
        if named is not None:
            users[named] = level
    named_creators = {named for creator in creators if (named := names.to_lm(creator)) is not None}
    level = _above(shared, [level for user_id, level in users.items() if user_id not in named_creators])
    users.update(dict.fromkeys(sorted(named_creators), level))
    return {**shared, "users": users}


def power_to_dag(
    content: Mapping[str, Any], names: Names, creators: Collection[str], present: Mapping[str, Any]
) -> JsonObject:
    """The DAG room's power levels for those of an LM room.

    Args:
        present: the content of the DAG room's power levels as they are; of it the levels of those users stay who have
            no name on the LM side, the bot among them.
    """
    users = {user_id: level for user_id, level in _levels(present.get("users")).items() if names.to_lm(user_id) is None}
    for user_id, level in _levels(content.get("users")).items():
        named = names.known_on_dag(user_id)
        if named is not None:
            users[named] = level
    return {
        **_without_users(content),
        "users": {user_id: level for user_id, level in users.items() if user_id not in creators},
    }


def bots_level(content: Mapping[str, Any]) -> int:
    """The level that the bot needs in a DAG room, to be above everybody and everything in ``content``."""
    return _above(_without_users(content), _levels(content.get("users")).values())


def _above(shared: Mapping[str, Any], others: Collection[int]) -> int:
    """A level that nothing asks for more than, and that nobody else has."""
    asked: list[int] = [shared[field] for field in _LEVELS if field != "users_default" and field in shared]
    asked += shared.get("events", {}).values()
    held: list[int] = [level + 1 for level in [*others, shared.get("users_default", 0)]]
    return min(max([ABOVE_ALL, *asked, *held]), _MAX_LEVEL)


def _without_users(content: Mapping[str, Any]) -> JsonObject:
    """What both sides say in the same words, with levels as integers (old room versions allow strings)."""
    kept: JsonObject = {}
    for field in _LEVELS:
        level = _level(content.get(field))
        if level is not None:
            kept[field] = level
    for field in ("events", "notifications"):
        if isinstance(content.get(field), Mapping):
            kept[field] = _levels(content[field])
    return kept


def _levels(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return {}
    return {key: level for key, raw in value.items() if (level := _level(raw)) is not None}


def _level(value: object) -> int | None:
    if type(value) is int:
        return value if abs(value) <= _MAX_LEVEL else None
    if isinstance(value, str):
        try:
            return _level(int(value))
        except ValueError:
            return None
    return None
