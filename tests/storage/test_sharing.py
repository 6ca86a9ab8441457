"""Who shares rooms with whom."""

from __future__ import annotations

from lmatrix.rooms.interfaces import RoomAppend
from tests.storage.logs import ALICE, BOB, StorageTestCase, member, placed

ROOMS = ("!one:hub.example", "!two:hub.example")
CAROL = "@carol:Other.example"


class SharingTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.sharing = self.stores.sharing
        self.next = {}
        for room_id in ROOMS:
            self.make_room(room_id=room_id)
            self.next[room_id] = 1
        self.number = 100

    def set(self, room_id: str, user_id: str, membership: str) -> int:
        """A membership; its stream position."""
        self.number += 1
        event = placed(self.next[room_id], member(self.number, user_id, membership, room_id=room_id))
        self.next[room_id] += 1
        [stream] = self.write(lambda tx: self.rooms.append(tx, RoomAppend(room_id, (event,))))
        return int(stream)

    def shares(self, user_id: str, server: str, since: int | None = None) -> bool:
        return self.read(lambda tx: self.sharing.shares_with_server(tx, user_id, server, since))

    def test_only_joined_users_count(self) -> None:
        """Invited, banned and former members share nothing."""
        self.set(ROOMS[0], ALICE, "join")
        for membership in ("invite", "knock", "leave", "ban"):
            self.set(ROOMS[0], BOB, membership)
            self.assertFalse(self.read(lambda tx: self.sharing.share_a_room(tx, ALICE, BOB)))
            self.assertFalse(self.shares(ALICE, "other.example"))
            self.assertFalse(self.read(lambda tx: self.sharing.is_joined(tx, ROOMS[0], BOB)))
        self.set(ROOMS[0], BOB, "join")
        self.assertTrue(self.read(lambda tx: self.sharing.share_a_room(tx, ALICE, BOB)))
        self.assertTrue(self.shares(ALICE, "other.example"))
        self.assertEqual(self.read(lambda tx: self.sharing.joined_users(tx, ROOMS[0])), [ALICE, BOB])
        self.assertEqual(self.read(lambda tx: self.sharing.joined_rooms(tx, BOB)), [ROOMS[0]])

    def test_servers(self) -> None:
        """Server names are compared byte for byte, and not by their ends."""
        self.set(ROOMS[0], ALICE, "join")
        self.set(ROOMS[0], CAROL, "join")
        servers = self.read(lambda tx: self.sharing.servers_sharing(tx, ALICE))
        self.assertEqual(servers, {"hub.example", "Other.example"})
        for server, expected in (
            ("Other.example", True),
            ("other.example", False),
            ("example", False),
            ("ther.example", False),
            ("carol:Other.example", False),
            ("%", False),
        ):
            self.assertEqual(self.shares(ALICE, server), expected, server)
        self.assertFalse(self.shares("@nobody:x", "Other.example"))

    def test_without_a_break(self) -> None:
        """Sharing since a place in the stream means one room in which both have been all the time."""
        self.set(ROOMS[0], ALICE, "join")
        joined = self.set(ROOMS[0], BOB, "join")
        self.assertTrue(self.shares(BOB, "hub.example", joined))
        self.assertFalse(self.shares(BOB, "hub.example", joined - 1))
        self.set(ROOMS[1], ALICE, "join")
        both = self.set(ROOMS[1], BOB, "join")
        self.set(ROOMS[0], BOB, "leave")
        self.assertTrue(self.shares(BOB, "hub.example", both))
        self.assertFalse(self.shares(BOB, "hub.example", joined))
        self.set(ROOMS[1], BOB, "leave")
        again = self.set(ROOMS[1], BOB, "join")
        self.assertFalse(self.shares(BOB, "hub.example", both))
        self.assertTrue(self.shares(BOB, "hub.example", again))
