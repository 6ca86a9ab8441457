"""What local users' clients read of the logs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lmatrix.rooms.interfaces import SEGMENT_STRIDE, Standing
from tests.storage.logs import ALICE, BOB, ROOM, StorageTestCase, ids, member, pdu, placed

OTHER = "!other:x"


class MembershipTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.make_room()
        self.make_room(room_id=OTHER)

    def rooms_of(self, user_id: str) -> list[tuple[str, str]]:
        rooms = self.read(lambda tx: self.timeline.rooms_of_user(tx, user_id))
        return [(room.room_id, room.membership) for room in rooms]

    def test_rooms_of_user(self) -> None:
        """A user's rooms come with the membership now, its event, and where that stands."""
        self.append(placed(1, member(1, ALICE, "join")), placed(2, member(2, BOB, "join")))
        self.append(placed(1, member(3, ALICE, "invite", room_id=OTHER)), room_id=OTHER)
        left = member(4, ALICE, "leave")
        self.append(placed(3, left))
        self.assertEqual(self.rooms_of(ALICE), [(ROOM, "leave"), (OTHER, "invite")])
        self.assertEqual(self.rooms_of(BOB), [(ROOM, "join")])
        room = self.read(lambda tx: self.timeline.user_in_room(tx, ROOM, ALICE))
        self.assertEqual(room, (ROOM, "leave", left.event_id, 3, 4))
        self.assertIsNone(self.read(lambda tx: self.timeline.user_in_room(tx, OTHER, BOB)))

    def test_members_of_a_snapshot(self) -> None:
        """Members who came with a snapshot have its position, and no place in the stream."""
        self.make_room(room_id="!far:x", first_position=SEGMENT_STRIDE)
        snapshot = [member(1, BOB, "join", room_id="!far:x")]
        self.write(lambda tx: self.rooms.put_state_snapshot(tx, "!far:x", SEGMENT_STRIDE - 1, snapshot))
        room = self.read(lambda tx: self.timeline.user_in_room(tx, "!far:x", BOB))
        self.assertEqual(room, ("!far:x", "join", snapshot[0].event_id, SEGMENT_STRIDE - 1, None))

    def test_forgetting(self) -> None:
        """A forgotten room is not listed, until the user's membership changes."""
        self.append(placed(1, member(1, ALICE, "leave")), placed(2, member(2, BOB, "leave")))
        self.write(lambda tx: self.timeline.forget_room(tx, ALICE, ROOM))
        self.write(lambda tx: self.timeline.forget_room(tx, ALICE, "!unknown:x"))
        self.assertEqual(self.rooms_of(ALICE), [])
        self.assertEqual(self.rooms_of(BOB), [(ROOM, "leave")])
        self.append(placed(3, member(3, ALICE, "invite")))
        self.assertEqual(self.rooms_of(ALICE), [(ROOM, "invite")])
        self.append(placed(4, member(4, ALICE, "leave")))
        self.write(lambda tx: self.timeline.forget_room(tx, ALICE, ROOM))
        self.assertEqual(self.rooms_of(ALICE), [])

    def test_members(self) -> None:
        """Members now and before, their numbers, and a server's own."""
        names = ["@a:x", "@b:x", "@c:X", "@d:x.y", "@e%:x", "@f:a_c", "@g:abc"]
        self.append(*(placed(n, member(n, name, "join")) for n, name in enumerate(names, 1)))
        self.append(placed(8, member(8, "@b:x", "leave")), placed(9, member(9, "@h:x", "invite")))
        self.assertEqual(self.read(lambda tx: self.timeline.member_counts(tx, ROOM)), (6, 1))
        local = self.read(lambda tx: self.timeline.joined_local_users(tx, ROOM, "x"))
        self.assertEqual(sorted(local), ["@a:x", "@e%:x"])
        self.assertEqual(self.read(lambda tx: self.timeline.joined_local_users(tx, ROOM, "a_c")), ["@f:a_c"])
        self.assertEqual(len(self.read(lambda tx: self.timeline.members(tx, ROOM))), 8)
        self.assertEqual(len(self.read(lambda tx: self.timeline.members(tx, ROOM, 3))), 3)
        self.assertEqual(len(self.read(lambda tx: self.timeline.state_at(tx, ROOM, 3))), 3)


