"""Appending to a room's log, and finding what was appended."""

from __future__ import annotations

from typing import Any

from lmatrix.errors import NotFound
from lmatrix.rooms.interfaces import Evidence, RoomAppend, ServerSpan, SpanChange, Standing
from lmatrix.storage.room_log import MAX_EVIDENCE
from tests.storage.logs import ALICE, BOB, ROOM, VERSION, StorageTestCase, ids, member, pdu, placed


class RoomTests(StorageTestCase):
    def test_an_unknown_room_is_not_there(self) -> None:
        """Reading from an unknown room finds nothing; it is no error."""
        self.assertIsNone(self.read(lambda tx: self.rooms.load_room(tx, ROOM)))
        self.assertEqual(list(self.read(lambda tx: self.rooms.events_between(tx, ROOM, 0, 9, 9))), [])
        self.assertEqual(list(self.read(lambda tx: self.rooms.state_before(tx, ROOM, 9))), [])
        self.assertEqual(list(self.read(lambda tx: self.rooms.servers_owed(tx, ROOM))), [])

    def test_an_unknown_room_is_not_written_to(self) -> None:
        """Appending to a room that was never inserted fails, and stores nothing."""
        event = pdu(1)
        failing = self.database.write(lambda tx: self.rooms.append(tx, RoomAppend(ROOM, [placed(1, event)])))
        self.failureResultOf(failing, NotFound)
        self.assertIsNone(self.read(lambda tx: self.rooms.event(tx, event.event_id)))

    def test_an_empty_room_has_its_head_below_its_first_position(self) -> None:
        """The next event of an empty run is at its first position, also for a participant."""
        self.make_room(first_position=1)
        self.make_room(room_id="!other:x", first_position=2**32)
        for room_id, head in ((ROOM, 0), ("!other:x", 2**32 - 1)):
            room = self.read(lambda tx, room_id=room_id: self.rooms.load_room(tx, room_id))
            assert room is not None
            self.assertEqual((room.head_position, room.head_event_id, list(room.state)), (head, None, []))
        self.assertEqual(self.read(self.rooms.rooms_of_server), [ROOM, "!other:x"])

    def test_append_moves_the_head_and_the_state(self) -> None:
        """After an append the room has the last event as its head, and the last event of each key as its state."""
        self.make_room()
        create = pdu(1, "m.room.create", {}, state_key="")
        joined, left = member(2, ALICE, "join"), member(4, ALICE, "leave")
        streams = self.append(placed(1, create), placed(2, joined), placed(3, pdu(3)))
        self.assertEqual(list(streams), [1, 2, 3])
        self.assertEqual(list(self.append(placed(4, left))), [4])
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual((room.head_position, room.head_event_id), (4, left.event_id))
        self.assertEqual(ids(room.state), [create.event_id, left.event_id])
        self.assertEqual([event.position for event in room.state], [1, 4])
        self.assertEqual(room.state[1].canonical, left.canonical)
        self.assertEqual(room.room_version, VERSION.identifier)

    def test_rejected_state_is_not_state(self) -> None:
        """A rejected event holds its place and changes no state; a soft-failed one does."""
        self.make_room()
        topic, soft, rejected = (pdu(n, "m.room.topic", {"topic": str(n)}, state_key="") for n in (1, 2, 3))
        self.append(placed(1, topic), placed(2, soft, Standing.SOFT_FAILED), placed(3, rejected, Standing.REJECTED))
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(ids(room.state), [soft.event_id])
        self.assertEqual(room.head_event_id, rejected.event_id)
        stored = self.read(lambda tx: self.rooms.events_between(tx, ROOM, 0, 3, 9))
        self.assertEqual([e.standing for e in stored], [Standing.ACCEPTED, Standing.SOFT_FAILED, Standing.REJECTED])

    def test_large_batches(self) -> None:
        """A batch of any size is stored whole and in order."""
        self.make_room()
        events = self.append_messages(range(1, 204))
        stored = self.read(lambda tx: self.rooms.events_between(tx, ROOM, 0, 1000, 1000))
        self.assertEqual(ids(stored), [event.event_id for event in events])
        self.assertEqual([event.stream for event in stored], list(range(1, 204)))
        found = self.read(lambda tx: self.rooms.events(tx, [event.event_id for event in events]))
        self.assertEqual({e.event_id: e.canonical for e in events}, {k: v.canonical for k, v in found.items()})

    def test_a_position_and_an_event_are_given_once(self) -> None:
        """A second event at a position, and an event at a second position, are refused; the room stays as it was."""
        self.make_room()
        message, state = pdu(1), pdu(2, "m.room.topic", {}, state_key="")
        self.append(placed(1, message), placed(2, state))
        for bad in (placed(2, pdu(9)), placed(3, message), placed(3, state)):
            self.failureResultOf(
                self.database.write(lambda tx, bad=bad: self.rooms.append(tx, RoomAppend(ROOM, [bad])))
            )
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(room.head_event_id, state.event_id)

    def test_ranges(self) -> None:
        """Ranges exclude their lower and include their upper end, and stop at their limit."""
        self.make_room()
        self.append_messages(range(1, 11))
        between = self.read(lambda tx: self.rooms.events_between(tx, ROOM, 3, 7, 100))
        self.assertEqual([event.position for event in between], [4, 5, 6, 7])
        between = self.read(lambda tx: self.rooms.events_between(tx, ROOM, 3, 7, 2))
        self.assertEqual([event.position for event in between], [4, 5])
        before = self.read(lambda tx: self.rooms.events_before(tx, ROOM, 5, 3))
        self.assertEqual([event.position for event in before], [5, 4, 3])

    def test_accepted_lpdus(self) -> None:
        """Accepted events are found by sender and LPDU hash, in their own room only; others are not."""
        self.make_room()
        self.make_room(room_id="!other:x")
        one, two, rejected = pdu(1), pdu(2, sender=BOB), pdu(3)
        elsewhere = pdu(4, room_id="!other:x")
        self.append(placed(1, one), placed(2, two), placed(3, rejected, Standing.REJECTED))
        self.append(placed(1, elsewhere), room_id="!other:x")
        keys = [(ALICE, "lpdu-1"), (BOB, "lpdu-2"), (ALICE, "lpdu-2"), (ALICE, "lpdu-3"), (ALICE, "lpdu-4")]
        found = self.read(lambda tx: self.rooms.accepted_lpdus(tx, ROOM, keys))
        self.assertEqual(found, {(ALICE, "lpdu-1"): one.event_id, (BOB, "lpdu-2"): two.event_id})
        self.assertEqual(self.read(lambda tx: self.rooms.accepted_lpdus(tx, ROOM, [])), {})

    def test_one_lpdu_twice(self) -> None:
        """A foreign hub that makes two events of one LPDU does not stop the log; the first of them counts."""
        self.make_room()
        first, second = pdu(1), pdu(1, prev=["$x"])
        self.append(placed(1, first))
        self.append(placed(2, second))
        found = self.read(lambda tx: self.rooms.accepted_lpdus(tx, ROOM, [(ALICE, "lpdu-1")]))
        self.assertEqual(found, {(ALICE, "lpdu-1"): first.event_id})

    def test_evidence(self) -> None:
        """Evidence comes back as it was put, the oldest first, by room."""
        one = Evidence(ROOM, "fork", "$a", b"{}", b"[]", "two successors", 5)
        two = Evidence(ROOM, "gap", None, b"{}", None, "never came", 6)
        for evidence in (one, Evidence("!other:x", "gap", None, b"", None, "", 1), two):
            self.write(lambda tx, evidence=evidence: self.rooms.add_evidence(tx, evidence))
        self.assertEqual(self.read(lambda tx: self.rooms.evidence(tx, ROOM)), [one, two])

    def test_evidence_is_bounded(self) -> None:
        """A hub that does wrong without end fills no disk: a room's first pieces stay, another room's are kept."""

        def add(tx: Any) -> None:
            for number in range(MAX_EVIDENCE + 5):
                self.rooms.add_evidence(tx, Evidence(ROOM, "fork", f"${number}", b"{}", None, "", number))
            self.rooms.add_evidence(tx, Evidence("!other:x", "fork", "$x", b"{}", None, "", 1))

        self.write(add)
        kept = self.read(lambda tx: self.rooms.evidence(tx, ROOM))
        self.assertEqual([one.seen_ts for one in kept], list(range(MAX_EVIDENCE)))
        self.assertEqual(len(self.read(lambda tx: self.rooms.evidence(tx, "!other:x"))), 1)


class RedactionTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.make_room()

    def test_a_redaction_replaces_its_target(self) -> None:
        """The target's only copy is what ``redact`` made of it, and names the redaction; also where it is state."""
        topic = pdu(1, "m.room.topic", {"topic": "secret"}, state_key="")
        redaction = pdu(2, "m.room.redaction")
        self.append(placed(1, topic))
        seen: list[bytes] = []

        def redact(canonical: bytes) -> bytes:
            seen.append(canonical)
            return b"redacted"

        self.append(placed(2, redaction, redacts=topic.event_id, redact=redact))
        self.assertEqual(seen, [topic.canonical])
        stored = self.read(lambda tx: self.rooms.event(tx, topic.event_id))
        assert stored is not None
        self.assertEqual((stored.canonical, stored.redacted_by), (b"redacted", redaction.event_id))
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(room.state[0].canonical, b"redacted")

    def test_a_target_in_the_same_batch(self) -> None:
        """The target may come in the same batch as its redaction."""
        target, redaction = pdu(1), pdu(2, "m.room.redaction")
        self.append(placed(1, target), placed(2, redaction, redacts=target.event_id, redact=lambda _: b"gone"))
        stored = self.read(lambda tx: self.rooms.event(tx, target.event_id))
        assert stored is not None
        self.assertEqual(stored.canonical, b"gone")

    def test_redactions_that_do_nothing(self) -> None:
        """Nothing happens when ``redact`` declines, when the target is unknown or redacted already."""
        target, unknown = pdu(1), pdu(99)
        self.append(placed(1, target), placed(2, pdu(2), redacts=target.event_id, redact=lambda _: None))
        self.append(placed(3, pdu(3), redacts=unknown.event_id, redact=lambda _: b"gone"))
        stored = self.read(lambda tx: self.rooms.event(tx, target.event_id))
        assert stored is not None
        self.assertEqual((stored.canonical, stored.redacted_by), (target.canonical, None))
        first, second = pdu(4), pdu(5)
        self.append(placed(4, first, redacts=target.event_id, redact=lambda _: b"first"))
        self.append(placed(5, second, redacts=target.event_id, redact=lambda _: b"second"))
        stored = self.read(lambda tx: self.rooms.event(tx, target.event_id))
        assert stored is not None
        self.assertEqual((stored.canonical, stored.redacted_by), (b"first", first.event_id))


class SpanTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.make_room()
        self.append_messages(range(1, 31))

    def change(self, *changes: SpanChange) -> None:
        self.append(spans=changes)

    def spans(self, server: str = "s") -> list[ServerSpan]:
        return list(self.read(lambda tx: self.rooms.spans(tx, ROOM, server)))

    def owed(self) -> list[str]:
        return list(self.read(lambda tx: self.rooms.servers_owed(tx, ROOM)))

    def test_spans_open_and_close(self) -> None:
        """A server is owed the room from when its span opens to when it closes, again and again."""
        self.change(SpanChange("s", 3, True), SpanChange("t", 4, True))
        self.assertEqual(self.owed(), ["s", "t"])
        self.change(SpanChange("s", 7, False))
        self.change(SpanChange("s", 12, True))
        self.assertEqual(self.spans(), [ServerSpan(3, 7), ServerSpan(12, None)])
        self.change(SpanChange("s", 20, False))
        self.assertEqual(self.owed(), ["t"])
        self.assertEqual(self.spans(), [ServerSpan(3, 7), ServerSpan(12, 20)])

    def test_one_event(self) -> None:
        """A kick of a server that has nobody in the room owes it that one event."""
        self.change(SpanChange("s", 5, True), SpanChange("s", 5, False))
        self.assertEqual(self.spans(), [ServerSpan(5, 5)])
        self.assertEqual(self.owed(), [])

    def test_repetitions_change_nothing(self) -> None:
        """Opening what is open and closing what is closed have no effect."""
        self.change(SpanChange("s", 5, False))
        self.assertEqual(self.spans(), [])
        self.change(SpanChange("s", 5, True))
        self.change(SpanChange("s", 6, True))
        self.change(SpanChange("s", 9, False))
        self.change(SpanChange("s", 10, False))
        self.assertEqual(self.spans(), [ServerSpan(5, 9)])
