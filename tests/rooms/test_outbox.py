"""Participants' own events, from the user's wish to the hub's word."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import parse
from lmatrix.errors import Overloaded, SendFailed, StorageFailed
from lmatrix.rooms.local_users import ClientTransaction
from lmatrix.rooms.outbox import MAX_PENDING, PATIENCE_SECONDS
from tests.rooms.network import NetworkTestCase, done, result_of


class OutboxTests(NetworkTestCase):
    """What becomes of what Bob sends."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()

    def pending(self) -> int:
        return len(result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 99))))

    def test_nothing_is_answered_before_the_hub_has_it(self) -> None:
        """A user's request waits for the hub, and the LPDU is on disk meanwhile."""
        sending = self.north.send(self.room_id, self.bob, "hello")
        self.assertNoResult(sending)
        self.assertEqual(1, self.pending())
        self.network.settle()
        self.assertEqual(self.hub.log(self.room_id)[-1].event_id, self.successResultOf(sending))
        self.assertEqual(0, self.pending())

    def test_a_refusal_says_why(self) -> None:
        """The hub's reason reaches the user, and the LPDU is gone."""
        sending = Deferred.fromCoroutine(
            self.north.floor.local_users.send(self.room_id, self.bob, "m.room.topic", {"topic": "x"}, state_key="")
        )
        self.network.settle()
        error = self.failureResultOf(sending, SendFailed).value
        self.assertTrue(error.refused)
        self.assertIn("power level", str(error))
        self.assertEqual(0, self.pending())

    def test_a_hub_that_cannot_be_reached_gets_it_later(self) -> None:
        """The user is told that it is pending; it survives a restart, and arrives once the hub is back."""
        self.network.unreachable.add(self.hub.name)
        sending = self.north.send(self.room_id, self.bob, "patience", "txn")
        self.network.settle()
        self.network.clock.advance(PATIENCE_SECONDS)
        self.assertFalse(self.failureResultOf(sending, SendFailed).value.refused)
        self.north.restart()
        self.network.unreachable.clear()
        again = self.north.send(self.room_id, self.bob, "patience", "txn")
        self.assertNoResult(again)
        self.network.settle()
        self.assertEqual(self.hub.log(self.room_id)[-1].event_id, self.successResultOf(again))
        for server in self.network.servers.values():
            self.assertEqual(["patience"], server.bodies(self.room_id))

    def test_what_waits_for_a_hub_is_bounded(self) -> None:
        """A hub that is away for long does not fill the disk: the user is told to wait, and nothing more is kept."""
        self.network.unreachable.add(self.hub.name)
        waiting = self.north.send(self.room_id, self.bob, "first")
        waiting.addErrback(lambda _: None)

        def fill(tx: Any) -> None:
            columns = "room_id, room_version, hub_server, sender, lpdu_hash, canonical"
            tx.execute(
                f"INSERT INTO pending_lpdus ({columns}, lpdu_event_id)"
                " WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
                f" SELECT {columns}, '$' || n FROM pending_lpdus, numbers",
                (MAX_PENDING - 1,),
            )

        result_of(self.north.database.write(fill))
        error = self.failureResultOf(self.north.send(self.room_id, self.bob, "one too many"), Overloaded).value
        self.assertGreater(error.retry_after_ms, 0)
        self.assertTrue(
            result_of(
                self.north.database.read(lambda tx: self.north.pending.has_so_many(tx, self.hub.name, MAX_PENDING))
            )
        )
        self.assertFalse(
            result_of(
                self.north.database.read(lambda tx: self.north.pending.has_so_many(tx, self.hub.name, MAX_PENDING + 1))
            )
        )

    def test_the_echo_may_come_first(self) -> None:
        """When the event arrives before the hub's answer the user hears at once, and the answer changes nothing."""
        sending = self.north.send(self.room_id, self.bob, "hello")
        [lpdu] = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        answer = self.hub.receive(self.north.name, "t", [dict(parse(lpdu.canonical))])
        self.hub.deliver_once()
        event_id = self.successResultOf(sending)
        self.assertEqual(0, self.pending())
        done(self.north.floor.outbox.hub_answered(self.hub.name, [lpdu], {}, answer["org.lmatrix.accepted"], {}))
        self.assertEqual({lpdu.lpdu_event_id: event_id}, answer["org.lmatrix.accepted"])

    def test_a_hub_that_does_not_name_the_event(self) -> None:
        """Without ``org.lmatrix.accepted`` (a foreign hub) the LPDU stays pending until its echo."""
        sending = self.north.send(self.room_id, self.bob, "hello")
        [lpdu] = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        self.hub.receive(self.north.name, "t", [dict(parse(lpdu.canonical))])
        done(self.north.floor.outbox.hub_answered(self.hub.name, [lpdu], {}, {}, {}))
        self.assertNoResult(sending)
        self.assertEqual(1, self.pending())
        self.hub.deliver_once()
        self.assertEqual(self.hub.log(self.room_id)[-1].event_id, self.successResultOf(sending))
        self.assertEqual(0, self.pending())

    def test_who_has_left_hears_of_no_other_hub(self) -> None:
        """What did not reach a hub waits for another one while we are in the room, and is refused when we are not."""
        sending = self.north.send(self.room_id, self.bob, "late")
        [lpdu] = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        words = {lpdu.lpdu_event_id: "the hub is another one"}
        done(self.north.floor.outbox.hub_answered(self.hub.name, [lpdu], {}, {}, words))
        self.assertNoResult(sending)
        self.assertEqual(1, self.pending())
        done(self.hub.floor.local_users.membership(self.room_id, self.alice, self.bob, "leave", None))
        self.hub.deliver_once()
        done(self.north.floor.outbox.hub_answered(self.hub.name, [lpdu], {}, {}, words))
        error = self.failureResultOf(sending, SendFailed).value
        self.assertTrue(error.refused)
        self.assertIn("another one", str(error))
        self.assertEqual(0, self.pending())

    def test_a_client_transaction_is_carried_out_once(self) -> None:
        """A repeated transaction has the same answer: in flight, afterwards, after a restart, on a hub and a
        participant.
        """
        for server, user in ((self.hub, self.alice), (self.north, self.bob)):
            first = server.send(self.room_id, user, f"once, {user}", "txn")
            second = server.send(self.room_id, user, f"once, {user}", "txn")
            self.network.settle()
            event_id = self.successResultOf(first)
            self.assertEqual(event_id, self.successResultOf(second))
            self.assertEqual(event_id, self.successResultOf(server.send(self.room_id, user, f"once, {user}", "txn")))
            server.restart()
            self.assertEqual(event_id, self.successResultOf(server.send(self.room_id, user, f"once, {user}", "txn")))
        self.assertEqual(2, len(self.south.bodies(self.room_id)))

    def test_an_error_is_no_proof_that_it_is_not_on_disk(self) -> None:
        """A disk that has stored an LPDU and says that it failed: the LPDU is sent all the same, and the user's
        repeated transaction has its event as the answer, without anything else happening in between.
        """
        self.north.database.deny_commits = 1
        self.failureResultOf(self.north.send(self.room_id, self.bob, "hello", "txn"), StorageFailed)
        self.network.settle()
        self.assertEqual(0, self.pending())
        again = self.north.send(self.room_id, self.bob, "hello", "txn")
        self.assertEqual(self.hub.log(self.room_id)[-1].event_id, self.successResultOf(again))

    def test_what_is_refused_while_it_is_repeated_is_no_event(self) -> None:
        """When the hub refuses an LPDU just as its transaction is repeated, nobody is told that it is an event."""
        self.network.unreachable.add(self.hub.name)
        sending = self.north.send(self.room_id, self.bob, "hello", "txn")
        self.network.clock.advance(PATIENCE_SECONDS)
        self.failureResultOf(sending, SendFailed)
        [lpdu] = result_of(self.north.database.read(lambda tx: self.north.pending.for_hub(tx, self.hub.name, 0, 9)))
        self.north.database._clock = self.network.clock
        self.north.database._read_seconds = lambda: 2.0
        again = self.north.send(self.room_id, self.bob, "hello", "txn")
        for _ in range(20):
            self.network.clock.advance(1)  # half-way: a read has seen what it sees
            refusing = self.north.floor.outbox.hub_answered(self.hub.name, [lpdu], {lpdu.lpdu_event_id: "no"}, {}, {})
            Deferred.fromCoroutine(refusing).addErrback(lambda _: None)
            self.network.clock.advance(0)
        self.network.clock.advance(PATIENCE_SECONDS)
        self.failureResultOf(again, SendFailed)

    def test_a_transaction_id_counts_for_one_room(self) -> None:
        """The same ID in two rooms is two transactions, each with its own answer ever after."""
        other = self.hub.create_room(self.alice)
        ids = [self.successResultOf(self.hub.send(room_id, self.alice, "x", "t")) for room_id in (self.room_id, other)]
        again = [
            self.successResultOf(self.hub.send(room_id, self.alice, "x", "t")) for room_id in (self.room_id, other)
        ]
        self.assertEqual(ids, again)
        self.assertEqual(2, len(set(ids)))

    def test_a_refused_transaction_may_be_tried_again(self) -> None:
        """A client may use the transaction ID of a refused event again, once the event is allowed."""

        def topic() -> Deferred[str]:
            sending = Deferred.fromCoroutine(
                self.north.floor.local_users.send(
                    self.room_id,
                    self.bob,
                    "m.room.topic",
                    {"topic": "x"},
                    state_key="",
                    transaction=ClientTransaction(self.bob, "D", "t"),
                )
            )
            self.network.settle()
            return sending

        self.failureResultOf(topic(), SendFailed)
        levels = {"users": {self.alice: 100, self.bob: 50}}
        done(self.hub.floor.local_users.send(self.room_id, self.alice, "m.room.power_levels", levels, state_key=""))
        self.network.settle()
        self.successResultOf(topic())

    def test_the_same_words_twice_are_two_events(self) -> None:
        """A user who says the same thing twice in one millisecond has said it twice."""
        for server, user in ((self.hub, self.alice), (self.north, self.bob)):
            self.say(server, self.room_id, user, "echo")
            self.say(server, self.room_id, user, "echo")
        self.assertEqual(["echo"] * 4, self.south.bodies(self.room_id))
