"""Delivery of rooms' logs: order, bounds, cursors, fairness, path forms, start and stop."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import StorageFailed
from lmatrix.events.room_versions import PathForm
from lmatrix.federation.backoff import BackoffPolicy
from lmatrix.federation.settling import REST_SECONDS
from tests.events.builders import HUB, V2
from tests.federation.delivery_bench import OTHER, PEER, Bench, Request, is_canonical


def accept(request: Request) -> None:
    """A peer that takes everything at once."""
    request.ok()


class LiveTests(SynchronousTestCase):
    """A destination that answers."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.room = self.bench.room("one")

    def test_at_once(self) -> None:
        """What a waking finds is sent in the same turn, as canonical JSON of the stored events, to the stable path."""
        self.bench.say(self.room, "hello")
        self.bench.advanced(self.room)
        request = self.bench.peers.last()
        self.assertEqual((PEER, PathForm.STABLE), (request.destination, request.form))
        self.assertEqual([pdu.fields for pdu in self.bench.heads[self.room][1]], request.pdus)
        self.assertTrue(is_canonical(request.body))
        self.assertNotIn(b"edus", request.body)

    def test_cursor_moves_after_200(self) -> None:
        """The cursor stands still while the answer is awaited, and then is at the last event that was sent."""
        self.bench.say(self.room, "hello")
        self.bench.advanced(self.room)
        self.assertEqual(0, self.bench.cursor(self.room))
        self.bench.peers.last().ok()
        self.assertEqual(2, self.bench.cursor(self.room))

    def test_one_in_flight(self) -> None:
        """Wakings during a request are one waking after it, and what came meanwhile is one transaction."""
        self.bench.advanced(self.room)
        first = self.bench.peers.last()
        for text in ("a", "b", "c"):
            self.bench.say(self.room, text)
            self.bench.advanced(self.room)
        self.assertEqual([first], self.bench.peers.requests)
        first.ok()
        second = self.bench.peers.last()
        self.assertEqual(["a", "b", "c"], second.texts)
        self.assertNotEqual(first.transaction_id, second.transaction_id)
        second.ok()
        self.assertEqual(2, len(self.bench.peers.requests))

    def test_fifty(self) -> None:
        """A long backlog comes in order, fifty events at a time, each once."""
        texts = [str(number) for number in range(119)]
        self.bench.say(self.room, *texts)
        self.bench.peers.respond = accept
        self.bench.advanced(self.room)
        self.assertEqual([50, 50, 20], [len(request.pdus) for request in self.bench.peers.requests])
        self.assertEqual(texts, [text for request in self.bench.peers.requests for text in request.texts])

    def test_refused_events_are_not_sent_again(self) -> None:
        """An event that the peer lists in ``failed_pdus`` is logged, and the cursor moves over it."""
        self.bench.advanced(self.room)
        self.bench.peers.last().ok(failed={self.bench.heads[self.room][1][0].event_id: "I do not like it"})
        self.assertEqual(1, self.bench.cursor(self.room))
        self.assertEqual([], self.bench.peers.open)

    def test_kicked(self) -> None:
        """A server that was removed gets the log up to and including the event that removed it, and nothing after."""
        self.bench.say(self.room, "before")
        self.bench.leave(self.room, PEER)
        self.bench.say(self.room, "after")
        self.bench.peers.respond = accept
        self.bench.advanced(self.room)
        self.assertEqual(["before", "kick"], self.bench.peers.requests[0].texts)
        self.assertEqual(1, len(self.bench.peers.requests))

    def test_destinations_do_not_wait_for_one_another(self) -> None:
        """While one destination does not answer, another gets everything."""
        room = self.bench.room("two", destinations=[PEER, OTHER])
        self.bench.advanced(room, destinations=[PEER, OTHER])
        stuck, other = self.bench.peers.open
        other.ok()
        self.bench.say(room, "more")
        self.bench.advanced(room, destinations=[PEER, OTHER])
        self.assertEqual([OTHER], [request.destination for request in self.bench.peers.open if request is not stuck])

    def test_we_are_no_destination(self) -> None:
        """Nothing is ever sent to ourselves."""
        self.bench.advanced(self.room, destinations=[HUB])
        self.bench.delivery.lpdus_pending(HUB)
        self.assertEqual([], self.bench.peers.requests)

    def test_nothing_left(self) -> None:
        """A destination that is caught up costs nothing: no queue, no alarm, no metric."""
        self.bench.advanced(self.room)
        self.assertEqual(1, self.bench.lag())
        self.bench.peers.last().ok()
        self.assertEqual(frozenset(), self.bench.delivery.destinations)
        self.assertEqual([], self.bench.clock.getDelayedCalls())
        self.assertIsNone(self.bench.lag())

    def test_lag(self) -> None:
        """The metric counts all that is owed, not only what is in the transaction."""
        self.bench.say(self.room, *map(str, range(99)))
        self.bench.advanced(self.room)
        self.assertEqual(100, self.bench.lag())

    def test_one_event_per_transaction(self) -> None:
        """A peer that is configured so gets one event at a time."""
        self.bench.one_event.add(PEER)
        self.bench.say(self.room, "a", "b")
        self.bench.peers.respond = accept
        self.bench.advanced(self.room)
        self.assertEqual([[], ["a"], ["b"]], [request.texts for request in self.bench.peers.requests])


