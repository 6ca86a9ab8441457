"""Participants tell one another how far they hold a room, and find out a hub that tells them different stories."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import parse_object
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import BadRequest, NotFound
from lmatrix.events.building import build_hub_event
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import V02
from lmatrix.rooms import stating
from lmatrix.rooms.evidence_document import EvidenceDocument
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.evidence_judgement import Weight, judge
from lmatrix.rooms.head_statements import HEAD, HeadStatement
from lmatrix.rooms.hearing import DEAF_SECONDS, GRACE_SECONDS
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Evidence
from lmatrix.storage.overview import SqlOverviewStore
from tests.rooms.network import MemoryKeyring, NetworkTestCase, Server, done, result_of


class HeadTestCase(NetworkTestCase):
    """A room with a hub and two participants."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.network.settle()
        self.later(3600)
        self.count = 0

    def later(self, seconds: float) -> None:
        """Time passes, and what is said meanwhile arrives."""
        for _ in range(20):
            self.network.clock.pump([seconds / 100] * 5)
            self.network.settle()
            self.network.clock.pump([0.0] * 20)

    def statements(self, server: Server) -> list[str]:
        """To whom the server is about to state a head."""
        return sorted(to for (to, _), edu in server.delivery.fleeting.items() if edu["type"] == HEAD)

    def evidence(self, server: Server) -> list[Evidence]:
        return list(result_of(server.database.read(lambda tx: server.rooms.evidence(tx, self.room_id))))

    def document(self, server: Server) -> EvidenceDocument:
        """The evidence as others get it: through JSON."""
        exporter = EvidenceExporter(
            server.name, server.database, server.rooms, SqlOverviewStore(), MemoryKeyring(self.network)
        )
        return EvidenceDocument.parse(done(exporter.page(self.room_id, 0, 100)).document.to_json())

    def weights(self, server: Server) -> list[tuple[str, Weight]]:
        """The kinds of evidence that a server keeps, and what each proves to a stranger."""
        document = self.document(server)
        return [
            (item.kind, judge(item, self.room_id, document.room_version, document.keys).weight)
            for item in document.items
        ]

    def counted(self, server: Server, outcome: str) -> float:
        value = server.metrics.registry.get_sample_value("lmatrix_head_statements_total", {"outcome": outcome})
        return value or 0.0

    def asked(self, server: Server) -> list[tuple[str, str]]:
        """What a server has asked others for since the last time."""
        asked = [(to, what) for origin, to, what in self.network.requests if origin == server.name and what != "send"]
        self.network.requests.clear()
        return asked

    def hub_signs(self, body: str, prev_event: str | None = None) -> Pdu:
        """An event that the hub does not put into its own log."""
        room = done(self.hub.floor.rooms.load(self.room_id))
        assert room is not None
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.alice)]
        auth = [room.state.get(*key) for key in keys]
        return build_hub_event(
            room.version,
            room_id=self.room_id,
            type="m.room.message",
            sender=self.alice,
            content={"body": body, "msgtype": "m.text"},
            origin_server_ts=17,
            hub_server=self.hub.name,
            auth_events=[event.event_id for event in auth if event is not None],
            prev_events=[prev_event or room.head_event_id or ""],
            keys=self.hub.identity.keys,
        )

    def gives(self, server: Server, *pdus: Pdu) -> dict[str, Any]:
        """The hub sends events to one server only."""
        self.count += 1
        raws = [parse_object(pdu.canonical) for pdu in pdus]
        return server.receive(self.hub.name, f"x{self.count}", raws)

    def hears(self, server: Server, origin: str, *statements: Any) -> None:
        """A server is sent statements."""
        self.count += 1
        edus = [{"type": HEAD, "content": getattr(one, "json", one)} for one in statements]
        answer = server.receive(origin, f"x{self.count}", [], edus=edus)
        self.assertEqual({"failed_pdus": {}}, answer)
        self.network.clock.pump([0.0] * 50)

    def stated(self, server: Server, head: str, *, ahead_ms: int = 0, room_id: str | None = None) -> HeadStatement:
        ts = int(self.network.clock.seconds() * 1000) + ahead_ms
        return HeadStatement.make(server.identity, room_id or self.room_id, head, 7, ts)

    def head_of(self, server: Server) -> str:
        return server.log(self.room_id)[-1].event_id


