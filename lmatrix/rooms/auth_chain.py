"""The auth chain of some events: their auth events, the auth events of those, and so on to the create event.

Owns: collecting it from the log, a generation at a time (I-D "GET /state", "POST /send_join").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmatrix.canonical_json import parse_object
from lmatrix.rooms.interfaces import RoomStore, StoredEvent


def auth_chain(tx: Any, store: RoomStore, events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """Every auth event of the given events, recursively; in the room's order, so that the create event comes first.

    Events that are given may be among it, as auth events of one another. What this server does not hold is left out.
    """
    chain: dict[str, StoredEvent] = {}
    wanted = _auth_events(events)
    while wanted:
        found = store.events(tx, sorted(wanted))
        chain.update(found)
        wanted = _auth_events(found.values()) - chain.keys()
    return sorted(chain.values(), key=lambda event: (event.position, event.event_id))


def _auth_events(events: Iterable[StoredEvent]) -> set[str]:
    return {auth_id for event in events for auth_id in parse_object(event.canonical).get("auth_events", ())}
