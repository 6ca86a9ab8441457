"""Which fields redaction keeps, as data, and the stripping itself.

Owns: :class:`RedactionRules` and its two values, one for each known family of room versions, and the pure function that
strips fields by them. A room version points at its rules; nothing here knows of room versions.

Invariants: redaction is idempotent, never adds a field, and never changes the value of a field that it keeps whole.

Source: I-D "Event Redactions"; for v02 the Matrix specification's room version 11, "Redactions", as changed by the
I-D's "mx-differences" (``hub_server`` is kept, ``depth`` is not).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import attrs


class Keep(Enum):
    """How much of a field survives."""

    ALL = "all"


# What is kept of an object: everything, or the named keys, each in turn to the extent that its value says.
Kept = Keep | Mapping[str, "Kept"]

JsonObject = dict[str, Any]


@attrs.frozen(slots=True, eq=False)
class RedactionRules:
    """What redaction keeps.

    Attributes:
        top_level: the names of the top-level fields that stay.
        content: by event type, what stays of ``content``. Of a type that is not listed, nothing does.
        signed: the names of the top-level fields that signatures and event ID cover: all that stay but ``signatures``.
    """

    top_level: frozenset[str]
    content: Mapping[str, Kept]
    signed: frozenset[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "signed", self.top_level - {"signatures"})

    def redacted_content(self, event_type: str, content: JsonObject) -> JsonObject:
        """What is left of ``content``: the same object when all of it stays, else a new one."""
        kept = self.content.get(event_type)
        if kept is None:
            return {}
        return _strip(content, kept)


def redact_fields(fields: Mapping[str, Any], rules: RedactionRules) -> JsonObject:
    """A redacted copy of an event's top-level fields.

    Args:
        fields: the event, as a JSON object with string ``type`` and object ``content``.
        rules: its room version's.

    Source: I-D "Event Redactions".
    """
    redacted = {key: value for key, value in fields.items() if key in rules.top_level}
    redacted["content"] = rules.redacted_content(fields["type"], fields["content"])
    return redacted


def _strip(value: JsonObject, kept: Kept) -> JsonObject:
    if isinstance(kept, Keep):
        return value
    stripped: JsonObject = {}
    for key, kept_below in kept.items():
        if key not in value:
            continue
        if isinstance(kept_below, Keep):
            stripped[key] = value[key]
        elif isinstance(value[key], dict):
            # Only part of this field is kept, and only an object has parts.
            stripped[key] = _strip(value[key], kept_below)
    return stripped


def _keys(*names: str) -> Mapping[str, Kept]:
    return dict.fromkeys(names, Keep.ALL)


_TOP_LEVEL: Final = frozenset(
    {
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "origin_server_ts",
        "hashes",
        "signatures",
        "prev_events",
        "auth_events",
        "hub_server",
    }
)

_POWER_LEVELS: Final = _keys(
    "ban",
    "events",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)

I1_REDACTION: Final = RedactionRules(
    top_level=_TOP_LEVEL,
    content={
        "m.room.create": Keep.ALL,
        "m.room.member": _keys("membership"),
        "m.room.join_rules": _keys("join_rule"),
        "m.room.power_levels": _POWER_LEVELS,
        "m.room.history_visibility": _keys("history_visibility"),
        # Ours: without its target a redaction of a redaction would lose what it redacted, and without its content a
        # hub transfer could not be checked again.
        "m.room.redaction": _keys("redacts"),
        "m.room.hub": Keep.ALL,
    },
)
"""I.1: the I-D's lists, ``redacts``, and all of ``m.room.hub``."""

V11_REDACTION: Final = RedactionRules(
    top_level=_TOP_LEVEL,
    content={
        "m.room.create": Keep.ALL,
        "m.room.member": {
            "membership": Keep.ALL,
            "join_authorised_via_users_server": Keep.ALL,
            "third_party_invite": _keys("signed"),
        },
        "m.room.join_rules": _keys("join_rule", "allow"),
        "m.room.power_levels": _POWER_LEVELS,
        "m.room.history_visibility": _keys("history_visibility"),
        "m.room.redaction": _keys("redacts"),
    },
)
"""v02: room version 11's lists, with ``hub_server`` and without ``depth``."""
