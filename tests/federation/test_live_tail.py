"""What is committed while a destination is caught up goes out without being read from disk again."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.room_versions import PathForm
from lmatrix.federation.live_tail import MAX_TAIL_BYTES, MAX_TAIL_EVENTS, LiveTail
from lmatrix.federation.outgoing import Kind, Outgoing, Reached
from lmatrix.federation.settling import REST_SECONDS
from lmatrix.rooms.interfaces import LogEntry, LogGrowth
from tests.events.builders import HUB, V2
from tests.federation.delivery_bench import OTHER, PEER, Bench, Request


def accept(request: Request) -> None:
    """A peer that takes everything at once."""
    request.ok()


class DeliveryTests(SynchronousTestCase):
    """Through the delivery: what is sent, and what is read for it."""

    def setUp(self) -> None:
        self.bench = Bench(commit_seconds=0.01)
        self.room = self.bench.room("one")

    def grown_while_sending(self, *texts: str) -> Request:
        """Send something that was read, and let the room grow meanwhile, one commit for each text."""
        self.bench.say(self.room, "first")
        self.bench.advanced(self.room)
        sending = self.bench.peers.last()
        for text in texts:
            self.bench.grown(self.room, text)
        return sending

    def test_no_read(self) -> None:
        """What is committed during a request is the next one, and the next, without a read."""
        sending = self.grown_while_sending("a", "b")
        before = self.bench.reads
        sending.ok()
        second = self.bench.peers.last()
        self.assertEqual(["a", "b"], second.texts)
        self.bench.grown(self.room, "c")
        second.ok()
        third = self.bench.peers.last()
        self.assertEqual(["c"], third.texts)
        third.ok()
        self.assertEqual(before, self.bench.reads)
        self.bench.clock.pump([REST_SECONDS] * 3)
        self.assertEqual(5, self.bench.cursor(self.room))

    def test_fifty(self) -> None:
        """More than a transaction may have is several, in order."""
        texts = [str(number) for number in range(120)]
        sending = self.grown_while_sending(*texts)
        self.bench.peers.respond = accept
        sending.ok()
        sizes = [len(request.texts) for request in self.bench.peers.requests]
        self.assertEqual([1, 50, 50, 20], sizes)
        self.assertEqual(["first", *texts], [text for request in self.bench.peers.requests for text in request.texts])

    def test_after_a_failure(self) -> None:
        """What was in a transaction that failed, and what came meanwhile, arrives once the destination is back."""
        self.grown_while_sending("a").ok()
        self.bench.grown(self.room, "b")
        self.bench.peers.last().unreachable()
        self.bench.grown(self.room, "c")
        self.bench.peers.respond = accept
        self.bench.clock.pump([1.0] * 20)
        self.assertEqual([["a"], ["b", "c"]], [request.texts for request in self.bench.peers.requests[2:]])

    def test_to_be_sent_again(self) -> None:
        """What the peer cannot take yet is sent again, before what came after it."""
        self.grown_while_sending("a", "b").ok()
        self.bench.grown(self.room, "c")
        self.bench.peers.last().later(*self.bench.ids(self.room, "b"))
        self.bench.peers.respond = accept
        self.bench.clock.pump([1.0] * 20)
        texts = [text for request in self.bench.peers.requests[2:] for text in request.texts]
        self.assertEqual(["b", "c"], texts)

    def test_other_things_owed(self) -> None:
        """What else comes to be owed goes out with the next transaction."""
        sending = self.grown_while_sending("a")
        self.bench.edu(7)
        self.bench.delivery.edus_pending(PEER)
        sending.ok()
        request = self.bench.peers.last()
        self.assertEqual((["a"], [7]), (request.texts, [edu["content"]["number"] for edu in request.edus]))

    def test_lpdus_are_not_forgotten(self) -> None:
        """An LPDU whose echo does not come is sent again, however much a room of ours grows meanwhile."""
        lpdu = self.bench.lpdu("mine")
        self.bench.peers.respond = accept
        self.bench.delivery.lpdus_pending(PEER)
        for number in range(20):
            self.bench.clock.advance(10)
            self.bench.grown(self.room, str(number))
        sent = [pdu for request in self.bench.peers.requests for pdu in request.pdus if pdu == lpdu.fields]
        self.assertGreater(len(sent), 1)

    def test_two_path_forms(self) -> None:
        """Rooms whose events go to different paths do not share a transaction."""
        old = self.bench.room("old", V2)
        sending = self.grown_while_sending("a")
        self.bench.advanced(old)
        self.bench.peers.respond = accept
        sending.ok()
        self.bench.clock.pump([REST_SECONDS] * 3)
        self.bench.peers.respond = None
        self.bench.grown(self.room, "b")
        blocking = self.bench.peers.last()
        self.bench.grown(self.room, "c")
        self.bench.grown(old, "d")
        self.bench.grown(self.room, "e")
        self.bench.peers.respond = accept
        blocking.ok()
        sent = [(request.form, request.texts) for request in self.bench.peers.requests[-3:]]
        self.assertEqual(
            [(PathForm.STABLE, ["c"]), (PathForm.UNSTABLE, ["d"]), (PathForm.STABLE, ["e"])],
            sent,
        )

    def test_a_slow_destination_holds_up_no_other(self) -> None:
        """One destination's tail is not another's."""
        room = self.bench.room("two", destinations=[PEER, OTHER])
        self.bench.advanced(room, destinations=[PEER, OTHER])
        slow, other = self.bench.peers.open
        self.bench.grown(room, "a", destinations=[PEER, OTHER])
        other.ok()
        [again] = [request for request in self.bench.peers.open if request is not slow]
        self.assertEqual((OTHER, ["a"]), (again.destination, again.texts))


class TailTests(SynchronousTestCase):
    """The tail by itself."""

    def setUp(self) -> None:
        self.tail = LiveTail()
        self.tail.follow()

    def grow(self, first: int, last: int, room_id: str = f"!one:{HUB}", size: int = 2) -> None:
        entries = [LogEntry(position, f"${position}", b"1" * size) for position in range(first, last + 1)]
        self.tail.grow(LogGrowth(room_id, PathForm.STABLE, entries))

    def read(self, position: int) -> Outgoing:
        """What a read found, up to a position."""
        return Outgoing(Kind.STABLE, b"{}", {f"!one:{HUB}": Reached(position, 1)}, {}, (), ())

    def positions(self) -> list[int]:
        return [position for events in self.tail.take(1000).sent.values() for _, position in events]

    def test_what_was_read_is_not_taken_again(self) -> None:
        """Commits that a read has seen, and that are told of during it or after it, are not sent twice."""
        self.grow(3, 4)
        self.tail.has_been_read(self.read(5))
        self.grow(6, 7)
        self.assertEqual([6, 7], self.positions())

    def test_told_late(self) -> None:
        """A commit that a read has seen, told of after it: the disk is asked again."""
        self.tail.has_been_read(self.read(5))
        self.grow(5, 5)
        self.assertFalse(self.tail.level)

    def test_lost_while_reading(self) -> None:
        """What happens during a read that the tail cannot tell the meaning of makes its result no base."""
        self.tail.lose()
        self.tail.has_been_read(None)
        self.grow(1, 1)
        self.assertEqual((False, 0), (self.tail.level, len(self.tail)))

    def test_a_gap(self) -> None:
        """When something is missing, nothing is sent from memory."""
        self.tail.has_been_read(None)
        self.grow(3, 4)
        self.grow(6, 6)
        self.assertFalse(self.tail.level)

    def test_bounds(self) -> None:
        """Too many events, or too many bytes, and there is no tail any more; what was taken does not count."""
        for size, count in ((2, MAX_TAIL_EVENTS), (MAX_TAIL_BYTES // 4, 4)):
            self.tail.follow()
            self.tail.has_been_read(None)
            self.grow(1, count, size=size)
            self.assertEqual(count, len(self.positions()))
            self.grow(count + 1, 2 * count, size=size)
            self.assertTrue(self.tail.level)
            self.grow(2 * count + 1, 2 * count + 1, size=size)
            self.assertEqual((False, 0), (self.tail.level, len(self.tail)))
