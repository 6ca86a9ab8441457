"""A participant: following its hub, and noticing what the hub must not do."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.errors import StorageFailed
from lmatrix.events.building import build_hub_event
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import V02, room_version
from lmatrix.rooms.interfaces import Evidence, Standing
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class FollowingTests(NetworkTestCase):
    """What the north makes of what its hub sends."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.transactions = 0

    def receive(self, *pdus: Any, origin: str = "hub.example") -> dict[str, Any]:
        self.transactions += 1
        raws = [parse_object(pdu.canonical) if isinstance(pdu, Pdu) else pdu for pdu in pdus]
        return self.north.receive(origin, f"t{self.transactions}", raws)

    def hub_says(self, *bodies: str) -> list[Pdu]:
        """Messages that the hub appended, and did not deliver."""
        for body in bodies:
            result_of(self.hub.send(self.room_id, self.alice, body))
        return self.hub.pdus(self.room_id)[-len(bodies) :]

    def forged(self, prev_event: str, body: str, sender: str | None = None, **more: Any) -> Pdu:
        """An event that the hub signs, whatever it says."""
        state = done(self.hub.floor.rooms.load(self.room_id)).state
        auth = [state.get("m.room.create"), state.get("m.room.power_levels"), state.get("m.room.member", self.alice)]
        return build_hub_event(
            room_version(more.pop("version", "I.1")),
            room_id=self.room_id,
            type=more.pop("type", "m.room.message"),
            sender=sender or self.alice,
            content={"body": body, "msgtype": "m.text"},
            origin_server_ts=17,
            hub_server=self.hub.name,
            auth_events=more.pop("auth_events", [event.event_id for event in auth if event is not None]),
            prev_events=[prev_event],
            keys=self.hub.identity.keys,
            **more,
        )

    def evidence(self, server: Server | None = None) -> list[Evidence]:
        store = (server or self.north).rooms
        database = (server or self.north).database
        return list(result_of(database.read(lambda tx: store.evidence(tx, self.room_id))))

    def test_what_follows_is_appended_in_order(self) -> None:
        """A transaction of several events continues the log, each on the one before."""
        pdus = self.hub_says("1", "2", "3")
        self.assertEqual({"failed_pdus": {}}, self.receive(*pdus))
        self.assertEqual(["1", "2", "3"], self.north.bodies(self.room_id))

    def test_repetitions_are_harmless(self) -> None:
        """Events that are held are accepted again, and appear once; also after a restart."""
        pdus = self.hub_says("1", "2")
        for _ in range(2):
            self.assertEqual({"failed_pdus": {}}, self.receive(*pdus))
        self.north.restart()
        self.assertEqual({"failed_pdus": {}}, self.receive(pdus[0]))
        self.assertEqual(["1", "2"], self.north.bodies(self.room_id))

    def test_two_at_a_time(self) -> None:
        """The same events twice at one moment are appended once, and are no fork: what one brings is no news to the
        other.
        """
        pdus = self.hub_says("1", "2")
        self.north.may_overlap = True
        loaded = done(self.north.floor.rooms.loaded(self.room_id))
        assert loaded is not None
        done(loaded.sequencer.hold())
        body = {"pdus": [parse_object(pdu.canonical) for pdu in pdus]}
        receiving = [
            Deferred.fromCoroutine(self.north.floor.receiver.receive(self.hub.name, f"x{number}", body, encode(body)))
            for number in range(2)
        ]
        loaded.sequencer.release()
        for _ in range(100):
            self.network.clock.advance(0)
        for one in receiving:
            self.assertEqual({"failed_pdus": {}}, parse_object(self.successResultOf(one)))
        self.assertEqual(["1", "2"], self.north.bodies(self.room_id))
        self.assertEqual([], self.evidence())

    def test_a_gap_is_filled_from_the_hub(self) -> None:
        """When events are missing they are fetched before anything is appended, however many pages that takes."""
        pdus = self.hub_says(*(str(number) for number in range(250)))
        self.assertEqual({"failed_pdus": {}}, self.receive(pdus[-1]))
        self.assertEqual([str(number) for number in range(250)], self.north.bodies(self.room_id))
        self.network.settle()
        self.assert_same_order(self.room_id)

    def test_a_gap_that_cannot_be_filled_hides_what_follows(self) -> None:
        """Without what is missing nothing is appended; the event is asked for again; nobody is accused; and a later
        event heals the log.
        """
        pdus = self.hub_says("1", "2", "3")
        self.network.unreachable.add(self.hub.name)
        answer = self.receive(pdus[1])
        self.assertEqual("org.lmatrix.try_later", answer["failed_pdus"][pdus[1].event_id]["errcode"])
        self.assertEqual([], self.north.bodies(self.room_id))
        self.assertEqual([], self.evidence())
        self.network.unreachable.clear()
        self.assertEqual({"failed_pdus": {}}, self.receive(pdus[2]))
        self.assertEqual(["1", "2", "3"], self.north.bodies(self.room_id))

    def test_a_gap_that_the_hub_denies_is_evidence(self) -> None:
        """A hub that names a predecessor and then says that there is none is withholding something."""
        lie = self.forged("$" + "x" * 43, "after nothing")
        self.assertIn(lie.event_id, self.receive(lie)["failed_pdus"])
        self.assertEqual([("gap", lie.event_id)], [(one.kind, one.event_id) for one in self.evidence()])
        self.receive(*self.hub_says("next"))
        self.assertEqual(["next"], self.north.bodies(self.room_id))

    def test_what_cannot_be_verified_yet(self) -> None:
        """While keys cannot be had, an event and what follows it wait, and nobody is accused; then they are taken."""
        self.hub_says("1")
        self.south.send(self.room_id, self.carol, "2")
        self.south.deliver_once()
        self.hub_says("3")
        first, second, third = self.hub.pdus(self.room_id)[-3:]
        self.network.keyless.add(self.south.name)
        failed = self.receive(first, second, third)["failed_pdus"]
        self.assertEqual({second.event_id, third.event_id}, failed.keys())
        self.assertEqual({"org.lmatrix.try_later"}, {one["errcode"] for one in failed.values()})
        self.assertEqual(["1"], self.north.bodies(self.room_id))
        self.assertEqual([], self.evidence())
        self.network.keyless.clear()
        self.assertEqual({"failed_pdus": {}}, self.receive(second, third))
        self.assertEqual(["1", "2", "3"], self.north.bodies(self.room_id))
        self.network.keyless.add(self.south.name)
        self.assertEqual({"failed_pdus": {}}, self.receive(second, third))

    def test_auth_events_where_hubs_may_be_a_moment_behind(self) -> None:
        """In a version that tolerates forks, auth events may be older ones, but not of other kinds, nor doubled."""
        self.room_id = room_id = self.hub.create_room(self.alice, version=V02)
        self.north.join(self.bob, room_id, self.hub.name)
        older = done(self.hub.floor.rooms.load(room_id)).state.get("m.room.power_levels")
        newer = done(
            self.hub.floor.local_users.send(
                room_id, self.alice, "m.room.power_levels", {**older.content, "invite": 1}, state_key=""
            )
        )
        topic = done(self.hub.floor.local_users.send(room_id, self.alice, "m.room.topic", {"topic": "x"}, state_key=""))
        self.network.settle()
        head = self.hub.pdus(room_id)[-1]
        right = self.forged(head.event_id, "right", version=V02)
        stale = [older.event_id if event_id == newer else event_id for event_id in right.auth_events]
        for number, (auth_events, shown) in enumerate(
            (
                ([*right.auth_events, topic], False),
                ([*right.auth_events, older.event_id], False),
                ([*right.auth_events, head.event_id], False),
                (right.auth_events[1:], False),
                (stale, True),
                ([*right.auth_events, "$" + "x" * 43], True),
            )
        ):
            body = f"number {number}"
            pdu = self.forged(self.north.log(room_id)[-1].event_id, body, version=V02, auth_events=auth_events)
            self.receive(pdu)
            last = self.north.log(room_id)[-1]
            self.assertEqual((pdu.event_id, shown), (last.event_id, last.standing is Standing.ACCEPTED), body)

    def test_what_can_never_be_verified(self) -> None:
        """A hub that passes on what is signed with none of its sender's keys is caught, and not asked to try again."""
        [said] = self.hub_says("really")
        [signature] = said.signatures[self.hub.name].values()
        forged = Pdu.parse(
            {**said.fields, "signatures": {self.hub.name: {"ed25519:unlisted": signature}}}, said.room_version
        )
        self.assertEqual({"failed_pdus": {}}, self.receive(forged))
        self.assertEqual([("dropped", said.event_id)], [(one.kind, one.event_id) for one in self.evidence()])
        self.assertEqual([], self.north.bodies(self.room_id))

    def test_what_was_before_our_log_is_no_gap(self) -> None:
        """A hub that thinks that we came in earlier sends what was before our log begins: that is neither missing nor
        appended, however long ago it was.
        """
        room_id = self.hub.create_room(self.alice)
        for number in range(250):
            result_of(self.hub.send(room_id, self.alice, str(number)))
        self.north.join(self.bob, room_id, self.hub.name)
        early = [pdu for pdu in self.hub.pdus(room_id) if pdu.type == "m.room.message"]
        log = self.north.log(room_id)
        for some in (early[3:5], early[-2:]):
            self.assertEqual({"failed_pdus": {}}, self.receive(*some))
        self.assertEqual(log, self.north.log(room_id))
        store = self.north.rooms
        self.assertEqual([], result_of(self.north.database.read(lambda tx: store.evidence(tx, room_id))))
        self.assertEqual({"failed_pdus": {}}, self.receive(*self.hub.pdus(room_id)[-2:]))

    def test_a_fork_is_evidence(self) -> None:
        """A second successor of one event is kept with the first, is never history, and does not stop the room."""
        head = self.hub.log(self.room_id)[-1].event_id
        [told] = self.hub_says("to the north")
        self.receive(told)
        other = self.forged(head, "to the south")
        answer = self.receive(other)
        self.assertIn(other.event_id, answer["failed_pdus"])
        [evidence] = self.evidence()
        self.assertEqual(("fork", other.event_id), (evidence.kind, evidence.event_id))
        assert evidence.against is not None
        self.assertEqual(told.canonical, evidence.against)
        self.assertEqual(["to the north"], self.north.bodies(self.room_id))
        self.receive(*self.hub_says("next"))
        self.assertEqual(["to the north", "next"], self.north.bodies(self.room_id))

    def test_what_breaks_the_rules_is_never_state(self) -> None:
        """An event that the hub should have refused holds its place in the chain and has no effect."""
        head = self.hub.log(self.room_id)[-1].event_id
        state = done(self.hub.floor.rooms.load(self.room_id)).state
        carol = state.get("m.room.member", self.carol)
        bad = build_hub_event(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.topic",
            sender=self.alice,
            content={"topic": "forged"},
            origin_server_ts=17,
            hub_server=self.hub.name,
            auth_events=[state.get("m.room.create").event_id, carol.event_id],  # not those that the rules select
            prev_events=[head],
            keys=self.hub.identity.keys,
            state_key="",
        )
        answer = self.receive(bad)
        self.assertIn(bad.event_id, answer["failed_pdus"])
        self.assertEqual(["rejected"], [one.kind for one in self.evidence()])
        self.assertIs(Standing.REJECTED, self.north.log(self.room_id)[-1].standing)
        self.assertIsNone(done(self.north.floor.rooms.load(self.room_id)).state.get("m.room.topic"))
        self.receive(self.forged(bad.event_id, "after"))
        self.assertEqual(["after"], self.north.bodies(self.room_id))
        self.north.restart()
        self.assertIsNone(done(self.north.floor.rooms.load(self.room_id)).state.get("m.room.topic"))

    def test_auth_events_that_are_cited_twice(self) -> None:
        """An event that cites the right auth events, and one of them again, breaks the rules (4.1)."""
        good = self.forged(self.hub.log(self.room_id)[-1].event_id, "twice")
        bad = build_hub_event(
            room_version("I.1"),
            room_id=self.room_id,
            type=good.type,
            sender=good.sender,
            content=good.content,
            origin_server_ts=17,
            hub_server=self.hub.name,
            auth_events=[*good.auth_events, good.auth_events[0]],
            prev_events=good.prev_events,
            keys=self.hub.identity.keys,
        )
        self.assertIn(bad.event_id, self.receive(bad)["failed_pdus"])
        self.assertIs(Standing.REJECTED, self.north.log(self.room_id)[-1].standing)

    def test_what_is_not_signed_is_dropped(self) -> None:
        """An event without the hub's good signature is no event; it is evidence only."""
        head = self.hub.log(self.room_id)[-1].event_id
        good = self.forged(head, "x")
        for signatures in (
            {},
            {"hub.example": {"ed25519:1": "A" * 86}},
            {"north.example": good.signatures["hub.example"]},
        ):
            answer = self.receive({**good.fields, "signatures": signatures})
            self.assertEqual({"failed_pdus": {}}, answer)
        self.assertEqual([], self.north.bodies(self.room_id))
        self.assertEqual({"dropped"}, {one.kind for one in self.evidence()})

    def test_changed_content_is_redacted(self) -> None:
        """Content that does not match its hash is not shown; the event holds its place."""
        [pdu] = self.hub_says("true")
        self.assertEqual({"failed_pdus": {}}, self.receive({**pdu.fields, "content": {"body": "false"}}))
        self.assertEqual(
            (pdu.event_id, {}), (self.north.pdus(self.room_id)[-1].event_id, self.north.pdus(self.room_id)[-1].content)
        )
        [evidence] = self.evidence()
        self.assertEqual(("altered", pdu.event_id), (evidence.kind, evidence.event_id))
        self.assertEqual({"body": "false"}, parse_object(evidence.event)["content"])

    def test_a_redacted_copy_is_no_evidence(self) -> None:
        """An event that comes late comes as its redacted copy, whose content is gone by right."""
        [pdu] = self.hub_says("never mind")
        done(self.hub.floor.local_users.redact(self.room_id, self.alice, pdu.event_id, None))
        self.network.settle()
        self.assertEqual({}, self.north.pdus(self.room_id)[-2].content)
        self.assertEqual([], self.evidence())

    def test_only_the_hub_is_believed(self) -> None:
        """PDUs from any other server are dropped, and so are LPDUs: this server is not the hub."""
        pdus = self.hub_says("1")
        self.assertEqual({"failed_pdus": {}}, self.receive(*pdus, origin="south.example"))
        lpdu = {key: value for key, value in pdus[0].fields.items() if key not in ("auth_events", "prev_events")}
        lpdu["hashes"] = {"lpdu": lpdu["hashes"]["lpdu"]}
        self.assertEqual({"failed_pdus": {}}, self.receive(lpdu))
        self.assertEqual([], self.north.bodies(self.room_id))

    def test_an_lpdu_for_an_old_hub_is_told_the_new_one(self) -> None:
        """A server that is not the hub names the hub to those who think that it is."""
        lpdu = {key: value for key, value in self.hub_says("1")[0].fields.items() if not key.endswith("_events")}
        lpdu.update(hub_server=self.north.name, sender=self.carol, hashes={"lpdu": lpdu["hashes"]["lpdu"]})
        [failed] = self.receive(lpdu, origin="south.example")["failed_pdus"].values()
        self.assertIn(self.hub.name, failed["error"])

    def test_a_failed_commit_is_not_acknowledged(self) -> None:
        """What is not on disk is not answered for; the hub's repetition brings it."""
        [pdu] = self.hub_says("1")
        self.north.database.fail_commits = 1
        self.assertRaises(StorageFailed, self.receive, pdu)
        self.assertEqual([], self.north.bodies(self.room_id))
        self.receive(pdu)
        self.assertEqual(["1"], self.north.bodies(self.room_id))


class ToleranceTests(NetworkTestCase):
    """v02 rooms, whose hubs fork under load."""

    def test_forks_are_kept_in_the_order_of_receipt(self) -> None:
        """Two events with one predecessor are both history, and so is what follows either."""
        room_id = self.shared_room(V02)
        head = self.hub.log(room_id)[-1].event_id
        state = done(self.hub.floor.rooms.load(room_id)).state
        auth = [state.get("m.room.create"), state.get("m.room.power_levels"), state.get("m.room.member", self.alice)]

        def event(body: str, prev_event: str) -> Pdu:
            return build_hub_event(
                room_version(V02),
                room_id=room_id,
                type="m.room.message",
                sender=self.alice,
                content={"body": body},
                origin_server_ts=17,
                hub_server=self.hub.name,
                auth_events=[one.event_id for one in auth],
                prev_events=[prev_event],
                keys=self.hub.identity.keys,
            )

        left, right = event("left", head), event("right", head)
        after = event("after", left.event_id)
        answer = self.north.receive(self.hub.name, "1", [dict(pdu.fields) for pdu in (left, right, after)])
        self.assertEqual({"failed_pdus": {}}, answer)
        self.assertEqual(["left", "right", "after"], self.north.bodies(room_id))
