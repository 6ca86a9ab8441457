"""A server whose database is an older copy: nothing is forked, and what it has forgotten comes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import BadRequest, NotFound, RoomRecovering
from lmatrix.events.room_versions import V02
from lmatrix.rooms import gaps
from lmatrix.rooms.evidence_document import EvidenceDocument
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.evidence_judgement import Weight, judge
from lmatrix.rooms.head_statements import HeadStatement
from lmatrix.rooms.interfaces import Evidence
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.overview import SqlOverviewStore
from lmatrix.storage.restoration import mark
from tests.rooms.network import START, MemoryKeyring, MemoryPeers, NetworkTestCase, Server, done, result_of

T = TypeVar("T")


class RestoringTestCase(NetworkTestCase):
    """Servers on files, which can be copied and put back."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.files = 0

    def copied(self, server: Server, *, marked: bool = True) -> Path:
        """A copy of a server's database as it is now."""
        self.files += 1
        path = self.directory / f"{self.files}.db"
        result_of(server.database.write(lambda tx: None))
        copy = sqlite3.connect(path, isolation_level=None)
        connection: Any = server.database._writer._connection
        connection.backup(copy)
        if marked:
            self.assertTrue(mark(copy, START * 1000))
        copy.close()
        return path

    def restored(self, server: Server, copy: Path) -> None:
        """The server stops, and starts again on the copy; it has prepared, and does not ask anybody yet."""
        server.database.close()
        server.database = InlineDatabase(copy)
        self.addCleanup(server.database.close)
        server.restart()
        done(server.floor.recovery.prepare())

    def recovered(self, server: Server) -> None:
        """Let it ask."""
        server.floor.recovery.start()
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.network.clock.pump([seconds / 50] * 50 if seconds else [0.0] * 300)

    def running(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)

    def evidence(self, server: Server, room_id: str) -> list[Evidence]:
        return list(result_of(server.database.read(lambda tx: server.rooms.evidence(tx, room_id))))

    def assert_one_history(self, room_id: str) -> None:
        """Everybody holds the same, nobody has anything against anybody, and the hub's room holds together."""
        self.network.settle()
        self.assert_same_order(room_id)
        for server in self.network.servers.values():
            self.assertEqual([], self.evidence(server, room_id), server.name)


