"""What an event of one side is on the other.

Owns: :func:`to_dag` and :func:`to_lm`, pure: which events are carried over, and as what. An event comes out as a
:class:`Translated`, or as :class:`Silent` (it belongs to its side alone; nothing is lost), or raises
:class:`~lmatrix.replication.content.Unmappable` with the cause that is counted.

========================================= ==================================================================
type                                      what becomes of it
========================================= ==================================================================
``m.room.create``, ``m.room.hub``         silent: each side has its own
:data:`~.interfaces.MIRROR`               silent
``m.room.member``                         membership, name, avatar, reason; the user renamed. Silent for the bot
``m.room.power_levels``                   :mod:`lmatrix.replication.power`
``m.room.join_rules``                     ``restricted`` and ``private`` become ``invite``, ``knock_restricted`` becomes
                                          ``knock`` on the LM side, which knows no others
``m.room.redaction``                      its target renamed
``m.room.encryption``, ``…encrypted``     unmappable (the mirror stops at the former)
aliases, ACLs, spaces, upgrades,          unmappable: they name rooms or servers of their own side
third-party invites
anything else                             its content rewritten by :mod:`lmatrix.replication.content`; a state key that
                                          is a user ID renamed
========================================= ==================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs

from lmatrix.replication.content import JsonObject, RenameUser, Renaming, Unmappable, rewritten
from lmatrix.replication.interfaces import MIRROR, SOURCE
from lmatrix.replication.names import Names
from lmatrix.replication.power import power_to_dag, power_to_lm

MEMBER: Final = "m.room.member"
POWER_LEVELS: Final = "m.room.power_levels"
JOIN_RULES: Final = "m.room.join_rules"
REDACTION: Final = "m.room.redaction"
ENCRYPTION: Final = "m.room.encryption"

SILENT_TYPES: Final = frozenset({"m.room.create", "m.room.hub", MIRROR})
UNMAPPABLE_TYPES: Final[Mapping[str, str]] = {
    ENCRYPTION: "encryption",
    "m.room.encrypted": "encryption",
    "m.room.aliases": "alias",
    "m.room.canonical_alias": "alias",
    "m.room.server_acl": "server_acl",
    "m.room.tombstone": "upgrade",
    "m.room.third_party_invite": "third_party_invite",
    "m.space.child": "space",
    "m.space.parent": "space",
}
MEMBERSHIPS: Final = frozenset({"join", "invite", "leave", "ban", "knock"})

_MEMBER_FIELDS: Final = ("displayname", "avatar_url", "reason", "is_direct")
_LM_JOIN_RULES: Final[Mapping[str, str]] = {
    "public": "public",
    "invite": "invite",
    "knock": "knock",
    "restricted": "invite",
    "knock_restricted": "knock",
    "private": "invite",
}


@attrs.frozen(slots=True)
class Source:
    """An event, of whichever side, as far as it is translated."""

    type: str
    state_key: str | None
    content: Mapping[str, Any]
    redacts: str | None = None


@attrs.frozen(slots=True)
class Translated:
    """What is to be written on the other side; the sender is the caller's business."""

    type: str
    state_key: str | None
    content: JsonObject


@attrs.frozen(slots=True)
class Silent:
    """Nothing is to be written, and nothing is lost by that."""


@attrs.frozen(slots=True)
class DagContext:
    """What of the DAG room a translation depends on.

    Attributes:
        creators: see :attr:`lmatrix.replication.interfaces.DagRoom.creators`.
        power_levels: content of its power levels as they are.
    """

    creators: Collection[str]
    power_levels: Mapping[str, Any]


def is_carried(event_type: str, state_key: str | None) -> bool:
    """Whether events of a type are carried over at all."""
    return (
        event_type not in SILENT_TYPES
        and event_type not in UNMAPPABLE_TYPES
        and (event_type not in (POWER_LEVELS, JOIN_RULES) or state_key == "")
    )


def to_dag(source: Source, names: Names, events: Mapping[str, str], context: DagContext) -> Translated | Silent:
    """An LM event as a DAG event.

    Args:
        events: LM event ID → DAG event ID, for those of :func:`~.content.references` and the redacted one that are
            known.

    Raises:
        Unmappable: see the module.
    """

    def powers(content: Mapping[str, Any]) -> JsonObject:
        return power_to_dag(content, names, context.creators, context.power_levels)

    return _translated(source, Renaming(names.known_on_dag, events), powers, lambda rule: rule)


def to_lm(source: Source, names: Names, events: Mapping[str, str], context: DagContext) -> Translated | Silent:
    """A DAG event as an LM event; as :func:`to_dag`, the other way."""
    if source.type == MEMBER and names.is_bot(source.state_key or ""):
        return Silent()

    def powers(content: Mapping[str, Any]) -> JsonObject:
        return power_to_lm(content, names, context.creators)

    return _translated(source, Renaming(names.to_lm, events), powers, lambda rule: _LM_JOIN_RULES.get(rule, "invite"))


def _translated(source: Source, renaming: Renaming, powers: Any, join_rule: Any) -> Translated | Silent:
    if source.type in SILENT_TYPES:
        return Silent()
    if source.type in UNMAPPABLE_TYPES:
        raise Unmappable(UNMAPPABLE_TYPES[source.type])
    if source.type == REDACTION:
        return _redaction(source, renaming)
    if source.state_key is not None:
        if source.type == MEMBER:
            return _member(source, renaming.user)
        if source.type == POWER_LEVELS and source.state_key == "":
            return Translated(POWER_LEVELS, "", powers(source.content))
        if source.type == JOIN_RULES and source.state_key == "":
            rule = source.content.get("join_rule")
            return Translated(JOIN_RULES, "", {"join_rule": join_rule(rule if isinstance(rule, str) else "invite")})
    content = rewritten(source.type, _without_mark(source.content), renaming)
    return Translated(source.type, _state_key(source.state_key, renaming.user), content)


def _redaction(source: Source, renaming: Renaming) -> Translated:
    target = renaming.events.get(source.redacts or "")
    if target is None:
        raise Unmappable("unknown_target")
    return Translated(REDACTION, None, {**_without_mark(source.content), "redacts": target})


def _member(source: Source, rename: RenameUser) -> Translated:
    target = _state_key(source.state_key, rename)
    membership = source.content.get("membership")
    if membership not in MEMBERSHIPS or target is None:
        raise Unmappable("malformed")
    content = {field: source.content[field] for field in _MEMBER_FIELDS if field in source.content}
    return Translated(MEMBER, target, {**content, "membership": membership})


def _state_key(state_key: str | None, rename: RenameUser) -> str | None:
    if state_key is None or not state_key.startswith("@"):
        return state_key
    renamed = rename(state_key) if ":" in state_key else None
    if renamed is None:
        raise Unmappable("unknown_user")
    return renamed


def _without_mark(content: Mapping[str, Any]) -> JsonObject:
    """A mark in what somebody wrote says nothing: only the mirror's own counts."""
    return {key: value for key, value in content.items() if key != SOURCE}
