"""The hub: what it makes of LPDUs."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import parse_object
from lmatrix.errors import BadRequest, EventRejected, StorageFailed, TransactionInFlight
from lmatrix.events.building import build_lpdu
from lmatrix.events.creation import Preset
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import room_version
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class HubTests(NetworkTestCase):
    """Transactions of the north, as the hub takes them."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.ts = 1

    def lpdu(self, body: str = "hello", **changes: Any) -> Lpdu:
        """A message of Bob's, with some things changed."""
        self.ts += 1
        server: Server = changes.pop("signed_by", self.north)
        arguments: dict[str, Any] = {
            "room_id": self.room_id,
            "type": "m.room.message",
            "sender": self.bob,
            "content": {"body": body, "msgtype": "m.text"},
            "origin_server_ts": self.ts,
            "hub_server": self.hub.name,
            "server_name": server.name,
            "keys": server.identity.keys,
        }
        return build_lpdu(room_version("I.1"), **{**arguments, **changes})

    def receive(self, txn_id: str, *lpdus: Lpdu) -> dict[str, Any]:
        return self.hub.receive(self.north.name, txn_id, [dict(lpdu.fields) for lpdu in lpdus])

    def test_one_chain(self) -> None:
        """Each event names the one before it as its only predecessor, from the create event to the head."""
        for txn in range(3):
            self.receive(str(txn), *(self.lpdu(f"{txn}.{number}") for number in range(5)))
        previous: tuple[str, ...] = ()
        for pdu in self.hub.pdus(self.room_id):
            self.assertEqual(previous, tuple(pdu.prev_events))
            previous = (pdu.event_id,)

    def test_what_is_dated_too_far_ahead_is_refused(self) -> None:
        """The hub signs nothing that is dated so late that its own key might have ended by then."""
        now_ms = int(self.network.clock.seconds() * 1000)
        day_ms = 24 * 60 * 60 * 1000
        near = self.lpdu(origin_server_ts=now_ms + day_ms)
        far = self.lpdu(origin_server_ts=now_ms + day_ms + 1)
        answer = self.receive("1", near, far)
        self.assertEqual({near.event_id}, answer["org.lmatrix.accepted"].keys())
        self.assertEqual({far.event_id}, answer["failed_pdus"].keys())

    def test_what_cannot_be_verified_yet_is_not_refused(self) -> None:
        """While the sender's keys cannot be had, the LPDU is to be sent again; then it is accepted."""
        lpdu = self.lpdu()
        self.network.keyless.add(self.north.name)
        failed = self.receive("1", lpdu)["failed_pdus"]
        self.assertEqual("org.lmatrix.try_later", failed[lpdu.event_id]["errcode"])
        self.network.keyless.clear()
        self.assertEqual({}, self.receive("2", lpdu)["failed_pdus"])

    def test_what_is_signed_with_keys_that_do_not_exist_is_refused(self) -> None:
        """When the sender's server has told its keys, and what signed the LPDU is not among them, that is final."""
        lpdu = self.lpdu()
        [signature] = lpdu.signatures[self.north.name].values()
        for key_id in ("ed25519:unlisted", "rsa:1"):
            forged = {**lpdu.fields, "signatures": {self.north.name: {key_id: signature}}}
            failed = self.receive(key_id, Lpdu.parse(forged, lpdu.room_version))["failed_pdus"]
            self.assertEqual({lpdu.event_id}, failed.keys())
            self.assertNotIn("errcode", failed[lpdu.event_id])
        # Keys of another kind do not exist, whether or not anybody can be asked.
        self.network.keyless.add(self.north.name)
        failed = self.receive("3", Lpdu.parse(forged, lpdu.room_version))["failed_pdus"]
        self.assertNotIn("errcode", failed[lpdu.event_id])

    def test_the_answer_names_the_events(self) -> None:
        """``org.lmatrix.accepted`` says which event each LPDU became."""
        lpdu = self.lpdu()
        answer = self.receive("1", lpdu)
        self.assertEqual({}, answer["failed_pdus"])
        self.assertEqual(self.hub.log(self.room_id)[-1].event_id, answer["org.lmatrix.accepted"][lpdu.event_id])

    def test_a_second_lpdu_like_the_first_is_the_first(self) -> None:
        """An LPDU that was accepted is not appended again, in the same transaction, a later one, or after a restart."""
        lpdu = self.lpdu()
        first = self.receive("1", lpdu, lpdu)
        second = self.receive("2", lpdu)
        self.hub.restart()
        third = self.receive("3", lpdu)
        self.assertEqual(first, second)
        self.assertEqual(first, third)
        self.assertEqual(["hello"], self.hub.bodies(self.room_id))

    def test_what_was_accepted_is_recognised_beyond_memory(self) -> None:
        """In one transaction with new ones, LPDUs that only the disk knows are not appended again; that a state event
        was sent again does not undo what came after it.
        """
        join = {"membership": "join", "displayname": "Bob"}
        old = [
            self.lpdu("old"),
            self.lpdu(type="m.room.member", state_key=self.bob, content={**join, "displayname": "Robert"}),
            self.lpdu(type="m.room.member", state_key=self.bob, content=join),
        ]
        first = self.receive("1", *old)
        self.hub.restart()
        before = len(self.hub.log(self.room_id))
        answer = self.receive("2", self.lpdu("new"), *old, self.lpdu("newer"))
        self.assertEqual({}, answer["failed_pdus"])
        self.assertEqual(2, len(self.hub.log(self.room_id)) - before)
        self.assertEqual(["old", "new", "newer"], self.hub.bodies(self.room_id))
        for lpdu in old:
            made = first["org.lmatrix.accepted"][lpdu.event_id]
            self.assertEqual(made, answer["org.lmatrix.accepted"][lpdu.event_id])

    def test_what_the_log_grows_by(self) -> None:
        """The delivery is told what is new just where every destination is owed just that: what it is told is what it
        would read. Where servers come or go, or an event that is there is redacted, it is not told.
        """
        told = self.hub.delivery.growths
        self.network.settle()
        told.clear()
        self.receive(
            "1",
            self.lpdu("a"),
            self.lpdu("b"),
            self.lpdu(type="m.room.member", state_key=self.bob, content={"membership": "join", "displayname": "Bob"}),
        )
        [(destinations, growth)] = told
        self.assertEqual({self.north.name, self.south.name}, destinations)
        assert growth is not None
        for destination in destinations:
            owed = self.successResultOf(
                self.hub.database.read(
                    lambda tx, to=destination: self.hub.cursors.owed_events(tx, to, self.room_id, 50)
                )
            )
            self.assertEqual(
                [(event.position, event.event_id, event.canonical) for event in owed],
                [tuple(entry) for entry in growth.events],
            )
        redaction = self.lpdu(type="m.room.redaction", content={"redacts": growth.events[0].event_id})
        leaving = self.lpdu(type="m.room.member", state_key=self.bob, content={"membership": "leave"})
        for number, lpdu in enumerate((redaction, leaving)):
            told.clear()
            self.assertEqual({}, self.receive(f"more {number}", lpdu)["failed_pdus"])
            self.assertEqual([None], [growth for _, growth in told])
        self.network.settle()
        told.clear()
        self.north.join(self.bob, self.room_id, self.hub.name)
        self.assertEqual([None], [growth for _, growth in told])

    def test_refusals_are_told_and_change_nothing(self) -> None:
        """What is refused is named in the answer with the reason; the rest of the transaction is taken."""
        mallory = f"@mallory:{self.north.name}"
        cases = {
            "not joined": self.lpdu(sender=mallory),
            "no power": self.lpdu(type="m.room.topic", state_key="", content={"topic": "mine"}),
            "another hub": self.lpdu(hub_server=self.south.name),
            "signed by another": self.lpdu(signed_by=self.south),
        }
        before = len(self.hub.log(self.room_id))
        answer = self.receive("1", *cases.values(), self.lpdu("good"))
        for name, lpdu in cases.items():
            self.assertIn(lpdu.event_id, answer["failed_pdus"], name)
        self.assertIn(self.hub.name, answer["failed_pdus"][cases["another hub"].event_id]["error"])
        self.assertIn("m.room.topic", answer["failed_pdus"][cases["no power"].event_id]["error"])
        self.assertEqual(before + 1, len(self.hub.log(self.room_id)))
        self.assertEqual(["good"], self.hub.bodies(self.room_id))

    def test_a_changed_lpdu_is_redacted(self) -> None:
        """Content that does not match the LPDU hash never reaches the room; what is signed of the event does."""
        fields = dict(self.lpdu("true").fields)
        fields["content"] = {"body": "false"}
        answer = self.hub.receive(self.north.name, "1", [fields])
        self.assertEqual({}, answer["failed_pdus"])
        self.assertEqual({}, self.hub.pdus(self.room_id)[-1].content)

    def test_unknown_room(self) -> None:
        """An event for a room that we do not know fails, with a reason."""
        lpdu = self.lpdu(room_id="!nowhere:hub.example")
        self.assertIn("!nowhere:hub.example", self.receive("1", lpdu)["failed_pdus"][lpdu.event_id]["error"])

    def test_malformed_events_fail_alone(self) -> None:
        """Events without the required shape are told to the sender, and harm no other."""
        good = self.lpdu("good")
        for number, change in enumerate(
            ({"room_id": 7}, {"sender": "bob"}, {"content": []}, {"origin_server_ts": "now"}, {"hashes": {}})
        ):
            answer = self.hub.receive(
                self.north.name, str(number), [{**self.lpdu("bad").fields, **change}, dict(good.fields)]
            )
            self.assertEqual(1, len(answer["failed_pdus"]), change)
        self.assertEqual(["good"], self.hub.bodies(self.room_id))

    def test_a_pdu_is_not_taken_by_its_hub(self) -> None:
        """A completed event sent back to the hub is dropped: neither accepted nor failed."""
        pdu = self.hub.pdus(self.room_id)[-1]
        before = self.hub.log(self.room_id)
        self.assertEqual({"failed_pdus": {}}, self.hub.receive(self.north.name, "1", [dict(pdu.fields)]))
        self.assertEqual(before, self.hub.log(self.room_id))

    def test_a_failed_commit_is_not_acknowledged(self) -> None:
        """When the disk fails nothing is answered, nothing is kept, and the same transaction succeeds later."""
        lpdu = self.lpdu()
        self.hub.database.fail_commits = 1
        with self.assertRaises(StorageFailed):
            self.receive("1", lpdu)
        self.assertEqual([], self.hub.bodies(self.room_id))
        self.assertIn(lpdu.event_id, self.receive("1", lpdu)["org.lmatrix.accepted"])
        self.assertEqual(["hello"], self.hub.bodies(self.room_id))

    def test_redaction(self) -> None:
        """A redaction empties its target for everybody, when its sender has the power or shares the target's server."""
        own = self.say(self.north, self.room_id, self.bob, "own")
        foreign = self.say(self.south, self.room_id, self.carol, "foreign")
        for target in (own, foreign):
            redacting = self.north.floor.local_users.redact(self.room_id, self.bob, target, None)
            sending = Deferred.fromCoroutine(redacting)
            self.network.settle()
            result_of(sending)
        for server in self.network.servers.values():
            contents = {pdu.event_id: pdu.content for pdu in server.pdus(self.room_id)}
            self.assertEqual({}, contents[own], server.name)
            self.assertEqual("foreign", contents[foreign].get("body"), server.name)