class UnmarkedHubTests(RestoringTestCase):
    """The hub starts from a copy that nobody marked."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.say(self.hub, self.room_id, self.alice, "before")
        self.copy = self.copied(self.hub, marked=False)
        self.say(self.hub, self.room_id, self.alice, "after")

    def test_somebody_says_that_it_has_more(self) -> None:
        """A participant's statement names an event that the hub has signed and does not hold: it holds the room, gets
        back what it has forgotten, and goes on.
        """
        self.restored(self.hub, self.copy)
        self.network.unreachable.add(self.south.name)
        self.turn(16)
        self.network.settle()
        self.turn()
        self.assertEqual(["before", "after"], self.hub.bodies(self.room_id))
        self.failureResultOf(self.hub.send(self.room_id, self.alice, "too early"), RoomRecovering)
        self.network.unreachable.clear()
        self.turn(10)
        self.say(self.hub, self.room_id, self.alice, "on")
        self.assert_one_history(self.room_id)

    def test_it_asks_before_its_first_event(self) -> None:
        """Somebody writes before anybody says anything: a few are asked first, and the room is held instead. They are
        asked once, not for each event.
        """
        self.restored(self.hub, self.copy)
        self.failureResultOf(self.hub.send(self.room_id, self.alice, "too early"), RoomRecovering)
        self.turn()
        self.assertEqual(["before", "after"], self.hub.bodies(self.room_id))
        self.network.requests.clear()
        for number in range(3):
            self.say(self.hub, self.room_id, self.alice, str(number))
        self.assertEqual([], [what for _, _, what in self.network.requests if what == "head"])
        self.assert_one_history(self.room_id)

    def test_nobody_knows_more(self) -> None:
        """A hub that has forgotten nothing goes on; one request to each, once."""
        self.hub.restart()
        self.network.requests.clear()
        for number in range(3):
            self.say(self.hub, self.room_id, self.alice, str(number))
        self.assertEqual(2, [what for _, _, what in self.network.requests].count("head"))
        self.assert_one_history(self.room_id)

    def test_nobody_answers(self) -> None:
        """Then the event is held up for two seconds, and no longer; those that come meanwhile keep their order."""
        self.hub.restart()
        self.network.slow[self.north.name, "head"] = Deferred()
        self.network.slow[self.south.name, "head"] = Deferred()
        sending = [self.hub.send(self.room_id, self.alice, str(number)) for number in range(3)]
        self.network.clock.advance(1.9)
        for one in sending:
            self.assertNoResult(one)
        self.network.clock.advance(0.2)
        for one in sending:
            self.successResultOf(one)
        self.assertEqual(["0", "1", "2"], self.hub.bodies(self.room_id)[-3:])

    def test_it_has_gone_on(self) -> None:
        """It learns of that from those to whom it sends the other history, and says so to its operator."""
        self.turn(200)
        self.network.settle()
        self.restored(self.hub, self.copy)
        self.network.unreachable |= {self.north.name, self.south.name}
        self.successResultOf(self.hub.send(self.room_id, self.alice, "another history"))
        self.network.unreachable.clear()
        self.network.settle()
        self.turn()
        self.network.settle()
        self.turn(1)
        self.assertIn("another history", self.hub.floor.recovery.forked(self.room_id) or "")
        for server in (self.hub, self.north, self.south):
            self.assertEqual(["fork"], [one.kind for one in self.evidence(server, self.room_id)], server.name)
            document = self.document(server)
            [item] = document.items
            judgement = judge(item, self.room_id, document.room_version, document.keys)
            self.assertIs(Weight.PROVEN, judgement.weight, judgement.words)

    def document(self, server: Server) -> EvidenceDocument:
        exporter = EvidenceExporter(
            server.name, server.database, server.rooms, SqlOverviewStore(), MemoryKeyring(self.network)
        )
        return done(exporter.page(self.room_id, 0, 10)).document


class RestoredHubTests(RestoringTestCase):
    """The hub starts from a copy that lacks what its participants hold."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.say(self.hub, self.room_id, self.alice, "before")
        self.copy = self.copied(self.hub)
        self.say(self.hub, self.room_id, self.alice, "after")
        self.say(self.north, self.room_id, self.bob, "after too")

    def test_what_was_forgotten_comes_back(self) -> None:
        """Nothing is put into the room before; then the room goes on from where it was."""
        order = [pdu.event_id for pdu in self.hub.pdus(self.room_id)]
        self.restored(self.hub, self.copy)
        self.failureResultOf(self.hub.send(self.room_id, self.alice, "too early"), RoomRecovering)
        self.recovered(self.hub)
        self.assertEqual(order, [pdu.event_id for pdu in self.hub.pdus(self.room_id)])
        self.assertIsNone(self.hub.floor.recovery.status(self.room_id))
        self.say(self.hub, self.room_id, self.alice, "and on")
        self.assertEqual(["before", "after", "after too", "and on"], self.south.bodies(self.room_id))
        self.assert_one_history(self.room_id)

    def test_what_only_one_holds(self) -> None:
        """All are asked, and what one of them alone has been sent comes back, and reaches the others."""
        self.network.unreachable.add(self.south.name)
        self.say(self.hub, self.room_id, self.alice, "for the north only")
        self.network.unreachable.clear()
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        self.assertEqual("for the north only", self.hub.bodies(self.room_id)[-1])
        self.assert_one_history(self.room_id)
        self.assertEqual("for the north only", self.south.bodies(self.room_id)[-1])

    def test_who_does_not_answer_is_waited_for(self) -> None:
        """The room stays held, also across a restart, until the last has answered."""
        self.network.unreachable.add(self.south.name)
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        status = self.hub.floor.recovery.status(self.room_id)
        assert status is not None
        self.assertEqual(({self.north.name}, {self.south.name}), (status.answered, set(status.waiting_for)))
        self.assertEqual("after too", self.hub.bodies(self.room_id)[-1])
        self.failureResultOf(self.hub.send(self.room_id, self.alice, "too early"), RoomRecovering)
        done(self.hub.floor.recovery.stop())
        self.hub.restart()
        done(self.hub.floor.recovery.prepare())
        self.failureResultOf(self.hub.send(self.room_id, self.alice, "too early"), RoomRecovering)
        self.recovered(self.hub)
        self.network.unreachable.clear()
        self.turn(5)
        self.say(self.hub, self.room_id, self.alice, "on")
        self.assert_one_history(self.room_id)

    def test_the_operator_goes_on(self) -> None:
        """Without a server that will not come back; not without one that is not waited for."""
        self.network.unreachable.add(self.south.name)
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        recovery = self.hub.floor.recovery
        for without in ([], [self.north.name], [self.south.name, "other.example"]):
            self.failureResultOf(self.running(recovery.go_on(self.room_id, without)), BadRequest)
        self.failureResultOf(self.running(recovery.go_on("!other:hub.example", [self.south.name])), NotFound)
        done(recovery.go_on(self.room_id, [self.south.name]))
        self.turn()
        self.assertIsNone(recovery.status(self.room_id))
        self.successResultOf(self.hub.send(self.room_id, self.alice, "on"))

    def test_who_comes_meanwhile(self) -> None:
        """A participant's LPDU is to be sent again, a joiner to come again; nobody is told that an event is unknown."""
        head = self.north.pdus(self.room_id)[-1].event_id
        self.restored(self.hub, self.copy)
        sending = self.north.send(self.room_id, self.bob, "later")
        pending = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        lpdu = pending[0]
        answer = self.hub.receive(self.north.name, "x1", [parse_object(lpdu.canonical)])
        self.assertEqual("org.lmatrix.try_later", answer["failed_pdus"][lpdu.lpdu_event_id]["errcode"])
        west = self.network.server("west.example")
        dave = west.user("dave")
        joining = self.running(west.floor.local_users.join(dave, self.room_id, [self.hub.name], None))
        self.turn()
        self.assertEqual(503, self.failureResultOf(joining).value.status)
        refused = self.failureResultOf(self.running(self.backfill(self.north, head)))
        self.assertEqual(503, refused.value.status)
        self.recovered(self.hub)
        self.network.settle()
        self.assertIsInstance(self.successResultOf(sending), str)
        self.assertEqual("later", self.hub.bodies(self.room_id)[-1])
        self.assert_one_history(self.room_id)

    async def backfill(self, server: Server, event_id: str) -> Any:
        room = await server.floor.rooms.load(self.room_id)
        assert room is not None
        return await MemoryPeers(self.network, server.name).backfill(
            self.hub.name, room.version, self.room_id, event_id, 5
        )

    def test_nobody_else_is_in_the_room(self) -> None:
        """Who has forgotten nothing that others know goes on at once."""
        room_id = self.hub.create_room(self.alice)
        self.restored(self.hub, self.copied(self.hub))
        self.recovered(self.hub)
        self.successResultOf(self.hub.send(room_id, self.alice, "on"))

    def test_who_came_meanwhile_is_asked_too(self) -> None:
        """A server that joined after the copy was made, and holds what nobody else does."""
        west = self.network.server("west.example")
        dave = west.user("dave")
        west.join(dave, self.room_id, self.hub.name)
        self.network.unreachable |= {self.north.name, self.south.name}
        self.say(self.hub, self.room_id, self.alice, "for the west only")
        self.network.unreachable.clear()
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        self.assertEqual("for the west only", self.hub.bodies(self.room_id)[-1])
        self.assert_one_history(self.room_id)

    def test_the_hub_had_given_the_room_away(self) -> None:
        """Then it learns that, and puts nothing into the room any more; what it had pending goes to the new hub."""
        self.running(self.hub.floor.transfer.transfer(self.room_id, self.north.name))
        self.turn()
        self.network.settle()
        self.say(self.north, self.room_id, self.bob, "new order")
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        room = done(self.hub.floor.rooms.load(self.room_id))
        assert room is not None
        self.assertEqual((self.north.name, False), (room.hub_server, room.held))
        self.assertEqual("new order", self.hub.bodies(self.room_id)[-1])
        self.assertIsInstance(self.say(self.hub, self.room_id, self.alice, "as a participant"), str)
        self.assert_one_history(self.room_id)

    def test_a_long_tail(self) -> None:
        """More events than are held in memory at one time come back, too."""
        self.patch(gaps, "MAX_MISSING", 100)
        for number in range(350):
            result_of(self.hub.send(self.room_id, self.alice, str(number)))
        self.network.settle()
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        self.assertEqual("349", self.hub.bodies(self.room_id)[-1])
        self.assert_one_history(self.room_id)

    def test_other_programs(self) -> None:
        """A server that does not know the question is not waited for."""
        self.network.other_programs.add(self.south.name)
        self.restored(self.hub, self.copy)
        self.recovered(self.hub)
        self.assertIsNone(self.hub.floor.recovery.status(self.room_id))
        self.assert_one_history(self.room_id)

    def test_nonsense_is_not_believed(self) -> None:
        """A head that nobody can show, and another server's statement, bring nothing into the room and do not hold it
        up for ever.
        """
        lie = HeadStatement.make(self.south.identity, self.room_id, "$" + "x" * 43, 2**40, START * 1000)
        borrowed = HeadStatement.make(self.north.identity, self.room_id, "$" + "x" * 43, 2**40, START * 1000)
        for statement in (lie, borrowed):
            self.restored(self.hub, self.copied(self.hub))

            async def tell(origin: str, room_id: str, statement: HeadStatement = statement) -> Any:
                return statement.json

            self.patch(type(self.south.floor.heads), "tell", lambda _, origin, room_id: tell(origin, room_id))
            self.recovered(self.hub)
            self.assertIsNone(self.hub.floor.recovery.status(self.room_id))
        self.assertEqual([], self.evidence(self.hub, self.room_id))

    def test_it_went_on_before_anybody_knew(self) -> None:
        """A copy without the mark: two histories, which are found, shown and kept as evidence, and not made longer by
        what recovery does.
        """
        unmarked = self.directory / "unmarked.db"
        self.copy.rename(unmarked)
        database = sqlite3.connect(unmarked, isolation_level=None)
        database.execute("DELETE FROM copied")
        database.close()
        self.restored(self.hub, unmarked)
        self.network.unreachable |= {self.north.name, self.south.name}
        self.successResultOf(self.hub.send(self.room_id, self.alice, "another history"))
        self.network.unreachable.clear()
        done(self.hub.floor.recovery.hold(self.room_id, "somebody said so"))
        self.turn()
        recovery = self.hub.floor.recovery
        self.assertIsNone(recovery.status(self.room_id))
        self.assertIn("another history", recovery.forked(self.room_id) or "")
        self.assertEqual(["fork"], [one.kind for one in self.evidence(self.hub, self.room_id)])
        self.assertEqual("another history", self.hub.bodies(self.room_id)[-1])

    def test_rooms_of_prototypes(self) -> None:
        """In a room of their version a participant's transaction fails as a whole: an entry for the event would be
        taken for a refusal.
        """
        room_id = self.shared_room(V02)
        self.restored(self.hub, self.copied(self.hub))
        self.north.send(room_id, self.bob, "later").addErrback(lambda _: None)
        pending = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        body = {"pdus": [parse_object(pending[0].canonical)]}
        receiving = self.running(self.hub.floor.receiver.receive(self.north.name, "x1", body, encode(body)))
        self.failureResultOf(receiving, RoomRecovering)


