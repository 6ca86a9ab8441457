"""Delivery to destinations that fail, refuse, or come back."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerMisbehaved
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.delivery_tools import MAX_KEPT_BYTES
from lmatrix.federation.settling import REST_SECONDS
from tests.federation.delivery_bench import OK, OTHER, PEER, START, Bench, Request


class FailingTests(SynchronousTestCase):
    """A destination that does not answer 200."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.policy = BackoffPolicy(jitter=0)
        self.bench.live()
        self.room = self.bench.room("one")
        self.bench.say(self.room, "a")

    def wait(self, seconds: float) -> None:
        """Let time pass, in small steps as it does."""
        for _ in range(int(seconds * 10)):
            self.bench.clock.advance(0.1)

    def test_same_again(self) -> None:
        """What failed is sent again under the same ID with the same body, though more has come meanwhile."""
        self.bench.advanced(self.room)
        first = self.bench.peers.last()
        first.unreachable()
        self.bench.say(self.room, "b")
        self.bench.advanced(self.room)
        self.assertEqual([], self.bench.peers.open)
        self.bench.clock.advance(1)
        second = self.bench.peers.last()
        self.assertEqual((first.transaction_id, first.body), (second.transaction_id, second.body))
        self.assertEqual(0, self.bench.cursor(self.room))
        second.ok()
        self.assertEqual(["b"], self.bench.peers.last().texts)

    def test_longer_and_longer(self) -> None:
        """The pauses double; the failures are counted, and stored with the time of the next attempt."""
        self.bench.advanced(self.room)
        times = []
        for _ in range(5):
            times.append(self.bench.peers.last().at - START)
            self.bench.peers.last().unreachable()
            state = self.bench.stored_state()
            self.assertEqual(START * 1000, state.failing_since_ms)
            self.bench.clock.advance((state.retry_at_ms or 0) / 1000 - self.bench.clock.seconds())
        self.assertEqual([0, 1, 3, 7, 15], times)
        value = self.bench.metrics.registry.get_sample_value("lmatrix_delivery_failures_total", {"destination": PEER})
        self.assertEqual(5, value)

    def test_every_kind_of_failure(self) -> None:
        """A server error, nonsense in a 200, and an error of our own are failures like any other: nothing is lost."""
        self.bench.advanced(self.room)
        failures = (
            lambda request: request.refuse(500),
            lambda request: request.refuse(502),
            lambda request: request.refuse(401, "M_FORBIDDEN"),
            lambda request: request.refuse(404, "M_NOT_FOUND"),
            lambda request: request.answer.errback(PeerMisbehaved(PEER, "not JSON")),
            lambda request: request.answer.errback(ZeroDivisionError()),
        )
        seen = set()
        for fail in failures:
            request = self.bench.peers.last()
            seen.add((request.transaction_id, request.body))
            fail(request)
            self.assertEqual([], self.bench.peers.open)
            self.bench.clock.advance(100)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        seen.add((self.bench.peers.last().transaction_id, self.bench.peers.last().body))
        self.assertEqual(1, len(seen))

    def test_recovery(self) -> None:
        """A success ends the run of failures, in the store too; the next failure starts from the shortest pause."""
        self.bench.advanced(self.room)
        for _ in range(3):
            self.bench.peers.last().unreachable()
            self.bench.clock.advance(10)
        self.bench.peers.last().ok()
        state = self.bench.stored_state()
        self.assertEqual((None, None, 0, int(self.bench.clock.seconds() * 1000)), (
            state.retry_at_ms,
            state.failing_since_ms,
            state.interval_ms,
            state.last_success_ms,
        ))  # fmt: skip
        self.bench.say(self.room, "b")
        self.bench.advanced(self.room)
        self.bench.peers.last().unreachable()
        self.assertEqual(1000, self.bench.stored_state().interval_ms)

    def test_success_writes_no_state(self) -> None:
        """A destination that never fails has no row of its own."""
        self.bench.advanced(self.room)
        self.bench.peers.last().ok()
        self.assertIsNone(self.bench._run(lambda tx: self.bench.cursors.destination(tx, PEER)))

    def test_what_others_stored_stays(self) -> None:
        """Storing the back-off leaves what else is known of the destination alone."""
        self.bench.advanced(self.room)
        self.bench.peers.last().unreachable()
        self.bench._run(lambda tx: tx.execute("UPDATE destinations SET path_form = 'unstable', bare_get_signature = 1"))
        self.bench.clock.advance(1)
        self.bench.peers.last().ok()
        state = self.bench.stored_state()
        self.assertEqual(("unstable", True), (state.path_form, state.bare_get_signature))

    def test_asked_to_wait(self) -> None:
        """A wait that the peer asks for is honoured; a boundless one is bounded."""
        self.bench.advanced(self.room)
        self.bench.peers.last().refuse(429, "M_LIMIT_EXCEEDED", retry_after_ms=30_000)
        self.wait(29.5)
        self.assertEqual([], self.bench.peers.open)
        self.wait(1)
        self.bench.peers.last().refuse(429, "M_LIMIT_EXCEEDED", retry_after_ms=10**15)
        self.bench.clock.advance(3600)
        self.assertEqual(1, len(self.bench.peers.open))

    def test_showing_life_does_not_cut_short_a_wait_that_was_asked_for(self) -> None:
        """A hub that has too much to do sends us events all the same; it is left alone for as long as it said."""
        self.bench.advanced(self.room)
        self.bench.peers.last().refuse(429, "M_LIMIT_EXCEEDED", retry_after_ms=30_000)
        self.wait(5)
        self.bench.delivery.heard_from(PEER)
        self.wait(20)
        self.assertEqual([], self.bench.peers.open)
        self.wait(6)
        self.assertEqual(1, len(self.bench.peers.open))
        self.bench.peers.last().unreachable()
        self.bench.delivery.heard_from(PEER)
        self.wait(1.5)
        self.assertEqual(1, len(self.bench.peers.open), "the old wait does not last")

    def test_what_failing_destinations_keep_is_bounded(self) -> None:
        """A transaction that finds no room in memory is made anew for the next attempt; nothing is lost by that."""
        self.bench.delivery._tools.kept_bytes.take("elsewhere", MAX_KEPT_BYTES)
        self.bench.advanced(self.room)
        first = self.bench.peers.last()
        first.unreachable()
        self.bench.say(self.room, "b")
        self.bench.clock.advance(1)
        second = self.bench.peers.last()
        self.assertNotEqual(first.transaction_id, second.transaction_id)
        self.assertEqual(["a", "b"], second.texts)
        self.bench.delivery._tools.kept_bytes.give_back("elsewhere", MAX_KEPT_BYTES)
        second.unreachable()
        self.assertEqual(self.bench.delivery._tools.kept_bytes.taken, len(second.body))
        self.bench.clock.advance(2)
        third = self.bench.peers.last()
        self.assertEqual(second.transaction_id, third.transaction_id)
        third.ok()
        self.assertEqual(self.bench.delivery._tools.kept_bytes.taken, 0)

    def test_try_later(self) -> None:
        """What the peer cannot take yet is sent again after longer and longer pauses, and all of its room that follows
        after it; what came before counts as delivered, and other rooms go on.
        """
        other = self.bench.room("two")
        self.bench.say(self.room, "b", "c")
        self.bench.say(other, "x")
        self.bench.advanced(self.room)
        begun = self.bench.clock.seconds()
        times = []
        for _ in range(4):
            request = self.bench.peers.last()
            times.append(self.bench.clock.seconds() - begun)
            held = self.bench.ids(self.room, "b", "c")
            request.later(*held)
            self.assertEqual(["a", "b", "c", "x"] if len(times) == 1 else ["b"], request.texts)
            self.assertEqual((2, 2), (self.bench.cursor(self.room), self.bench.cursor(other)))
            self.assertEqual([], self.bench.peers.open)
            while not self.bench.peers.open:
                self.bench.clock.advance(0.5)
        self.assertEqual([0, 1, 3, 7], times)
        self.bench.peers.last().ok()
        self.assertEqual(["c"], self.bench.peers.last().texts)
        self.bench.say(other, "y")
        self.bench.advanced(other)
        self.bench.peers.last().ok()
        self.bench.peers.last().ok()
        self.bench.clock.advance(REST_SECONDS)
        self.assertEqual((4, 3), (self.bench.cursor(self.room), self.bench.cursor(other)))
        self.assertEqual([], self.bench.peers.open)

    def test_busy(self) -> None:
        """``M_BAD_STATE`` means that the peer is still busy: the same again soon, and the destination does not fail."""
        self.bench.advanced(self.room)
        first = self.bench.peers.last()
        first.refuse(400, "M_BAD_STATE")
        self.bench.clock.advance(0.2)
        second = self.bench.peers.last()
        self.assertEqual((first.transaction_id, first.body), (second.transaction_id, second.body))
        self.assertIsNone(self.bench.stored_state().failing_since_ms)

    def test_busy_for_ever(self) -> None:
        """A peer that is always busy is a failing one; the transaction stays the same."""
        self.bench.peers.respond = lambda request: request.refuse(400, "M_BAD_STATE")
        self.bench.advanced(self.room)
        self.wait(60)
        self.assertIsNotNone(self.bench.stored_state().failing_since_ms)
        self.assertLess(len(self.bench.peers.requests), 70)
        self.assertEqual(1, len({request.transaction_id for request in self.bench.peers.requests}))

    def test_one_down_others_up(self) -> None:
        """A destination in back-off does not hold up another one."""
        room = self.bench.room("two", destinations=[PEER, OTHER])
        down, up = Request.unreachable, Request.ok
        self.bench.peers.respond = lambda request: (down if request.destination == PEER else up)(request)
        self.bench.advanced(room, destinations=[PEER, OTHER])
        for number in range(5):
            self.bench.say(room, str(number))
            self.bench.advanced(room, destinations=[PEER, OTHER])
        self.assertEqual(6, self.bench.cursor(room, OTHER))

    def test_outage(self) -> None:
        """After a long outage a destination gets everything in order, and every event once after the first answer."""
        self.bench.peers.respond = lambda request: request.unreachable()
        self.bench.advanced(self.room)
        for number in range(300):
            self.bench.say(self.room, str(number))
            self.bench.advanced(self.room)
            self.bench.clock.advance(60)
        tries = len(self.bench.peers.requests)
        self.assertLess(tries, 30)
        self.bench.peers.respond = lambda request: request.ok()
        self.bench.clock.advance(3600)
        texts = [text for request in self.bench.peers.requests[tries:] for text in request.texts]
        self.assertEqual(self.bench.texts(self.room), texts)

    def test_a_large_transaction_is_not_kept(self) -> None:
        """While a destination is down for long a large body is not kept in memory; its content comes all the same.

        That shows in the transaction ID, which stays for as long as the body does.
        """
        self.bench.say(self.room, *("x" * 30_000 for _ in range(5)))
        self.bench.peers.respond = lambda request: request.unreachable()
        self.bench.advanced(self.room)
        for _ in range(10):
            self.bench.clock.advance(300)
        ids = [request.transaction_id for request in self.bench.peers.requests]
        self.assertEqual(1, len(set(ids[:6])))
        self.assertGreater(len(set(ids)), 2)
        self.bench.peers.respond = lambda request: request.ok()
        self.bench.clock.advance(3600)
        self.assertEqual(7, self.bench.cursor(self.room))

    def test_a_small_transaction_is_kept(self) -> None:
        """However long the destination is down, a small transaction stays the same."""
        self.bench.peers.respond = lambda request: request.unreachable()
        self.bench.advanced(self.room)
        for _ in range(10):
            self.bench.clock.advance(300)
        self.assertEqual(1, len({request.transaction_id for request in self.bench.peers.requests}))


