"""What is checked while a run goes on: what is on the disks, what is said on the network, what is in the log.

Owns: :class:`Watch`. It looks at every commit of every correct server the moment it is made, and remembers who was told
what, so that the end of the run can be held against it.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.logger import LogEvent, LogLevel, formatEvent

from lmatrix.errors import Overloaded, ShuttingDown, StorageFailed
from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import SEGMENT_STRIDE
from tests.simulation.disk import Disk


@attrs.frozen
class Violation:
    """Something that must never be.

    Attributes:
        kind: one word, the same for the same kind of thing: what shrinking holds on to.
    """

    kind: str
    what: str

    def __str__(self) -> str:
        return f"[{self.kind}] {self.what}"


@attrs.define
class _Seen:
    """The last event of a room on one server's disk."""

    position: int
    event_id: str


class Watch:
    """The witness.

    Args:
        correct: names of the servers that keep the rules.

    Attributes:
        tainted: rooms that have, or had, a hub that does not keep the rules.
        given: of those that were given to it, the event by which the first correct hub did so; by room ID.
        joins: the joins that correct hubs said they had let in: ``(hub, room ID, content hash)``.
        told_accepted: what correct hubs said that they had accepted: ``(hub, whom it told, event ID)``.
    """

    def __init__(self, correct: frozenset[str]) -> None:
        self.correct = correct
        self.violations: list[Violation] = []
        self.tainted: set[str] = set()
        self.given: dict[str, str] = {}
        self.joins: list[tuple[str, str, str]] = []
        self.events = 0
        self.told_accepted: list[tuple[str, str, str]] = []
        self._streams: dict[str, int] = {}
        self._last: dict[tuple[str, str], _Seen] = {}
        self._successors: dict[str, tuple[str, str]] = {}

    def violated(self, kind: str, what: str) -> None:
        """Something is wrong."""
        self.violations.append(Violation(kind, what))

    # -- Disks ---------------------------------------------------------------------------------------------------------

    def committed(self, name: str, disk: Disk) -> None:
        """A commit on a disk: the chain must go on there as it does everywhere else."""
        rows = disk.look(
            "SELECT e.stream, r.room_id, e.position, e.event_id, e.canonical, e.standing, r.room_version"
            " FROM events AS e"
            " JOIN rooms AS r ON r.room_nid = e.room_nid WHERE e.stream > ? ORDER BY e.stream",
            self._streams.get(name, 0),
        )
        for stream, room_id, position, event_id, canonical, standing, version in rows:
            self._streams[name] = stream
            event = json.loads(canonical)
            if event["type"] in ("m.room.create", "m.room.hub") and server_of(event["sender"]) not in self.correct:
                if room_id not in self.tainted and event["type"] == "m.room.hub":
                    self.given[room_id] = event_id
                self.tainted.add(room_id)
            if name in self.correct:
                self.events += 1
                tolerant = version != "I.1" and room_id in self.tainted
                self._appended(name, room_id, position, event_id, event, standing, tolerant=tolerant)

    def _appended(
        self,
        name: str,
        room_id: str,
        position: int,
        event_id: str,
        event: dict[str, Any],
        standing: str,
        *,
        tolerant: bool,
    ) -> None:
        last = self._last.get((name, room_id))
        prev_events = event["prev_events"]
        new_run = last is None or (position % SEGMENT_STRIDE == 0 and position > last.position)
        if last is not None and not new_run:
            if position != last.position + 1:
                self.violated("position", f"{name} put {event_id} at {position} after {last.position} in {room_id}")
            if prev_events != [last.event_id] and not tolerant:
                self.violated("chain", f"{name} put {event_id} after {last.event_id}; it names {prev_events}")
        self._last[name, room_id] = _Seen(position, event_id)
        if room_id in self.tainted:
            return
        if standing != "accepted":
            self.violated("standing", f"{name} holds {event_id} of {room_id}, which is {standing}")
        for prev in prev_events or [room_id]:
            before = self._successors.setdefault(prev, (event_id, name))
            if before[0] != event_id:
                self.violated("fork", f"after {prev} comes {before[0]} at {before[1]} and {event_id} at {name}")

    # -- Network -------------------------------------------------------------------------------------------------------

    def answered(self, origin: str, destination: str, request: OutgoingRequest, answer: Answer) -> None:
        """A server gave an answer: what it says is on its disk must be there at the end."""
        if destination not in self.correct or answer.status != 200:
            return
        if "/send_join/" in request.target:
            event = json.loads(answer.body)["event"]
            self.joins.append((destination, event["room_id"], event["hashes"]["sha256"]))
        if request.method != "PUT" or request.body is None or "/send/" not in request.target:
            return
        body = json.loads(answer.body)
        for made in body.get("org.lmatrix.accepted", {}).values():
            self.told_accepted.append((destination, origin, made))

    # -- Log -----------------------------------------------------------------------------------------------------------

    def logged(self, event: LogEvent) -> None:
        """A line of the log: failures that nobody meant to happen."""
        failure = event.get("log_failure")
        if failure is None:
            # Whoever has lied in a room as its hub is found out by the program that he misuses, too.
            if event.get("log_level") is LogLevel.critical and event.get("room_id") not in self.tainted:
                self.violated("log", formatEvent(event))
            return
        ours = failure.check(StorageFailed, Overloaded, ShuttingDown) and event.get("log_namespace") != "log_legacy"
        if ours and "Unhandled" not in formatEvent(event):
            return
        self.violated("log", f"{formatEvent(event)}: {failure.getTraceback()[-2500:]}")