class TransactionTests(NetworkTestCase):
    """Transactions are carried out once."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()

    def body(self, text: str) -> dict[str, Any]:
        lpdu = build_lpdu(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.message",
            sender=self.bob,
            content={"body": text, "msgtype": "m.text"},
            origin_server_ts=5,
            hub_server=self.hub.name,
            server_name=self.north.name,
            keys=self.north.identity.keys,
        )
        return {"pdus": [parse_object(lpdu.canonical)]}

    def receive(self, txn_id: str, body: dict[str, Any]) -> Any:
        return Deferred.fromCoroutine(self.hub.floor.receiver.receive(self.north.name, txn_id, body))

    def slow_disk(self) -> None:
        """Make commits of the hub take a second."""
        self.hub.database._clock = self.network.clock
        self.hub.database._commit_seconds = lambda: 1.0

    def test_the_same_in_flight_shares_the_answer(self) -> None:
        """A repetition while the first is in flight gets the same answer, and is not carried out again."""
        self.slow_disk()
        first, second = self.receive("1", self.body("a")), self.receive("1", self.body("a"))
        self.assertNoResult(second)
        self.network.clock.pump([1, 1, 1])
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(["a"], self.hub.bodies(self.room_id))

    def test_another_in_flight_is_refused(self) -> None:
        """A second transaction of the same server has to wait for the answer to the first."""
        self.slow_disk()
        first = self.receive("1", self.body("a"))
        self.failureResultOf(self.receive("2", self.body("b")), TransactionInFlight)
        self.network.clock.pump([1, 1, 1])
        self.successResultOf(first)
        second = self.receive("2", self.body("b"))
        self.network.clock.pump([1, 1, 1])
        self.successResultOf(second)
        self.assertEqual(["a", "b"], self.hub.bodies(self.room_id))

    def test_peers_that_may_overlap_wait_their_turn(self) -> None:
        """For a peer that is configured so, a second transaction is queued instead."""
        self.hub.may_overlap = True
        self.slow_disk()
        answers = [self.receive(str(number), self.body(str(number))) for number in range(3)]
        self.network.clock.pump([1] * 9)
        for answer in answers:
            self.successResultOf(answer)
        self.assertEqual(["0", "1", "2"], self.hub.bodies(self.room_id))

    def test_overlapping_transactions_share_a_commit(self) -> None:
        """Those that wait their turn begin as soon as the one before has its place: their order is kept, and what comes
        during a commit is in the next one together.
        """
        self.hub.may_overlap = True
        self.slow_disk()
        before = self.hub.database.commits
        answers = [self.receive(str(number), self.body(str(number))) for number in range(10)]
        self.network.clock.pump([0] * 20 + [1] * 3)
        for answer in answers:
            self.successResultOf(answer)
        self.assertEqual([str(number) for number in range(10)], self.hub.bodies(self.room_id))
        self.assertEqual(2, self.hub.database.commits - before)

    def test_a_finished_transaction_has_its_answer(self) -> None:
        """A repetition after the end, and after a restart, gets the stored answer byte for byte."""
        first = self.successResultOf(self.receive("1", self.body("a")))
        self.assertEqual(first, self.successResultOf(self.receive("1", self.body("a"))))
        self.hub.restart()
        self.assertEqual(first, self.successResultOf(self.receive("1", self.body("a"))))

    def test_an_id_with_another_body_is_another_transaction(self) -> None:
        """Peers that use an ID again lose nothing."""
        self.successResultOf(self.receive("1", self.body("a")))
        self.successResultOf(self.receive("1", self.body("b")))
        self.assertEqual(["a", "b"], self.hub.bodies(self.room_id))

    def test_bounds(self) -> None:
        """More than 50 PDUs or 100 EDUs, or things that are not lists of objects: nothing is looked at."""
        event = self.body("a")["pdus"][0]
        for bad in (
            {},
            {"pdus": None},
            {"pdus": {}},
            {"pdus": [1]},
            {"pdus": [event] * 51},
            {"pdus": [event], "edus": [{}] * 101},
            {"pdus": [event], "edus": "x"},
        ):
            self.failureResultOf(self.receive("1", bad), BadRequest)
        self.failureResultOf(self.receive("", self.body("a")), BadRequest)
        self.failureResultOf(self.receive("x" * 256, self.body("a")), BadRequest)
        self.assertEqual([], self.hub.bodies(self.room_id))
        full = {"pdus": [event] * 50, "edus": [{"type": "m.x", "sender": self.bob, "content": {}}] * 100}
        receiving = self.receive("1", full)
        self.network.clock.pump([0] * 10)
        self.successResultOf(receiving)
        self.assertEqual(100, len(self.hub.edus.received))


class CreationTests(NetworkTestCase):
    """Making rooms."""

    def test_an_impossible_room_is_not_made(self) -> None:
        """When one of the first events is refused there is no room at all, not even after a restart."""
        with self.assertRaises(EventRejected):
            self.hub.create_room(
                self.alice, preset=Preset.PUBLIC_CHAT, power_level_content_override={"users": {self.alice: "high"}}
            )
        rooms = self.hub.database.read(lambda tx: self.hub.rooms.rooms_of_server(tx))
        self.assertEqual([], list(result_of(rooms)))

    def test_rooms_survive_a_restart(self) -> None:
        """A room goes on where it was."""
        room_id = self.shared_room()
        self.say(self.north, room_id, self.bob, "before")
        for server in self.network.servers.values():
            server.restart()
        self.say(self.north, room_id, self.bob, "after")
        self.say(self.hub, room_id, self.alice, "too")
        self.assertEqual(["before", "after", "too"], self.south.bodies(room_id))
        self.assert_same_order(room_id)
        self.assertTrue(done(self.hub.floor.rooms.load(room_id)).is_hub)