class ManyRoomsTests(SynchronousTestCase):
    """Several rooms to one destination."""

    def setUp(self) -> None:
        self.bench = Bench()

    def test_a_busy_room_starves_no_other(self) -> None:
        """A room with one new event is in the first transaction, however much another has; the rest is filled up."""
        busy, quiet = self.bench.room("busy"), self.bench.room("quiet")
        self.bench.say(busy, *map(str, range(200)))
        self.bench.advanced(busy, quiet)
        request = self.bench.peers.last()
        self.assertEqual(50, len(request.pdus))
        self.assertEqual(1, [pdu["room_id"] for pdu in request.pdus].count(quiet))

    def test_more_rooms_than_places(self) -> None:
        """With more rooms than places every room has had its turn before one has its second."""
        rooms = [self.bench.room(f"{number:03}") for number in range(75)]
        for room in rooms:
            self.bench.say(room, "a")
        self.bench.peers.respond = accept
        self.bench.advanced(*rooms)
        sent = [pdu["room_id"] for request in self.bench.peers.requests for pdu in request.pdus]
        self.assertEqual(set(rooms), set(sent[:75]))
        self.assertEqual(150, len(sent))

    def test_path_forms_do_not_mix(self) -> None:
        """Rooms of both versions: each transaction has events of one form of path, and both forms take turns."""
        stable, unstable = self.bench.room("stable"), self.bench.room("unstable", V2)
        self.bench.say(stable, *map(str, range(60)))
        self.bench.say(unstable, *map(str, range(60)))
        self.bench.peers.respond = accept
        self.bench.advanced(stable, unstable)
        for request in self.bench.peers.requests:
            expected = stable if request.form is PathForm.STABLE else unstable
            self.assertEqual({expected}, {pdu["room_id"] for pdu in request.pdus})
        forms = [request.form for request in self.bench.peers.requests]
        self.assertEqual([PathForm.STABLE, PathForm.UNSTABLE] * 2, forms)

    def test_unknown_version(self) -> None:
        """A room of a version that this server does not know (any more) does not keep the others back."""
        strange, known = self.bench.room("strange"), self.bench.room("known")
        event_id = self.bench.heads[strange][1][0].event_id
        self.bench._run(
            lambda tx: tx.execute(
                "UPDATE events SET canonical = CAST(replace(canonical, 'I.1', 'X.9') AS BLOB) WHERE event_id = ?",
                (event_id,),
            )
        )
        self.bench.advanced(strange, known)
        self.assertEqual({known}, {pdu["room_id"] for pdu in self.bench.peers.last().pdus})


class EduTests(SynchronousTestCase):
    """The EDU outbox."""

    def setUp(self) -> None:
        self.bench = Bench()

    def test_a_hundred(self) -> None:
        """EDUs go in order, a hundred at a time, and leave the outbox after the 200."""
        for number in range(120):
            self.bench.edu(number)
        self.bench.delivery.edus_pending(PEER)
        first = self.bench.peers.last()
        self.assertEqual(list(range(100)), [edu["content"]["number"] for edu in first.edus])
        self.assertEqual([], first.pdus)
        self.assertTrue(is_canonical(first.body))
        self.assertEqual(120, len(self.bench.stored_edus()))
        first.ok()
        self.assertEqual(list(range(100, 120)), self.bench.stored_edus())
        self.bench.peers.last().ok()
        self.bench.clock.advance(REST_SECONDS)
        self.assertEqual([], self.bench.stored_edus())

    def test_with_events(self) -> None:
        """EDUs travel with events; a failure leaves them in the outbox."""
        room = self.bench.room("one")
        self.bench.edu(1)
        self.bench.advanced(room)
        request = self.bench.peers.last()
        self.assertEqual((1, 1), (len(request.pdus), len(request.edus)))
        request.unreachable()
        self.assertEqual([1], self.bench.stored_edus())


