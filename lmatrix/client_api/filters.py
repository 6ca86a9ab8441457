"""Filters: what a client wants left out of ``/sync`` and ``/messages``.

Owns: :class:`EventFilter` (a ``RoomEventFilter``) and :class:`SyncFilter` (a ``Filter``), and their checked parsing.
Pure. Invariants: a filter only ever leaves out, it never shows more than the user may see; an unknown key is ignored,
a known one of the wrong type is refused. ``lazy_load_members`` is accepted and not acted on: the Client-Server API
lets a server send members that the client could do without. Source: Client-Server API v1.11, "Filtering".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmatrix.client_api.errors import bad_json
from lmatrix.client_api.fields import optional_flag, optional_object

DEFAULT_TIMELINE_LIMIT = 20
MAX_TIMELINE_LIMIT = 200
MAX_ENTRIES = 1000
"""Entries in one list of a filter."""


@attrs.frozen(slots=True)
class EventFilter:
    """Which events of a room are wanted.

    Attributes:
        limit: how many at most.
        types, senders: only these; ``None`` for all. A ``*`` in a type stands for any characters.
        not_types, not_senders: not these, even when named above.
        contains_url: only events whose content has a string ``url`` (true), or has none (false).
    """

    limit: int = DEFAULT_TIMELINE_LIMIT
    types: frozenset[str] | None = None
    not_types: frozenset[str] = frozenset()
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    contains_url: bool | None = None

    def wants(self, event: Mapping[str, Any]) -> bool:
        """Whether an event, by its ``type``, ``sender`` and ``content``, is wanted."""
        sender = event["sender"]
        if not self.wants_type(event["type"]):
            return False
        if self.senders is not None and sender not in self.senders:
            return False
        if sender in self.not_senders:
            return False
        return self.contains_url is None or isinstance(event["content"].get("url"), str) == self.contains_url

    def wants_type(self, event_type: str) -> bool:
        """Whether anything of a type is wanted."""
        if self.types is not None and not any(_matches(pattern, event_type) for pattern in self.types):
            return False
        return not any(_matches(pattern, event_type) for pattern in self.not_types)

    @property
    def wants_all(self) -> bool:
        """Whether it leaves nothing out."""
        return (
            self.types is None
            and not self.not_types
            and self.senders is None
            and not self.not_senders
            and self.contains_url is None
        )


@attrs.frozen(slots=True)
class SyncFilter:
    """What ``/sync`` shall contain.

    Attributes:
        timeline, state, ephemeral, account_data: which events of each room.
        rooms: only these rooms; ``None`` for all.
        not_rooms: not these.
        include_leave: whether rooms left before ``since`` (or, without ``since``, ever) are wanted.
    """

    timeline: EventFilter = EventFilter()
    state: EventFilter = EventFilter()
    ephemeral: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False

    def wants_room(self, room_id: str) -> bool:
        """Whether a room is wanted."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms


def parse_event_filter(raw: Mapping[str, Any], *, name: str = "filter") -> EventFilter:
    """A ``RoomEventFilter``. Raises 400 ``M_BAD_JSON``."""
    limit = raw.get("limit")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise bad_json(f"{name}.limit", "a whole number, not negative")
    contains_url = raw.get("contains_url")
    if contains_url is not None and not isinstance(contains_url, bool):
        raise bad_json(f"{name}.contains_url", "true or false")
    return EventFilter(
        limit=DEFAULT_TIMELINE_LIMIT if limit is None else max(1, min(limit, MAX_TIMELINE_LIMIT)),
        types=_strings(raw, "types", name),
        not_types=_strings(raw, "not_types", name) or frozenset(),
        senders=_strings(raw, "senders", name),
        not_senders=_strings(raw, "not_senders", name) or frozenset(),
        contains_url=contains_url,
    )


def parse_sync_filter(raw: Mapping[str, Any]) -> SyncFilter:
    """A ``Filter``. Raises 400 ``M_BAD_JSON``."""
    room = optional_object(raw, "room") or {}
    return SyncFilter(
        timeline=parse_event_filter(optional_object(room, "timeline") or {}, name="room.timeline"),
        state=parse_event_filter(optional_object(room, "state") or {}, name="room.state"),
        ephemeral=parse_event_filter(optional_object(room, "ephemeral") or {}, name="room.ephemeral"),
        account_data=parse_event_filter(optional_object(room, "account_data") or {}, name="room.account_data"),
        rooms=_strings(room, "rooms", "room"),
        not_rooms=_strings(room, "not_rooms", "room") or frozenset(),
        include_leave=optional_flag(room, "include_leave"),
    )


def _strings(raw: Mapping[str, Any], key: str, name: str) -> frozenset[str] | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_ENTRIES or not all(isinstance(entry, str) for entry in value):
        raise bad_json(f"{name}.{key}", f"a list of at most {MAX_ENTRIES} strings")
    return frozenset(value)


def _matches(pattern: str, text: str) -> bool:
    """Whether a text has the form of a pattern in which ``*`` stands for any characters. Linear in both lengths."""
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
