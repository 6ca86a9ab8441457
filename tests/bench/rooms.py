"""Rooms of any length and membership, written straight into a hub's database before the hub starts.

Owns: :func:`write_room`. What it writes is what the hub would have written itself, made by the hub's own decisions and
stores: every event completed, hashed and signed, naming the one before it; state, spans and delivery cursors as they
would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from lmatrix.crypto.keys import SigningKey
from lmatrix.events.building import build_lpdu
from lmatrix.events.creation import Preset, RoomPlan, initial_events
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, room_version
from lmatrix.events.state import StateMap
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import RoomAppend
from lmatrix.rooms.room import Room, RoomDraft
from lmatrix.rooms.sequencing import LocalEvent, take_local, take_lpdu
from lmatrix.storage.delivery import SqlDeliveryStore
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.room_log import SqlRoomStore
from tests.bench.participant import message_content

_BATCH = 500
_FIRST_TS = 1_700_000_000_000


@attrs.frozen(kw_only=True)
class RoomShape:
    """What a room is to look like.

    Attributes:
        events: how many events it has; at least as many as its members need.
        members: joined users, all of them of the participants, in equal parts.
    """

    events: int
    members: int

    def __str__(self) -> str:
        return f"{self.events} events, {self.members} members"


@attrs.frozen
class Guest:
    """A participant of the room."""

    server_name: str
    key: SigningKey

    def user(self, number: int) -> str:
        """One of its users; the first of them is number 0."""
        return f"@user{number}:{self.server_name}"


def write_room(path: Path, identity: ServerIdentity, guests: Sequence[Guest], shape: RoomShape) -> str:
    """Write a room into a database, which is made if it is not there; returns its room ID.

    Its creator, a user of the hub, says everything that is said, and leaves. Nothing in it is owed to the guests.
    """
    writing = _Writing(path, identity)
    ending = shape.members + 1
    writing.take(_opening(identity), take_local)
    writing.take(_messages(identity, shape.events - writing.room.head_position - ending), take_local)
    writing.take(_joins(writing.room.room_id, identity, guests, shape.members), take_lpdu)
    leave = LocalEvent("m.room.member", _creator(identity), {"membership": "leave"}, _FIRST_TS, _creator(identity))
    writing.take([leave], take_local)
    writing.close([guest.server_name for guest in guests])
    return writing.room.room_id


class _Writing:
    def __init__(self, path: Path, identity: ServerIdentity) -> None:
        self._identity = identity
        self._database = InlineDatabase(path)
        self._store = SqlRoomStore()
        self._cursors = SqlDeliveryStore()
        version = room_version(DEFAULT_ROOM_VERSION)
        room_id = f"!bench:{identity.server_name}"
        self.room = Room(room_id, version, identity.server_name, StateMap(), 0, None, 1)
        self._write(lambda tx: self._store.insert_room(tx, room_id, version.identifier, 1))

    def take(self, events: Sequence[Any], decide: Callable[[RoomDraft, Any, ServerIdentity], object]) -> None:
        for start in range(0, len(events), _BATCH):
            draft = RoomDraft(self.room)
            for event in events[start : start + _BATCH]:
                decide(draft, event, self._identity)
            append = draft.as_append()
            self._write(partial(self._append, append))
            draft.apply()

    def close(self, destinations: Sequence[str]) -> None:
        for destination in destinations:
            self._write(partial(self._advance, destination))
        self._database.close()

    def _append(self, append: RoomAppend, tx: Any) -> None:
        self._store.append(tx, append)

    def _advance(self, destination: str, tx: Any) -> None:
        self._cursors.advance(tx, destination, self.room.room_id, self.room.head_position)

    def _write(self, work: Callable[[Any], object]) -> None:
        failures: list[Any] = []
        self._database.write(work).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()


def _creator(identity: ServerIdentity) -> str:
    return f"@creator:{identity.server_name}"


def _opening(identity: ServerIdentity) -> list[LocalEvent]:
    creator = _creator(identity)
    plan = RoomPlan(preset=Preset.PUBLIC_CHAT)
    return [
        LocalEvent(one.type, creator, one.content, _FIRST_TS, one.state_key)
        for one in initial_events(plan, room_version(DEFAULT_ROOM_VERSION), creator)
    ]


def _messages(identity: ServerIdentity, count: int) -> list[LocalEvent]:
    return [
        LocalEvent("m.room.message", _creator(identity), message_content(f"old {number}"), _FIRST_TS + number)
        for number in range(count)
    ]


def _joins(room_id: str, identity: ServerIdentity, guests: Sequence[Guest], members: int) -> list[Lpdu]:
    joins = []
    for number in range(members):
        guest = guests[number % len(guests)]
        user_id = guest.user(number // len(guests))
        joins.append(
            build_lpdu(
                room_version(DEFAULT_ROOM_VERSION),
                room_id=room_id,
                type="m.room.member",
                sender=user_id,
                state_key=user_id,
                content={"membership": "join", "displayname": f"User {number}"},
                origin_server_ts=_FIRST_TS,
                hub_server=identity.server_name,
                server_name=guest.server_name,
                keys=[guest.key],
            )
        )
    return joins