class SpeakingTests(HeadTestCase):
    """When a head is stated, and to whom."""

    def test_when_it_has_been_quiet(self) -> None:
        """Both participants tell everybody else in the room; the hub says nothing; and then it is quiet."""
        before = [self.counted(server, "sent") for server in (self.north, self.south)]
        agreed = self.counted(self.hub, "agrees")
        self.say(self.hub, self.room_id, self.alice, "1")
        self.network.clock.advance(stating.QUIET_SECONDS - 1)
        self.assertEqual([], self.statements(self.north))
        self.network.clock.advance(1)
        self.assertEqual([self.hub.name, self.south.name], self.statements(self.north))
        self.assertEqual([self.hub.name, self.north.name], self.statements(self.south))
        self.assertEqual([], self.statements(self.hub))
        self.later(3600)
        after = [self.counted(server, "sent") for server in (self.north, self.south)]
        self.assertEqual([count + 2 for count in before], after)
        self.assertEqual(agreed + 2, self.counted(self.hub, "agrees"))
        self.assertEqual([], self.evidence(self.north) + self.evidence(self.south))

    def test_a_busy_room(self) -> None:
        """A minute's worth of events costs one round."""
        before = self.counted(self.north, "sent")
        for number in range(120):
            self.say(self.hub, self.room_id, self.alice, str(number))
            self.network.clock.advance(1)
        self.assertLessEqual(self.counted(self.north, "sent") - before, 3 * 2)
        self.assertGreaterEqual(self.counted(self.north, "sent") - before, 2)

    def test_a_large_room(self) -> None:
        """Three are told at a time, the neighbour first; after a third as many rounds as there are servers, all are."""
        others = [self.network.server(f"s{number}.example") for number in range(8)]
        for other in others:
            other.join(other.user("guest"), self.room_id, self.hub.name)
        self.later(36_000)
        self.say(self.hub, self.room_id, self.alice, "1")
        self.network.clock.advance(stating.QUIET_SECONDS)
        everybody = sorted(self.network.servers)
        for server in (self.north, self.south, *others):
            first = self.statements(server)
            self.assertEqual(3, len(first))
            self.assertIn(everybody[(everybody.index(server.name) + 1) % len(everybody)], first)
        told = set(self.statements(self.north))
        for _ in range(3):
            self.network.settle()
            self.network.clock.advance(stating.INTERVAL_SECONDS)
            told |= set(self.statements(self.north))
        self.assertEqual(set(everybody) - {self.north.name}, told)
        self.later(36_000)
        self.assertEqual([], self.statements(self.north))

    def test_who_may_hear(self) -> None:
        """Not who has left, and not who never came; not even who asks."""
        left = self.head_of(self.south)
        result_of(self.running_leave())
        self.network.settle()
        self.later(30)
        for stranger in (self.south.name, "stranger.example"):
            self.failureResultOf(self.running(self.north.floor.heads.tell(stranger, self.room_id)), NotFound)
        self.say(self.hub, self.room_id, self.alice, "secret")
        self.network.clock.advance(3600)
        self.assertNotIn(self.south.name, self.statements(self.north))
        told = self.successResultOf(self.running(self.north.floor.heads.tell(self.hub.name, self.room_id)))
        self.assertNotEqual(left, told["head"])
        self.failureResultOf(self.running(self.south.floor.heads.tell(self.hub.name, self.room_id)), NotFound)

    def running(self, work: Any) -> Any:
        return Deferred.fromCoroutine(work)

    def running_leave(self) -> Any:
        leaving = self.running(self.south.floor.local_users.leave(self.carol, self.room_id, None))
        self.network.settle()
        return leaving

    def test_rooms_of_prototypes(self) -> None:
        """Nothing is said where forks are tolerated; what is said there is logged, and no more."""
        room_id = self.shared_room(V02)
        self.later(3600)
        before = self.counted(self.north, "sent")
        self.say(self.hub, room_id, self.alice, "1")
        self.later(3600)
        self.assertEqual(before, self.counted(self.north, "sent"))
        self.asked(self.north)
        self.hears(self.north, self.south.name, self.stated(self.south, "$" + "x" * 43, room_id=room_id))
        self.later(3600)
        self.assertEqual((1, []), (self.counted(self.north, "differs"), self.asked(self.north)))

    def test_stopping(self) -> None:
        """Nothing is left behind."""
        self.say(self.hub, self.room_id, self.alice, "1")
        self.hears(self.north, self.south.name, self.stated(self.south, "$" + "x" * 43))
        for server in self.network.servers.values():
            done(server.floor.heads.stop())
            done(server.floor.listener.stop())
        self.assertEqual([], [call for call in self.network.clock.getDelayedCalls() if call.active()])