class RestoredParticipantTests(RestoringTestCase):
    """A participant starts from a copy."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.copy = self.copied(self.north, marked=False)
        self.marked = self.copied(self.north)
        self.say(self.hub, self.room_id, self.alice, "1")
        self.say(self.north, self.room_id, self.bob, "2")

    def test_the_gap_is_closed_by_what_comes_next(self) -> None:
        """Without any mark: the next event of the hub brings everything."""
        self.restored(self.north, self.copy)
        self.say(self.hub, self.room_id, self.alice, "3")
        self.assertEqual(["1", "2", "3"], self.north.bodies(self.room_id))
        self.assert_one_history(self.room_id)

    def test_a_long_gap(self) -> None:
        """However much it is; and the hub is not accused of having kept it back."""
        self.patch(gaps, "MAX_MISSING", 100)
        for number in range(350):
            result_of(self.hub.send(self.room_id, self.alice, str(number)))
        self.network.settle()
        self.restored(self.north, self.copy)
        self.say(self.hub, self.room_id, self.alice, "end")
        self.assertEqual("end", self.north.bodies(self.room_id)[-1])
        self.assert_one_history(self.room_id)

    def test_the_hub_is_asked(self) -> None:
        """With the mark it need not wait for another event, and its own users can write at once."""
        self.restored(self.north, self.marked)
        self.recovered(self.north)
        self.assertEqual(["1", "2"], self.north.bodies(self.room_id))
        self.say(self.north, self.room_id, self.bob, "3")
        self.assert_one_history(self.room_id)

    def test_what_was_pending_is_not_doubled(self) -> None:
        """An LPDU that the hub took after the copy was made is sent again, and recognised."""
        self.network.unreachable.add(self.hub.name)
        sending = self.north.send(self.room_id, self.bob, "pending")
        copy = self.copied(self.north)
        self.network.unreachable.clear()
        self.network.settle()
        self.successResultOf(sending)
        self.restored(self.north, copy)
        self.north.delivery.hubs.add(self.hub.name)
        self.recovered(self.north)
        self.network.settle()
        self.assertEqual(1, self.hub.bodies(self.room_id).count("pending"))
        self.assert_one_history(self.room_id)


class MarkTests(RestoringTestCase):
    """What happens once, when a server starts from a marked copy."""

    def test_what_must_not_be_given_twice(self) -> None:
        """One-time keys are void, and the stream goes on far beyond any place that clients were told of."""
        room_id = self.hub.create_room(self.alice)

        def upload(tx: Any) -> None:
            tx.execute(
                "INSERT INTO one_time_keys (user_id, device_id, algorithm, version, digest, value, expires_ts)"
                " VALUES (?, 'PHONE', 'm.mls', 'a', 'd', x'00', NULL)",
                (self.alice,),
            )

        result_of(self.hub.database.write(upload))
        copy = self.copied(self.hub)
        for number in range(5):
            result_of(self.hub.send(room_id, self.alice, str(number)))
        told = max(stream for stream, *_ in self.hub.audience.told)
        self.restored(self.hub, copy)
        self.recovered(self.hub)
        self.hub.audience.told.clear()
        result_of(self.hub.send(room_id, self.alice, "on"))
        self.assertGreater(min(stream for stream, *_ in self.hub.audience.told), told + 10**9)

        def keys(tx: Any) -> list[Any]:
            return list(tx.rows("SELECT value, (SELECT stream FROM key_claims) FROM one_time_keys"))

        [(value, stream)] = result_of(self.hub.database.read(keys))
        self.assertIsNone(value)
        self.assertGreater(stream, told)
        self.assertIsNone(result_of(self.hub.database.read(self.hub.restoration.copied_ts)))

    def test_once(self) -> None:
        """The mark is gone with what it stands for; a failing disk leaves it there."""
        self.shared_room()
        copy = self.copied(self.hub)
        self.hub.database.close()
        self.hub.database = InlineDatabase(copy)
        self.addCleanup(self.hub.database.close)
        self.hub.restart()
        self.hub.database.fail_commits = 1
        preparing = self.running(self.hub.floor.recovery.prepare())
        self.failureResultOf(preparing)
        self.assertIsNotNone(result_of(self.hub.database.read(self.hub.restoration.copied_ts)))
        done(self.hub.floor.recovery.prepare())
        self.assertEqual(1, len(self.hub.floor.recovery.all_held()))
        self.hub.restart()
        done(self.hub.floor.recovery.prepare())
        self.assertEqual(1, len(self.hub.floor.recovery.all_held()))
