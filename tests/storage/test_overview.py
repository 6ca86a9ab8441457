"""What operators are told: rooms, what waits for them, and what is owed to whom."""

from __future__ import annotations

from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.interfaces import Evidence, SpanChange
from tests.storage.logs import ALICE, BOB, ROOM, StorageTestCase, lpdu, member, pdu, placed

OTHER = "!another:hub.example"


class OverviewTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.overview = self.stores.overview
        self.make_room()
        create = pdu(1, "m.room.create", {"room_version": "I.1"}, state_key="")
        self.append(placed(1, create), placed(2, member(2, ALICE, "join")), placed(3, member(3, BOB, "join")))

    def test_rooms(self) -> None:
        """Rooms come in pages, in the order of their IDs, each with its hub, its head, and who is in it."""
        self.make_room(room_id=OTHER)
        [first] = self.read(lambda tx: self.overview.rooms_after(tx, "", 1))
        self.assertEqual(
            (OTHER, None, None, {}), (first.room_id, first.head_event_id, first.hub_server(), first.joined)
        )
        self.assertEqual("left", first.role_of("hub.example"))
        [second] = self.read(lambda tx: self.overview.rooms_after(tx, first.room_id, 10))
        self.assertEqual((ROOM, 3, "hub.example"), (second.room_id, second.head_position, second.hub_server()))
        self.assertEqual({"hub.example": 1, "other.example": 1}, second.joined)
        roles = [second.role_of(server) for server in ("hub.example", "other.example", "third.example")]
        self.assertEqual(["hub", "participant", "left"], roles)
        self.assertEqual(second, self.read(lambda tx: self.overview.room(tx, ROOM)))
        self.assertIsNone(self.read(lambda tx: self.overview.room(tx, "!x:y")))

    def test_a_room_that_moved(self) -> None:
        """The hub is the server of the sender of the latest hub event."""
        moved = pdu(4, "m.room.hub", {"previous_hub": "hub.example"}, state_key="", sender=BOB)
        self.append(placed(4, moved), placed(5, member(5, ALICE, "leave")))
        room = self.read(lambda tx: self.overview.room(tx, ROOM))
        assert room is not None
        self.assertEqual(("other.example", {"other.example": 1}), (room.hub_server(), room.joined))

    def test_an_unknown_version(self) -> None:
        """Of a room of a version that is not known, the hub is not known either."""
        self.write(lambda tx: tx.execute("UPDATE rooms SET room_version = 'X.1'"))
        room = self.read(lambda tx: self.overview.room(tx, ROOM))
        assert room is not None
        self.assertIsNone(room.hub_server())

    def test_backlog(self) -> None:
        """What waits for the hub, and what is kept against it, is counted for each room."""
        self.assertEqual(0, self.read(lambda tx: self.overview.backlog(tx, ROOM)).pending_lpdus)
        self.write(lambda tx: self.stores.pending_lpdus.add(tx, lpdu(7), "third.example"))
        for number in range(3):
            kept = Evidence(ROOM, "fork", f"${number}", b"{}", None, "because", number)
            self.write(lambda tx, kept=kept: self.rooms.add_evidence(tx, kept))
        backlog = self.read(lambda tx: self.overview.backlog(tx, ROOM))
        self.assertEqual((1, 3), (backlog.pending_lpdus, backlog.evidence))
        [first, second] = self.read(lambda tx: self.overview.evidence_after(tx, ROOM, 0, 2))
        self.assertEqual(["$0", "$1"], [first.evidence.event_id, second.evidence.event_id])
        [third] = self.read(lambda tx: self.overview.evidence_after(tx, ROOM, second.number, 2))
        self.assertEqual("$2", third.evidence.event_id)

    def test_destinations(self) -> None:
        """Those that are owed events, LPDUs or EDUs, and those that do not answer; nobody who is up to date."""
        delivery, after = self.stores.delivery, ""
        self.append(
            placed(4, pdu(4)), spans=[SpanChange("other.example", 4, True), SpanChange("done.example", 4, True)]
        )
        self.append(placed(5, pdu(5)))
        self.write(lambda tx: delivery.advance(tx, "done.example", ROOM, 5))
        self.write(lambda tx: self.stores.pending_lpdus.add(tx, lpdu(7), "hub.example"))
        self.write(lambda tx: delivery.add_edu(tx, "edu.example", {}, 10))
        failing = DestinationState(retry_at_ms=9, failing_since_ms=5, interval_ms=4)
        self.write(lambda tx: delivery.put_destination(tx, "down.example", failing))
        self.write(lambda tx: delivery.put_destination(tx, "fine.example", DestinationState(path_form="stable")))
        found = {}
        while page := self.read(lambda tx, after=after: self.overview.owed_after(tx, after, 2)):
            found.update((one.destination, one) for one in page)
            after = page[-1].destination
        self.assertEqual(["down.example", "edu.example", "hub.example", "other.example"], list(found))
        self.assertEqual(failing, found["down.example"].state)
        self.assertEqual(1, found["edu.example"].edus)
        self.assertEqual(1, found["hub.example"].pending_lpdus)
        self.assertEqual((2, 1), (found["other.example"].owed_events, found["other.example"].owed_rooms))