class FindingOutTests(HeadTestCase):
    """What a difference leads to."""

    def test_two_stories(self) -> None:
        """A hub that gives one event two successors, each to one participant, is found out by both: two events with its
        signature, which prove it to anybody. Each keeps the history that it had.
        """
        one, other = self.hub_signs("one story"), self.hub_signs("another story")
        self.gives(self.north, one)
        self.gives(self.south, other)
        self.later(stating.QUIET_SECONDS + GRACE_SECONDS + 5)
        for server, held in ((self.north, one), (self.south, other)):
            self.assertEqual([("fork", Weight.PROVEN)], self.weights(server), server.name)
            self.assertEqual(held.event_id, self.head_of(server))

    def test_a_longer_story(self) -> None:
        """The fork may lie some way back, and the stories go on: it is found once, and not again for each event."""
        one = [self.hub_signs("1")]
        other = [self.hub_signs("a")]
        for number in range(5):
            one.append(self.hub_signs(f"1{number}", one[-1].event_id))
            other.append(self.hub_signs(f"a{number}", other[-1].event_id))
        self.gives(self.north, *one)
        self.gives(self.south, *other)
        self.later(100)
        self.gives(self.north, self.hub_signs("and on", one[-1].event_id))
        self.gives(self.south, self.hub_signs("and on", other[-1].event_id))
        self.later(3600)
        for server in (self.north, self.south):
            self.assertEqual([("fork", Weight.PROVEN)], self.weights(server), server.name)

    def withhold(self, *bodies: str) -> list[str]:
        """The hub gives events to the south only; their IDs."""
        self.network.unreachable.add(self.north.name)
        ids = [self.say(self.hub, self.room_id, self.alice, body) for body in bodies]
        self.network.unreachable.clear()
        head = self.hub.log(self.room_id)[-1].position
        self.hub.delivery.destinations.clear()
        result_of(self.hub.database.write(lambda tx: self.hub.cursors.advance(tx, self.north.name, self.room_id, head)))
        return ids

    def test_withheld_and_denied(self) -> None:
        """What the hub keeps from one is got from another, and shown; the evidence is two signatures of the hub, and
        the word of who had the event.
        """
        [kept] = self.withhold("kept back")
        self.network.denied[self.north.name, self.hub.name] = {kept}
        self.later(stating.QUIET_SECONDS + GRACE_SECONDS + 5)
        self.assertEqual(["kept back"], self.north.bodies(self.room_id))
        self.assertEqual([("withheld", Weight.NEEDS_A_WITNESS)], self.weights(self.north))
        self.assertEqual([], self.weights(self.south))

    def test_several_withheld(self) -> None:
        """All of them come. A witness who names a later event than the first that was kept is none of that one."""
        kept = self.withhold("1", "2", "3")
        self.network.denied[self.north.name, self.hub.name] = set(kept)
        self.later(100)
        self.assertEqual(["1", "2", "3"], self.north.bodies(self.room_id))
        self.assertEqual([("withheld", Weight.NOT_PROVEN)], self.weights(self.north))

    def test_what_evidence_of_withholding_must_have(self) -> None:
        """A statement that was changed, is by somebody else, is missing, or earlier, proves nothing."""
        [kept] = self.withhold("kept back")
        self.network.denied[self.north.name, self.hub.name] = {kept}
        self.later(100)
        document = self.document(self.north)
        [item] = document.items
        assert item.against is not None
        witness, denial = item.against["statements"]
        for statements in (
            [witness],
            [denial],
            [{**witness, "ts": witness["ts"] - 1}, denial],
            [witness, {**denial, "head": "$" + "x" * 43}],
            [self.stated(self.south, kept, ahead_ms=10**6).json, denial],
            "nonsense",
            [7, witness],
        ):
            changed = [*document.to_json()["evidence"]]
            changed[0] = {**changed[0], "against": {"statements": statements}}
            [again] = EvidenceDocument.parse({**document.to_json(), "evidence": changed}).items
            judgement = judge(again, self.room_id, document.room_version, document.keys)
            self.assertIs(Weight.NOT_PROVEN, judgement.weight, statements)

    def test_only_late(self) -> None:
        """A hub that gives the event when it is asked, or sends it in time, is not accused."""
        [kept] = self.withhold("late")
        self.later(stating.QUIET_SECONDS + GRACE_SECONDS + 5)
        self.assertEqual(["late"], self.north.bodies(self.room_id))
        self.assertEqual([], self.evidence(self.north))
        self.asked(self.north)
        [kept] = self.withhold("in time")
        self.later(stating.QUIET_SECONDS + GRACE_SECONDS / 2)
        self.gives(self.north, self.hub.pdus(self.room_id)[-1])
        self.later(GRACE_SECONDS)
        self.assertEqual(["late", "in time"], self.north.bodies(self.room_id))
        self.assertEqual(([], []), (self.evidence(self.north), self.asked(self.north)))
        self.assertEqual(kept, self.head_of(self.north))

    def test_a_hub_that_is_down(self) -> None:
        """The others bring one another up to date; nobody is accused."""
        self.withhold("the last")
        self.network.unreachable.add(self.hub.name)
        self.later(100)
        self.assertEqual(["the last"], self.north.bodies(self.room_id))
        self.assertEqual([], self.evidence(self.north))

    def test_the_hub_has_changed(self) -> None:
        """Who was the hub, and does not have yet what the new one made, is not accused by who does not know of it."""
        west = self.network.server("west.example")
        west.join(west.user("dave"), self.room_id, self.hub.name)
        self.later(3600)
        self.network.unreachable.add(self.south.name)
        moving = Deferred.fromCoroutine(self.hub.floor.transfer.transfer(self.room_id, self.north.name))
        self.network.clock.pump([0.0] * 100)
        self.network.settle()
        self.successResultOf(moving)
        self.network.unreachable.add(self.hub.name)
        new = self.say(self.north, self.room_id, self.bob, "by the new hub")
        self.network.unreachable.clear()
        for server in (self.hub, self.north):
            server.delivery.destinations.clear()
        self.hears(self.south, west.name, self.stated(west, new))
        for _ in range(10):
            self.network.clock.advance(GRACE_SECONDS / 5)
        self.network.clock.pump([0.0] * 200)
        self.assertEqual(new, self.head_of(self.south))
        self.assertEqual([], self.evidence(self.south))

    def test_who_is_behind_is_nothing_to_wonder_at(self) -> None:
        """A head from before our log is looked for, and found to be that."""
        old = self.hub.log(self.room_id)[2].event_id
        self.hears(self.south, self.north.name, self.stated(self.north, old))
        self.later(100)
        self.assertEqual(1, self.counted(self.south, "found_earlier"))
        self.assertEqual([], self.evidence(self.south))

    def test_what_nobody_can_show(self) -> None:
        """The hub and the server that named it are asked once, and then that server is not listened to for a while;
        others are.
        """
        self.asked(self.north)
        self.hears(self.north, self.south.name, self.stated(self.south, "$" + "x" * 43))
        self.later(GRACE_SECONDS + 1)
        asked = self.asked(self.north)
        self.assertTrue(asked)
        for number in range(10):
            self.later(10)
            self.hears(self.north, self.south.name, self.stated(self.south, "$" + str(number) * 43))
        self.later(GRACE_SECONDS + 1)
        self.assertEqual([], self.asked(self.north))
        self.assertEqual(10, self.counted(self.north, "deaf"))
        self.later(DEAF_SECONDS)
        self.hears(self.north, self.south.name, self.stated(self.south, "$" + "y" * 43))
        self.later(GRACE_SECONDS + 1)
        self.assertTrue(self.asked(self.north))
        self.assertEqual([], self.evidence(self.north))

    def test_the_hub_is_told_nonsense(self) -> None:
        """A head that bears somebody else's signature, or that cannot be shown, does not stop the room."""
        self.hears(self.hub, self.south.name, self.stated(self.south, "$" + "x" * 43))
        self.later(10)
        self.assertIsNone(self.hub.floor.recovery.status(self.room_id))
        self.successResultOf(self.hub.send(self.room_id, self.alice, "on"))