class StreamTests(StorageTestCase):
    def test_max_stream(self) -> None:
        """The stream counts events and invites together."""
        self.assertEqual(self.read(self.timeline.max_stream), 0)
        self.make_room()
        self.append_messages(range(1, 4))
        self.assertEqual(self.read(self.timeline.max_stream), 3)
        self.write(lambda tx: self.stores.invites.put(tx, ALICE, OTHER, "I.1", "x", pdu(9), []))
        self.assertEqual(self.read(self.timeline.max_stream), 4)
        self.assertEqual(list(self.append(placed(4, pdu(4)))), [5])

    def test_changes_since(self) -> None:
        """Rooms with a live event in a range of the stream, whatever came after; history fetched later is none."""
        rooms = ["!a:x", "!b:x", "!c:x"]
        for room_id in rooms:
            self.make_room(room_id=room_id, first_position=SEGMENT_STRIDE)
        for position, room_id in enumerate(["!a:x", "!b:x", "!a:x", "!b:x"]):
            self.append(placed(SEGMENT_STRIDE + position // 2, pdu(position, room_id=room_id)), room_id=room_id)
        self.write(lambda tx: self.rooms.prepend(tx, "!a:x", [placed(SEGMENT_STRIDE - 1, pdu(99, room_id="!a:x"))]))
        for since, up_to, changed in (
            (0, 4, ["!a:x", "!b:x"]),
            (2, 3, ["!a:x"]),
            (3, 4, ["!b:x"]),
            (1, 2, ["!b:x"]),
            (4, 4, []),
        ):
            found = self.read(lambda tx, s=since, u=up_to: self.timeline.changes_since(tx, rooms, s, u))
            self.assertEqual(sorted(found), changed)
        self.assertEqual(self.read(lambda tx: self.timeline.changes_since(tx, ["!b:x"], 0, 4)), ["!b:x"])
        self.assertEqual(self.read(lambda tx: self.timeline.changes_since(tx, [], 0, 4)), [])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from([ROOM, OTHER, "rejoin"]), st.integers(1, 40)), max_size=12))
    def test_position_at(self, steps: list[tuple[str, int]]) -> None:
        """For every stream position: the last live event of the room at or below it, over all runs."""
        case = PositionCase()
        case.setUp()
        self.addCleanup(case.doCleanups)
        case.make_room()
        case.make_room(room_id=OTHER)
        heads = {ROOM: 0, OTHER: 0}
        live: list[tuple[int, int]] = []
        stream = 0
        for room_id, count in steps:
            if room_id == "rejoin":
                heads[ROOM] = (heads[ROOM] // SEGMENT_STRIDE + 1) * SEGMENT_STRIDE - 1
                case.make_room(first_position=heads[ROOM] + 1)
                room_id = ROOM
            events = [pdu(stream + n, room_id=room_id) for n in range(1, count + 1)]
            case.append(*map(placed, range(heads[room_id] + 1, heads[room_id] + count + 1), events), room_id=room_id)
            for _ in range(count):
                heads[room_id] += 1
                stream += 1
                if room_id == ROOM:
                    live.append((stream, heads[ROOM]))
        for at in range(stream + 2):
            expected = max((position for s, position in live if s <= at), default=0)
            self.assertEqual(case.read(lambda tx, at=at: case.timeline.position_at(tx, ROOM, at)), expected)
        self.assertEqual(case.read(lambda tx: case.timeline.position_at(tx, "!unknown:x", 5)), 0)


class PositionCase(StorageTestCase):
    def runTest(self) -> None:
        """Only a database with helpers, one for each example."""


class PageTests(StorageTestCase):
    def pages(self, position: int, direction: str, limit: int) -> list[list[int]]:
        found = []
        while True:
            page = self.read(lambda tx, p=position: self.timeline.events_page(tx, ROOM, p, direction, limit))
            found.append([event.position for event in page.events])
            if not page.more:
                return found
            position = page.end

    def test_both_ways(self) -> None:
        """Pages go through the room without a gap or a repetition, in both directions."""
        self.make_room()
        self.append_messages(range(1, 8))
        self.assertEqual(self.pages(7, "b", 3), [[7, 6, 5], [4, 3, 2], [1]])
        self.assertEqual(self.pages(4, "b", 3), [[4, 3, 2], [1]])
        self.assertEqual(self.pages(4, "b", 4), [[4, 3, 2, 1]])
        self.assertEqual(self.pages(0, "f", 3), [[1, 2, 3], [4, 5, 6], [7]])
        self.assertEqual(self.pages(7, "f", 3), [[]])
        self.assertEqual(self.pages(0, "b", 3), [[]])
        self.assertEqual(self.read(lambda tx: self.timeline.events_page(tx, "!unknown:x", 3, "b", 3)), ([], 3, False))

    def test_only_accepted_events(self) -> None:
        """Rejected and soft-failed events are not in a page."""
        self.make_room()
        self.append(placed(1, pdu(1)), placed(2, pdu(2), Standing.REJECTED), placed(3, pdu(3), Standing.SOFT_FAILED))
        self.append(placed(4, pdu(4)))
        self.assertEqual(self.pages(4, "b", 9), [[4, 1]])
        self.assertEqual(self.pages(0, "f", 1), [[1], [4]])

    def test_holes(self) -> None:
        """A page ends at a hole between two stays, and goes on once the history between them is there."""
        self.make_room(first_position=SEGMENT_STRIDE)
        chain = [pdu(1)]
        for number in range(2, 8):
            chain.append(pdu(number, prev=[chain[-1].event_id]))
        second = 2 * SEGMENT_STRIDE
        self.append(*(placed(SEGMENT_STRIDE + n, chain[n]) for n in (0, 1)))
        self.make_room(first_position=second)
        self.append(*(placed(second + n - 4, chain[n]) for n in (4, 5, 6)))
        self.assertEqual(self.pages(second + 2, "b", 9), [[second + 2, second + 1, second]])
        self.assertEqual(self.pages(second - 1, "b", 9), [[]])
        self.assertEqual(self.pages(SEGMENT_STRIDE - 1, "f", 9), [[SEGMENT_STRIDE, SEGMENT_STRIDE + 1]])
        self.write(lambda tx: self.rooms.prepend(tx, ROOM, [placed(second - 1, chain[3])]))
        self.assertEqual(self.pages(second, "b", 9), [[second, second - 1]])
        self.write(lambda tx: self.rooms.prepend(tx, ROOM, [placed(second - 2, chain[2])]))
        everything = [second + n - 4 for n in (6, 5, 4, 3, 2)] + [SEGMENT_STRIDE + 1, SEGMENT_STRIDE]
        self.assertEqual(self.pages(second + 2, "b", 9), [everything])
        self.assertEqual(self.pages(SEGMENT_STRIDE - 1, "f", 9), [everything[::-1]])

    def test_a_stay_that_follows_at_once(self) -> None:
        """Nothing happened between leaving and coming back: there is no hole."""
        self.make_room(first_position=SEGMENT_STRIDE)
        left = member(1, BOB, "leave")
        joined = member(2, BOB, "join", prev=[left.event_id])
        self.append(placed(SEGMENT_STRIDE, left))
        self.make_room(first_position=2 * SEGMENT_STRIDE)
        self.append(placed(2 * SEGMENT_STRIDE, joined))
        before = self.read(lambda tx: self.rooms.events_before(tx, ROOM, 2 * SEGMENT_STRIDE, 9))
        self.assertEqual(ids(before), [joined.event_id, left.event_id])
