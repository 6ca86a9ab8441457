"""Delivery of local users' LPDUs to the hubs of their rooms, and what becomes of the hubs' answers."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import parse_object
from lmatrix.events.room_versions import PathForm
from lmatrix.federation.backoff import BackoffPolicy
from tests.events.builders import V2
from tests.federation.delivery_bench import PEER, Bench, Request, is_canonical


class LpduTests(SynchronousTestCase):
    """One hub."""

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.policy = BackoffPolicy(jitter=0)
        self.bench.live()

    def wake(self) -> None:
        """There are new LPDUs."""
        self.bench.delivery.lpdus_pending(PEER)

    def test_at_once_and_in_order(self) -> None:
        """Pending LPDUs go to their hub as they were signed, in the order in which they were sent."""
        lpdus = [self.bench.lpdu(text) for text in "abc"]
        self.wake()
        request = self.bench.peers.last()
        self.assertEqual([parse_object(lpdu.canonical) for lpdu in lpdus], request.pdus)
        self.assertEqual(PathForm.STABLE, request.form)
        self.assertTrue(is_canonical(request.body))

    def test_outcomes(self) -> None:
        """What the hub says of each is handed to the rooms, which settle it; it is not sent again."""
        good, bad = self.bench.lpdu("good"), self.bench.lpdu("bad")
        self.wake()
        self.bench.peers.last().ok(failed={bad.event_id: "no power"}, accepted={good.event_id: "$made"})
        self.assertEqual([(PEER, {bad.event_id: "no power"}, {good.event_id: "$made"})], self.bench.outcomes.heard)
        self.assertEqual(frozenset(), self.bench.delivery.destinations)
        self.wake()
        self.assertEqual([], self.bench.peers.open)

    def test_answers_about_others(self) -> None:
        """What the hub says of events that it was not sent is not handed on; what is refused is not also accepted."""
        lpdu = self.bench.lpdu("a")
        self.wake()
        self.bench.peers.last().ok(
            failed={lpdu.event_id: "no", "$other": "no"}, accepted={lpdu.event_id: "$made", "$another": "$made"}
        )
        self.assertEqual([(PEER, {lpdu.event_id: "no"}, {})], self.bench.outcomes.heard)

    def test_at_most_fifty(self) -> None:
        """More than fifty LPDUs take several transactions, none twice."""
        lpdus = {lpdu.event_id: lpdu for lpdu in (self.bench.lpdu(str(number)) for number in range(120))}
        by_text = {lpdu.content["body"]: lpdu.event_id for lpdu in lpdus.values()}
        self.bench.peers.respond = lambda request: request.ok(
            accepted={by_text[text]: "$made" for text in request.texts}
        )
        self.wake()
        self.assertEqual([50, 50, 20], [len(request.pdus) for request in self.bench.peers.requests])
        self.assertEqual(list(map(str, range(120))), [text for one in self.bench.peers.requests for text in one.texts])

    def test_sent_while_waiting(self) -> None:
        """What comes during a request goes with the next one, without what is being settled."""
        first = self.bench.lpdu("a")
        self.wake()
        self.bench.lpdu("b")
        self.wake()
        self.bench.peers.last().ok(accepted={first.event_id: "$made"})
        self.assertEqual(["b"], self.bench.peers.last().texts)

    def test_silence(self) -> None:
        """A hub that says nothing of an LPDU gets it again after a minute, then two, and not in between."""
        lpdu = self.bench.lpdu("a")
        self.bench.peers.respond = lambda request: request.ok()
        self.wake()
        for _ in range(600):
            self.bench.clock.advance(1)
            self.wake()
        times = [request.at - self.bench.peers.requests[0].at for request in self.bench.peers.requests]
        self.assertEqual([0, 60, 180, 420], times)
        self.assertEqual(4, len({request.transaction_id for request in self.bench.peers.requests}))
        self.bench.settle(lpdu)
        self.bench.clock.advance(10_000)
        self.assertEqual(4, len(self.bench.peers.requests))
        self.assertEqual(frozenset(), self.bench.delivery.destinations)

    def test_echo(self) -> None:
        """An LPDU that is settled by its echo is never sent again, and the queue ends."""
        lpdu = self.bench.lpdu("a")
        self.bench.peers.respond = lambda request: request.ok()
        self.wake()
        self.bench.settle(lpdu)
        self.bench.clock.advance(100)
        self.assertEqual(1, len(self.bench.peers.requests))
        self.assertEqual(frozenset(), self.bench.delivery.destinations)

    def test_later_ones_do_not_wait_for_echoes(self) -> None:
        """While one LPDU waits for its echo, later ones go out."""
        self.bench.peers.respond = lambda request: request.ok()
        for text in "abc":
            self.bench.lpdu(text)
            self.wake()
        self.assertEqual([["a"], ["b"], ["c"]], [request.texts for request in self.bench.peers.requests])

    def test_rooms_that_fail(self) -> None:
        """An answer that the rooms could not take is not lost: the LPDU is sent again after a while."""
        lpdu = self.bench.lpdu("a")
        self.bench.peers.respond = lambda request: request.ok(accepted={lpdu.event_id: "$made"})
        self.bench.outcomes.fail_next = 1
        self.wake()
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.bench.clock.advance(60)
        self.assertEqual([(PEER, {}, {lpdu.event_id: "$made"})], self.bench.outcomes.heard)

    def test_restart(self) -> None:
        """After a crash before the answer the LPDU is sent again."""
        self.bench.lpdu("a")
        self.wake()
        self.bench.live()
        self.wake()
        self.assertEqual(["a"], self.bench.peers.last().texts)

    def test_v02_travels_alone(self) -> None:
        """Of rooms of v02 one LPDU goes in a transaction, in the unstable form, and no PDU with it."""
        room = self.bench.room("ours", V2)
        for text in "ab":
            self.bench.lpdu(text, version=V2)
        self.bench.peers.respond = lambda request: request.ok()
        self.bench.advanced(room)
        self.assertEqual({PathForm.UNSTABLE}, {request.form for request in self.bench.peers.requests})
        self.assertEqual([1, 1, 1], [len(request.pdus) for request in self.bench.peers.requests])
        self.assertEqual(["a", "b"], [text for request in self.bench.peers.requests for text in request.texts])

    def test_both_versions(self) -> None:
        """LPDUs of rooms of both versions keep their order in each room."""
        for number in range(3):
            self.bench.lpdu(f"new {number}", "new")
            self.bench.lpdu(f"old {number}", "old", V2)
        self.bench.peers.respond = lambda request: request.ok()
        self.wake()
        texts = [text for request in self.bench.peers.requests for text in request.texts]
        for kind in ("new", "old"):
            self.assertEqual([f"{kind} {number}" for number in range(3)], [text for text in texts if kind in text])
        for request in self.bench.peers.requests:
            self.assertEqual(1, len({text.split()[0] for text in request.texts}))

    def test_with_the_log(self) -> None:
        """A peer that is our hub in one room and our participant in another gets both; neither pushes the other out."""
        room = self.bench.room("ours")
        self.bench.say(room, *(f"log {number}" for number in range(200)))
        for number in range(200):
            self.bench.lpdu(f"lpdu {number}")
        self.wake()
        texts = self.bench.peers.last().texts
        self.assertEqual(25, sum(text.startswith("lpdu") for text in texts))
        self.assertEqual(50, len(self.bench.peers.last().pdus))

    def test_one_at_a_time_with_the_log(self) -> None:
        """Where one event goes in a transaction, logs and LPDUs take turns."""
        self.bench.one_event.add(PEER)
        room = self.bench.room("ours")
        self.bench.say(room, *(f"log {number}" for number in range(5)))
        for number in range(5):
            self.bench.lpdu(f"lpdu {number}")
        self.bench.peers.respond = lambda request: request.ok()
        self.wake()
        kinds = ["lpdu" if "lpdu" in str(request.texts) else "log" for request in self.bench.peers.requests]
        self.assertEqual(["lpdu", "log"] * 5 + ["log"], kinds)

    def test_a_room_whose_lpdus_are_refused(self) -> None:
        """An LPDU for which the hub refuses the transaction holds up the LPDUs of its room only."""
        self.bench.lpdu("poison", "sick")
        self.bench.lpdu("behind", "sick")
        self.bench.lpdu("fine", "sound")
        taken: list[str] = []

        def respond(request: Request) -> None:
            if "poison" in request.texts:
                request.refuse(400, "M_BAD_JSON")
            else:
                taken.extend(request.texts)
                request.ok()

        self.bench.peers.respond = respond
        self.wake()
        for _ in range(30):
            self.bench.clock.advance(1)
        self.assertEqual(["fine"], taken)

    def test_a_hub_that_moved(self) -> None:
        """LPDUs that were signed anew for another hub go there, and no more to the old one."""
        lpdu = self.bench.lpdu("a")
        self.bench.peers.respond = lambda request: request.unreachable()
        self.wake()
        self.bench.settle(lpdu)
        self.bench.lpdu("a", hub="new.example")
        self.bench.peers.respond = None
        self.bench.delivery.lpdus_pending("new.example")
        self.assertEqual("new.example", self.bench.peers.last().destination)
        self.bench.clock.advance(1000)
        self.assertEqual(1, len([one for one in self.bench.peers.requests if one.destination == PEER]))

    def test_what_is_left_of_a_transaction(self) -> None:
        """When an LPDU of a transaction that was not answered has gone elsewhere, the others go in another one."""
        gone = self.bench.lpdu("gone")
        self.bench.lpdu("here")
        self.bench.peers.respond = lambda request: request.unreachable()
        self.wake()
        self.bench.settle(gone)
        self.bench.peers.respond = lambda request: request.ok()
        self.bench.clock.advance(2)
        self.assertEqual([["gone", "here"], ["here"]], [request.texts for request in self.bench.peers.requests])
        self.assertEqual(2, len({request.transaction_id for request in self.bench.peers.requests}))

    def test_a_hub_that_does_not_know_it_yet(self) -> None:
        """A server that is not the hub yet gets an LPDU again soon, and what comes after it in the room not before; the
        longer it takes the rarer, and not rarer than twice a minute. Other rooms do not wait.
        """
        ids = {text: self.bench.lpdu(text, room).event_id for text, room in (("a", "moved"), ("b", "moved"))}
        is_hub: list[bool] = []
        taken: list[str] = []

        def respond(request: Request) -> None:
            if is_hub or request.texts == ["c"]:
                taken.extend(request.texts)
                request.ok(accepted={ids[text]: "$made" for text in request.texts})
            else:
                request.wrong_server(*(ids[text] for text in request.texts))

        self.bench.peers.respond = respond
        self.wake()
        for text, room in (("c", "other"), ("d", "moved")):
            ids[text] = self.bench.lpdu(text, room).event_id
            self.wake()
        self.assertEqual([["a", "b"], ["c"]], [request.texts for request in self.bench.peers.requests])
        for _ in range(1200):
            self.bench.clock.advance(0.1)
        times = [request.at - self.bench.peers.requests[0].at for request in self.bench.peers.requests[2:]]
        self.assertLess(times[0], 0.3)
        self.assertLessEqual(max(later - earlier for earlier, later in pairwise(times)), 37)
        self.assertLess(len(times), 20)
        is_hub.append(True)
        for _ in range(370):
            self.bench.clock.advance(0.1)
        self.assertEqual(["c", "a", "b", "d"], taken)
        self.assertEqual(frozenset(), self.bench.delivery.destinations)