class CountingTests(HeadTestCase):
    """Which statements count."""

    def test_good(self) -> None:
        """Also one that somebody else has passed on."""
        self.hears(self.north, self.hub.name, self.stated(self.south, self.head_of(self.north)))
        [heard] = self.north.floor.listener.last_heard(self.room_id)
        self.assertEqual((self.south.name, True), (heard.statement.server, heard.agrees))

    def test_what_does_not_count(self) -> None:
        """Each is dropped for its reason, costs no request, and changes nothing."""
        head = "$" + "x" * 43
        good = self.stated(self.south, head)
        stranger = ServerIdentity("stranger.example", (SigningKey.generate("1", seed=b"s" * 32),))
        impostor = ServerIdentity(self.south.name, (SigningKey.generate("1", seed=b"i" * 32),))
        ts = good.ts
        self.asked(self.north)
        for origin, statement, outcome in (
            (self.south.name, {**good.json, "head": "$" + "y" * 43}, "forged"),
            (self.south.name, HeadStatement.make(impostor, self.room_id, head, 7, ts), "forged"),
            (self.south.name, {**good.json, "signatures": {}}, "forged"),
            (self.south.name, HeadStatement.make(stranger, self.room_id, head, 7, ts), "forbidden"),
            ("stranger.example", good, "forbidden"),
            (self.south.name, self.stated(self.south, head, room_id="!other:hub.example"), "forbidden"),
            (self.south.name, HeadStatement.make(self.north.identity, self.room_id, head, 7, ts), "forbidden"),
            (self.south.name, self.stated(self.south, head, ahead_ms=-2 * 3600 * 1000), "old"),
            (self.south.name, self.stated(self.south, head, ahead_ms=3600 * 1000), "old"),
            (self.south.name, {**good.json, "more": 1}, "malformed"),
            (self.south.name, {**good.json, "head": 7}, "malformed"),
            (self.south.name, {**good.json, "ts": -1}, "malformed"),
            (self.south.name, {**good.json, "position": True}, "malformed"),
            (self.south.name, {**good.json, "signatures": {"x": {"y": "z" * 5000}}}, "malformed"),
            (self.south.name, [], "malformed"),
            (self.south.name, None, "malformed"),
        ):
            before = self.counted(self.north, outcome)
            self.hears(self.north, origin, statement)
            self.assertEqual(before + 1, self.counted(self.north, outcome), (origin, statement))
        self.later(GRACE_SECONDS + 1)
        self.assertEqual([], self.asked(self.north))
        self.assertEqual([], self.north.floor.listener.last_heard(self.room_id))

    def test_replays(self) -> None:
        """The same again, and an older one, are dropped."""
        head = self.head_of(self.north)
        first, second = self.stated(self.south, head), self.stated(self.south, head, ahead_ms=1)
        self.hears(self.north, self.south.name, second, second, first)
        self.assertEqual(2, self.counted(self.north, "old"))

    def test_a_flood(self) -> None:
        """No more than a few of one server's statements are checked at one time."""
        thinking: Deferred[None] = Deferred()

        async def think(destination: str, what: str) -> None:
            await thinking

        self.patch(self.network, "think", think)
        statements = [self.stated(self.south, self.head_of(self.north), ahead_ms=number) for number in range(50)]
        self.hears(self.north, self.south.name, *statements)
        self.assertEqual(40, self.counted(self.north, "too_many"))
        thinking.callback(None)

    def test_parsing(self) -> None:
        """What we make is what we read."""
        made = self.stated(self.north, self.head_of(self.north))
        self.assertEqual(made, HeadStatement.parse(made.json))
        self.assertRaises(BadRequest, HeadStatement.parse, {**made.json, "type": "other"})
