"""Helpers for the storage tests: events without real signatures, and rooms that are written to a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, room_version
from lmatrix.rooms.interfaces import AppendedEvent, RoomAppend, SpanChange, Standing, StoredEvent
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores

T = TypeVar("T")
VERSION = room_version(DEFAULT_ROOM_VERSION)
ROOM = "!room:hub.example"
ALICE = "@alice:hub.example"
BOB = "@bob:other.example"


def pdu(
    number: int,
    event_type: str = "m.room.message",
    content: dict[str, Any] | None = None,
    *,
    state_key: str | None = None,
    sender: str = ALICE,
    room_id: str = ROOM,
    prev: Sequence[str] = (),
) -> Pdu:
    """An event that differs from all others by its number, which is also its time."""
    fields = _fields(number, event_type, content, state_key, sender, room_id)
    fields["hashes"]["sha256"] = f"content-{number}"
    return Pdu.of_checked({**fields, "auth_events": [], "prev_events": list(prev)}, VERSION)


def lpdu(number: int, *, sender: str = BOB, room_id: str = ROOM) -> Lpdu:
    """The same for an LPDU."""
    return Lpdu.of_checked(_fields(number, "m.room.message", None, None, sender, room_id), VERSION)


def member(number: int, user_id: str, membership: str, *, room_id: str = ROOM, prev: Sequence[str] = ()) -> Pdu:
    """A member event by the user itself."""
    content = {"membership": membership}
    return pdu(number, "m.room.member", content, state_key=user_id, sender=user_id, room_id=room_id, prev=prev)


def placed(position: int, event: Pdu, standing: Standing = Standing.ACCEPTED, **redaction: Any) -> AppendedEvent:
    """An event with its place."""
    return AppendedEvent(position, event, standing, event.lpdu_hash, **redaction)


def ids(events: Sequence[StoredEvent]) -> list[str]:
    """Their event IDs."""
    return [event.event_id for event in events]


def _fields(
    number: int,
    event_type: str,
    content: dict[str, Any] | None,
    state_key: str | None,
    sender: str,
    room_id: str,
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "room_id": room_id,
        "type": event_type,
        "sender": sender,
        "origin_server_ts": number,
        "content": {"body": f"number {number}"} if content is None else content,
        "hub_server": "hub.example",
        "hashes": {"lpdu": {"sha256": f"lpdu-{number}"}},
        "signatures": {},
    }
    if state_key is not None:
        fields["state_key"] = state_key
    return fields


class StorageTestCase(SynchronousTestCase):
    """A database in memory, with all stores."""

    def setUp(self) -> None:
        self.database = InlineDatabase()
        self.addCleanup(self.database.close)
        self.stores = Stores.create()
        self.rooms = self.stores.rooms
        self.timeline = self.stores.timeline

    def write(self, work: Callable[[Any], T]) -> T:
        """Commit one work, which must succeed."""
        return self.successResultOf(self.database.write(work))

    def read(self, work: Callable[[Any], T]) -> T:
        """Run one reading work."""
        return self.successResultOf(self.database.read(work))

    def make_room(self, *, room_id: str = ROOM, first_position: int = 1) -> None:
        """An empty room."""
        self.write(lambda tx: self.rooms.insert_room(tx, room_id, VERSION.identifier, first_position))

    def append(self, *events: AppendedEvent, room_id: str = ROOM, spans: Sequence[SpanChange] = ()) -> Sequence[int]:
        """Append a batch."""
        return self.write(lambda tx: self.rooms.append(tx, RoomAppend(room_id, events, spans)))

    def append_messages(self, positions: range, *, room_id: str = ROOM) -> list[Pdu]:
        """A message at each position, its number being the position."""
        events = [pdu(position, room_id=room_id) for position in positions]
        self.append(*(placed(event.origin_server_ts, event) for event in events), room_id=room_id)
        return events