class StoringTests(SynchronousTestCase):
    """What happens when the database has trouble."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.room = self.bench.room("one")

    def test_cursor_that_cannot_be_stored(self) -> None:
        """A 200 whose cursor cannot be stored is not forgotten: nothing is sent twice, and it is stored later."""
        self.bench.advanced(self.room)
        self.bench.database.fail_commits = 1
        self.bench.peers.last().ok()
        self.assertEqual(0, self.bench.cursor(self.room))
        self.assertEqual(1, len(self.flushLoggedErrors(StorageFailed)))
        self.bench.say(self.room, "next")
        self.bench.advanced(self.room)
        request = self.bench.peers.last()
        self.assertEqual([["next"], 1], [request.texts, len(request.pdus)])
        request.ok()
        self.bench.clock.advance(1)
        self.bench.clock.advance(REST_SECONDS)
        self.assertEqual(2, self.bench.cursor(self.room))
        self.assertEqual(frozenset(), self.bench.delivery.destinations)

    def test_a_busy_destination_rests(self) -> None:
        """While there is always something in flight, cursors are written a few times in a second, however fast the
        destination answers; when the server stops, at once.
        """
        bench = Bench(commit_seconds=0.01)
        room = bench.room("one")
        bench.say(room, "first")
        bench.advanced(room)
        writes: list[int] = []
        advance = bench.cursors.advance

        def counting(tx: Any, destination: str, room_id: str, position: int) -> None:
            writes.append(position)
            advance(tx, destination, room_id, position)

        bench.cursors.advance = counting  # type: ignore[method-assign]
        for number in range(30):
            bench.grown(room, str(number))
            bench.peers.last().ok()
            bench.clock.advance(0.02)
        self.assertLess(len(writes), 8)
        bench.peers.last().ok()
        bench.clock.pump([0.1] * 10)
        self.assertEqual(bench.peers.requests[-1].texts[-1:], ["29"])
        self.assertEqual(32, bench.cursor(room))
        bench.grown(room, "more")
        bench.grown(room, "last")
        bench.peers.last().ok()
        bench.clock.advance(0.02)
        bench.peers.last().ok()
        stopping = Deferred.fromCoroutine(bench.delivery.stop())
        bench.clock.advance(0.01)
        self.successResultOf(stopping)
        self.assertEqual(34, bench.cursor(room))

    def test_reading_fails(self) -> None:
        """When what is owed cannot be read, it is read again after a while."""
        read = self.bench.database.read
        self.bench.database.read = lambda work: failing()  # type: ignore[method-assign, assignment]
        self.bench.advanced(self.room)
        self.bench.database.read = read  # type: ignore[method-assign]
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.bench.clock.advance(1)
        self.assertEqual(1, len(self.bench.peers.last().pdus))


def failing() -> Deferred[None]:
    """A read from a broken disk."""
    answer: Deferred[None] = Deferred()
    answer.errback(OSError("disk"))
    return answer


class StartTests(SynchronousTestCase):
    """A server that comes back."""

    def setUp(self) -> None:
        self.bench = Bench()

    def test_wakes_all_who_are_owed(self) -> None:
        """After a restart every destination that is owed something gets it, though nobody wakes it."""
        rooms = [self.bench.room(name, destinations=[name]) for name in ("a.example", "b.example", "c.example")]
        self.bench.edu(1, "d.example")
        self.bench.lpdu("x", hub="e.example")
        self.bench.live()
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.start()))
        self.assertEqual([], self.bench.peers.requests)
        self.bench.clock.advance(1)
        destinations = sorted(request.destination for request in self.bench.peers.open)
        self.assertEqual(["a.example", "b.example", "c.example", "d.example", "e.example"], destinations)
        self.assertEqual(3, len(rooms))

    def test_new_transaction_ids(self) -> None:
        """Transaction IDs of two lives differ, even when the clock stands still."""
        room = self.bench.room("one")
        self.bench.advanced(room)
        before = self.bench.peers.last().transaction_id
        self.bench.live()
        self.bench.advanced(room)
        self.assertNotEqual(before, self.bench.peers.last().transaction_id)

    def test_spread(self) -> None:
        """Many destinations do not all begin in one moment."""
        self.bench.policy = BackoffPolicy()
        for number in range(100):
            self.bench.room(f"r{number}", destinations=[f"d{number}.example"])
        self.bench.live()
        self.successResultOf(Deferred.fromCoroutine(self.bench.delivery.start()))
        self.bench.clock.advance(0.5)
        self.assertTrue(0 < len(self.bench.peers.open) < 60)
        self.bench.clock.advance(2)
        self.assertEqual(100, len(self.bench.peers.open))


class StopTests(SynchronousTestCase):
    """A server that stops."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.room = self.bench.room("one")
        self.bench.advanced(self.room)
        self.request = self.bench.peers.last()

    def test_waits_for_the_answer(self) -> None:
        """Stopping waits for the request in flight and stores its cursor; nothing further is sent."""
        self.bench.say(self.room, "more")
        stopping = Deferred.fromCoroutine(self.bench.delivery.stop(10))
        self.assertNoResult(stopping)
        self.request.ok()
        self.successResultOf(stopping)
        self.assertEqual(1, self.bench.cursor(self.room))
        self.bench.advanced(self.room)
        self.bench.clock.advance(100)
        self.assertEqual([self.request], self.bench.peers.requests)
        self.assertEqual([], self.bench.clock.getDelayedCalls())

    def test_grace(self) -> None:
        """A request that outlasts the grace is cut off, and its destination is not held for failing."""
        stopping = Deferred.fromCoroutine(self.bench.delivery.stop(10))
        self.bench.clock.advance(10)
        self.successResultOf(stopping)
        self.assertEqual(0, self.bench.cursor(self.room))
        self.assertIsNone(self.bench.stored_state().failing_since_ms)
        self.assertEqual([], self.bench.clock.getDelayedCalls())