class LifeTests(SynchronousTestCase):
    """Back-off that ends early, and back-off over a restart."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.policy = BackoffPolicy(jitter=0)
        self.bench.live()
        self.room = self.bench.room("one")
        self.bench.peers.respond = lambda request: request.unreachable()
        self.bench.advanced(self.room)
        for _ in range(10):
            self.bench.clock.advance(100)
        self.tries = len(self.bench.peers.requests)
        self.bench.peers.respond = None

    def test_heard_from(self) -> None:
        """A sign of life ends the back-off at once."""
        self.bench.clock.advance(2)
        self.bench.delivery.heard_from(PEER)
        self.bench.clock.advance(0)
        self.bench.peers.last().ok()
        self.assertEqual(1, self.bench.cursor(self.room))

    def test_heard_from_often(self) -> None:
        """However often a peer that takes nothing shows life, it is tried no more than once in the shortest pause."""
        self.bench.peers.respond = lambda request: request.unreachable()
        for _ in range(100):
            self.bench.delivery.heard_from(PEER)
            self.bench.clock.advance(0.1)
        self.assertLessEqual(len(self.bench.peers.requests) - self.tries, 11)

    def test_heard_from_strangers(self) -> None:
        """A sign of life of a server that is owed nothing is nothing."""
        self.bench.delivery.heard_from("stranger.example")
        self.assertEqual([], self.bench.peers.open)

    def restart(self) -> None:
        """A new life on the same database."""
        self.bench.live()
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.start()))
        self.bench.clock.advance(1)

    def test_restart(self) -> None:
        """A restart does not shorten the back-off."""
        state = self.bench.stored_state()
        self.restart()
        self.assertEqual([], self.bench.peers.open)
        left = (state.retry_at_ms or 0) / 1000 - self.bench.clock.seconds()
        self.assertGreater(left, 10)
        self.bench.clock.advance(left - 1)
        self.assertEqual([], self.bench.peers.open)
        self.bench.clock.advance(1)
        self.bench.peers.last().unreachable()
        self.assertEqual(state.interval_ms * 2, self.bench.stored_state().interval_ms)
        self.assertEqual(state.failing_since_ms, self.bench.stored_state().failing_since_ms)

    def test_restart_and_heard_from(self) -> None:
        """After a restart too, a sign of life ends the back-off."""
        self.restart()
        self.bench.delivery.heard_from(PEER)
        self.bench.clock.advance(1)
        self.assertEqual(1, len(self.bench.peers.open))

    def test_heard_from_before_the_first_look(self) -> None:
        """A sign of life that comes while the server still starts counts as well."""
        self.bench.live()
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.start()))
        self.bench.delivery.heard_from(PEER)
        self.bench.clock.advance(1)
        self.assertEqual(1, len(self.bench.peers.open))

    def test_stop_in_back_off(self) -> None:
        """A server whose peers are all down stops at once, and leaves nothing running."""
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.stop()))
        self.assertEqual([], self.bench.clock.getDelayedCalls())


class RefusingTests(SynchronousTestCase):
    """A peer that refuses whole transactions for what is in them."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.policy = BackoffPolicy(jitter=0)
        self.bench.live()
        self.cured = False
        self.taken: list[str] = []
        self.bench.peers.respond = self.respond

    def respond(self, request: Request) -> None:
        """Refuse whatever has poison in it."""
        poisoned = any("poison" in text for text in request.texts) or any(
            edu["content"]["number"] == 13 for edu in request.edus
        )
        if poisoned and not self.cured:
            request.refuse(400, "M_BAD_JSON")
        else:
            self.taken.extend(request.texts)
            request.answer.callback(OK)

    def pass_time(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            self.bench.clock.advance(1)

    def test_the_other_rooms_go_on(self) -> None:
        """An event that the peer refuses holds up its own room only; when the peer takes it, nothing is missing."""
        sick, sound = self.bench.room("sick"), self.bench.room("sound")
        self.bench.say(sick, *map(str, range(30)), "poison", "after")
        self.bench.say(sound, *(f"s{number}" for number in range(30)))
        self.bench.advanced(sick, sound)
        self.pass_time(120)
        self.assertEqual(self.bench.texts(sound), [text for text in self.taken if text.startswith("s")])
        self.assertEqual([str(number) for number in range(30)], [text for text in self.taken if text[0] != "s"])
        for number in range(3):
            self.bench.say(sound, f"s later {number}")
            self.bench.advanced(sound)
            self.assertEqual(f"s later {number}", self.taken[-1])
        self.cured = True
        self.pass_time(3600)
        self.assertEqual(self.bench.texts(sick), [text for text in self.taken if text[0] != "s"])
        self.assertEqual(33, self.bench.cursor(sick))

    def test_refusing_everything(self) -> None:
        """A peer that refuses everything is asked less and less often, and loses nothing."""
        rooms = [self.bench.room(f"r{number}") for number in range(5)]
        for room in rooms:
            self.bench.say(room, f"poison in {room}")
        self.bench.advanced(*rooms)
        self.pass_time(4 * 3600)
        self.assertLess(len(self.bench.peers.requests), 30)
        self.cured = True
        self.pass_time(2 * 3600)
        self.assertEqual(5, len(self.taken))

    def test_edus_are_suspected_first(self) -> None:
        """An EDU that the peer refuses does not hold up the rooms."""
        room = self.bench.room("one")
        self.bench.say(room, "hello")
        self.bench.edu(13)
        self.bench.advanced(room)
        self.pass_time(2)
        self.assertEqual(["hello"], self.taken)
        self.assertEqual([13], self.bench.stored_edus())
        self.cured = True
        self.pass_time(10)
        self.assertEqual([], self.bench.stored_edus())
