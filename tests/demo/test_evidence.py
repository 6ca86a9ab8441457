"""What the demo says about servers' logs: positions for people, and every way of disagreeing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.demo.evidence import HeldEvent, HeldRoom, Position, disagreements
from lmatrix.demo.report import percentiles, room_table, what_happens
from lmatrix.demo.servers import Place
from lmatrix.events.building import add_signature, build_hub_event
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.events.signatures import required_signatures
from lmatrix.rooms.interfaces import SEGMENT_STRIDE, Standing

KEY = SigningKey.generate("1", seed=b"k" * 32)


def event(body: str, before: str | None, **changes: object) -> Pdu:
    """A message of the hub's user, after another event."""
    settings: dict[str, object] = {
        "room_id": "!r:hub.example",
        "type": "m.room.message",
        "sender": "@alice:hub.example",
        "content": {"body": body},
        "origin_server_ts": 1,
        "hub_server": "hub.example",
        "auth_events": [],
        "prev_events": [] if before is None else [before],
        "keys": [KEY],
    }
    return build_hub_event(room_version("I.1"), **(settings | changes))  # type: ignore[arg-type]


def chain(length: int) -> list[Pdu]:
    """A create event, and messages after it."""
    events = [event("", None, type="m.room.create", state_key="", content={"room_version": "I.1"})]
    for number in range(1, length):
        events.append(event(f"message {number}", events[-1].event_id))
    return events


def held(label: str, positions: Sequence[int], events: Sequence[Pdu]) -> HeldRoom:
    place = Place(label, f"{label}.example", "", Path(), Path(), Path())
    return HeldRoom(
        place,
        tuple(
            HeldEvent(Position.of(position), pdu, Standing.ACCEPTED, required_signatures(pdu), False)
            for position, pdu in zip(positions, events, strict=True)
        ),
    )


def hub(events: Sequence[Pdu]) -> HeldRoom:
    return held("hub", range(1, len(events) + 1), events)


def participant(events: Sequence[Pdu], start: int = SEGMENT_STRIDE) -> HeldRoom:
    return held("second", range(start, start + len(events)), events)


class Positions(SynchronousTestCase):
    def test_readable(self) -> None:
        """A hub's positions are as they are; a participant's count from where each stay began."""
        for position, shown in [
            (1, "1"),
            (12, "12"),
            (SEGMENT_STRIDE, "1+0"),
            (SEGMENT_STRIDE + 3, "1+3"),
            (SEGMENT_STRIDE - 2, "1-2"),
            (2 * SEGMENT_STRIDE + 1, "2+1"),
        ]:
            self.assertEqual(str(Position.of(position)), shown)


class Agreement(SynchronousTestCase):
    def test_agreement(self) -> None:
        """A part of the hub's log up to its end agrees, also with a gap between two stays."""
        events = chain(6)
        two_stays = held("third", [SEGMENT_STRIDE, 2 * SEGMENT_STRIDE], [events[1], events[5]])
        self.assertEqual(disagreements(hub(events), [participant(events[2:]), two_stays]), [])

    def assert_disagrees(self, words: str, hub_room: HeldRoom, other: HeldRoom) -> None:
        found = disagreements(hub_room, [other])
        self.assertTrue(any(words in line for line in found), found)

    def test_every_disagreement_is_found(self) -> None:
        """Missing, foreign, reordered and different events, and an early end."""
        events = chain(5)
        foreign = event("not the hub's", events[3].event_id)
        changed = attrs.evolve(hub(events).events[2], pdu=_twin(events[2]))
        other = participant(events)
        with_changed = attrs.evolve(other, events=(*other.events[:2], changed, *other.events[3:]))
        for words, held_there in [
            ("lacks 1 events before", participant([events[1], events[3], events[4]])),
            ("which the hub does not", participant([*events, foreign])),
            ("the hub before it", participant([events[1], events[0], *events[2:]])),
            ("other bytes of", with_changed),
            ("does not end where the hub does", participant(events[:4])),
            ("does not end where the hub does", participant([])),
        ]:
            self.assert_disagrees(words, hub(events), held_there)

    def test_broken_chain(self) -> None:
        """A hub whose own log is not one chain disagrees with itself."""
        events = chain(4)
        self.assert_disagrees("does not follow", hub([events[0], events[2], events[1], events[3]]), participant(events))


def _twin(pdu: Pdu) -> Pdu:
    """An event with the same ID and other bytes: a second signature is outside of the reference hash."""
    return add_signature(pdu, "other.example", [SigningKey.generate("2", seed=b"o" * 32)])


class Report(SynchronousTestCase):
    def test_table(self) -> None:
        """Each event is a line with position, ID, sender, what it does, and whose signatures hold over which form."""
        lines = list(room_table(hub(chain(2)), {"hub.example": "hub"}))
        self.assertEqual(len(lines), 5)
        self.assertIn('says "message 1"', lines[4])
        self.assertIn("@alice:hub.example", lines[4])
        self.assertTrue(lines[4].endswith("PDU: hub"))

    def test_what_happens(self) -> None:
        """Events in words; text of users is quoted, so that it cannot pretend to be anything else."""
        for changes, words in [
            ({"content": {"body": "two\nlines"}}, r'says "two\nlines"'),
            ({"type": "m.room.member", "state_key": "@b:x", "content": {"membership": "ban"}}, "bans @b:x"),
            ({"type": "m.room.name", "state_key": "", "content": {"name": "N"}}, 'sets name to "N"'),
            ({"type": "m.room.power_levels", "state_key": "", "content": {"ban": 1}}, "sets power levels"),
        ]:
            self.assertEqual(what_happens(event("", "$before", **changes)), words)

    def test_percentiles(self) -> None:
        """Percentiles of what was measured; nothing measured is said, not divided by."""
        self.assertEqual(percentiles([]), "no measurements")
        shown = percentiles(number / 1000 for number in range(1, 101))
        self.assertEqual(shown, "p50 51.0 ms, p95 96.0 ms, p99 100.0 ms, worst 100.0 ms")
