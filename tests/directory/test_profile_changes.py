"""How rooms are told of new profiles, when something goes wrong on the way."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.directory.profile_changes import MAX_AT_ONCE, RETRY_S, ProfileChanges
from lmatrix.errors import EventRejected, Overloaded
from lmatrix.storage.stores import Stores
from tests.rooms.network import Network


class Renamer:
    """Stands before the rooms: what they are told may fail, or take its time."""

    def __init__(self, network: Network) -> None:
        self._renamer = network.servers["hub.example"].floor.renamer
        self.errors: dict[str, Exception] = {}
        self.waiting: list[Deferred[None]] | None = None
        self.told: list[str] = []

    async def rename(self, room_id: str, user_id: str) -> None:
        self.told.append(room_id)
        if self.waiting is not None:
            turn: Deferred[None] = Deferred()
            self.waiting.append(turn)
            await turn
        if room_id in self.errors:
            raise self.errors[room_id]
        await self._renamer.rename(room_id, user_id)


class ProfileChangesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network()
        self.hub = self.network.server("hub.example")
        self.alice = self.hub.user("alice")
        self.stores = Stores.create()
        self.renamer = Renamer(self.network)
        self.changes = self.build()

    def build(self) -> ProfileChanges:
        return ProfileChanges(
            database=self.hub.database,
            store=self.stores.profiles,
            memberships=self.stores.sharing,
            renamer=self.renamer,
            clock=self.network.clock,
        )

    def rooms(self, count: int) -> list[str]:
        return [self.hub.create_room(self.alice) for _ in range(count)]

    def rename(self, name: str) -> None:
        self.network.finished(self.changes.set_field(self.alice, "displayname", name))

    def names(self, rooms: list[str]) -> list[str | None]:
        """What Alice is called in some rooms."""
        states = [self.network.finished(self.hub.floor.rooms.load(room_id)) for room_id in rooms]
        members = [room.state.get("m.room.member", self.alice) for room in states if room is not None]
        return [None if member is None else member.content.get("displayname") for member in members]

    def untold(self) -> list[str]:
        return list(self.successResultOf(self.hub.database.read(self.stores.profiles.users_unannounced)))

    def test_refused_in_one_room(self) -> None:
        """A room that refuses, and a mistake of ours, keep no other room from being told; nothing is left to do."""
        rooms = self.rooms(4)
        self.renamer.errors = {rooms[0]: EventRejected("5", "no"), rooms[2]: ZeroDivisionError()}
        self.rename("Alice")
        self.assertEqual([None, "Alice", None, "Alice"], self.names(rooms))
        self.assertEqual([], self.untold())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def test_tried_again(self) -> None:
        """A room that cannot take anything just now is told later; the others are not told twice."""
        rooms = self.rooms(2)
        self.renamer.errors = {rooms[0]: Overloaded(1000)}
        self.rename("Alice")
        self.assertEqual([None, "Alice"], self.names(rooms))
        self.assertEqual([self.alice], self.untold())
        self.renamer.errors.clear()
        self.network.clock.advance(RETRY_S)
        self.assertEqual(["Alice", "Alice"], self.names(rooms))
        self.assertEqual([], self.untold())
        for room_id in rooms:
            self.assertEqual(
                ["m.room.member"] * 2, [one.type for one in self.hub.pdus(room_id) if one.state_key == self.alice]
            )

    def test_another_change_is_sooner(self) -> None:
        """A change that comes before the next try takes its place."""
        rooms = self.rooms(1)
        self.renamer.errors = {rooms[0]: Overloaded(1000)}
        self.rename("Alice")
        self.renamer.errors.clear()
        self.rename("Alicia")
        self.assertEqual(["Alicia"], self.names(rooms))
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def test_bounded(self) -> None:
        """However many rooms there are, only so many are told at a time; changes meanwhile make one more round."""
        rooms = self.rooms(MAX_AT_ONCE + 5)
        self.renamer.waiting = []
        for number in range(20):
            self.rename(f"Alice {number}")
        self.assertEqual(MAX_AT_ONCE, len(self.renamer.told))
        while self.renamer.waiting:
            self.renamer.waiting.pop(0).callback(None)
        self.assertEqual(["Alice 19"] * len(rooms), self.names(rooms))
        self.assertEqual(2 * len(rooms), len(self.renamer.told))
        self.assertEqual([], self.untold())

    def test_stop(self) -> None:
        """After the end nothing is begun, and nothing is forgotten: the next start goes on."""
        rooms = self.rooms(MAX_AT_ONCE + 5)
        self.renamer.waiting = []
        self.rename("Alice")
        self.network.finished(self.changes.stop())
        while self.renamer.waiting:
            self.renamer.waiting.pop(0).callback(None)
        self.assertEqual(MAX_AT_ONCE, len(self.renamer.told))
        self.assertEqual([self.alice], self.untold())
        self.assertEqual([], self.network.clock.getDelayedCalls())
        self.renamer.waiting = None
        self.changes = self.build()
        self.network.finished(self.changes.resume())
        self.assertEqual(["Alice"] * len(rooms), self.names(rooms))
        self.assertEqual([], self.untold())

    def test_stop_before_a_retry(self) -> None:
        """The end comes before the next try."""
        rooms = self.rooms(1)
        self.renamer.errors = {rooms[0]: Overloaded(1000)}
        self.rename("Alice")
        self.network.finished(self.changes.stop())
        self.assertEqual([], self.network.clock.getDelayedCalls())
        self.rename("Alicia")
        self.assertEqual(1, len(self.renamer.told))
