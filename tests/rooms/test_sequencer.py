"""The sequencer: batches, commits, and what happens when a commit fails."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import EventRejected, Overloaded, StorageFailed
from lmatrix.events.room_versions import room_version
from lmatrix.events.state import StateMap
from lmatrix.metrics import Metrics
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.room import Room, RoomDraft
from lmatrix.rooms.sequencer import MAX_BATCH, MAX_QUEUED, Commit, Sequencer
from lmatrix.rooms.sequencing import LocalEvent, take_local
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.room_log import SqlRoomStore

ROOM = "!room:hub.example"
ALICE = "@alice:hub.example"
IDENTITY = ServerIdentity("hub.example", (SigningKey.generate("1", seed=b"s" * 32),))


class SequencerTests(SynchronousTestCase):
    """A sequencer whose commits take a second of a clock that the test holds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.database = InlineDatabase(clock=self.clock, commit_seconds=lambda: 1.0)
        self.store = SqlRoomStore()
        self.commits: list[Commit] = []
        self.metrics = Metrics()
        self.room = Room(ROOM, room_version("I.1"), "hub.example", StateMap(), 0, None, 1)
        self.sequencer = Sequencer(self.room, self.database, self.store, self.clock, self.metrics, self.commits.append)
        created = self.sequencer.submit(
            self.take(
                LocalEvent("m.room.create", ALICE, {"room_version": "I.1"}, 1, ""),
                LocalEvent("m.room.member", ALICE, {"membership": "join"}, 2, ALICE),
            ),
            ahead=lambda tx: self.store.insert_room(tx, ROOM, "I.1", 1),
        )
        self.clock.advance(1)
        self.successResultOf(created)
        self.commits.clear()

    def take(self, *events: LocalEvent) -> Any:
        return lambda draft: [take_local(draft, event, IDENTITY) for event in events]

    def message(self, number: int, sender: str = ALICE) -> Any:
        return self.take(LocalEvent("m.room.message", sender, {"body": str(number)}, number))

    def stored(self) -> list[tuple[int, str]]:
        events = self.database.read(lambda tx: self.store.events_between(tx, ROOM, 0, 10**6, 10**6))
        return [(event.position, event.event_id) for event in self.successResultOf(events)]

    def test_answers_come_after_the_commit(self) -> None:
        """Nobody hears of an event, and the room does not change, before it is on disk."""
        answer = self.sequencer.submit(self.message(1))
        self.assertNoResult(answer)
        self.assertEqual(2, self.room.head_position)
        self.assertEqual([], self.commits)
        self.clock.advance(1)
        [sequenced] = self.successResultOf(answer)
        self.assertEqual((3, sequenced.event_id), self.stored()[-1])
        self.assertEqual((3, sequenced.event_id), (self.room.head_position, self.room.head_event_id))
        self.assertEqual(1, len(self.commits))

    def test_what_waits_shares_a_commit(self) -> None:
        """While one batch is committed the queue grows, and all of it is the next batch, in order, as one chain."""
        answers = [self.sequencer.submit(self.message(number)) for number in range(20)]
        before = self.database.commits
        self.clock.pump([1, 1])
        self.assertEqual(2, self.database.commits - before)
        ids = [self.successResultOf(answer)[0].event_id for answer in answers]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])
        previous = self.stored()[1][1]
        for commit in self.commits:
            for appended in commit.draft.events:
                self.assertEqual((previous,), tuple(appended.pdu.prev_events))
                previous = appended.pdu.event_id

    def test_a_failed_commit_is_undone(self) -> None:
        """A commit that fails fails its callers, leaves the room as it was, and the next event follows the old head."""
        head = self.room.head_event_id
        self.database.fail_commits = 1
        failing = [self.sequencer.submit(self.message(1))]
        self.clock.advance(1)
        self.failureResultOf(failing[0], StorageFailed)
        self.assertEqual((2, head), (self.room.head_position, self.room.head_event_id))
        self.assertEqual([], self.commits)
        answer = self.sequencer.submit(self.message(2))
        self.clock.advance(1)
        [sequenced] = self.successResultOf(answer)
        assert sequenced.pdu is not None
        self.assertEqual((head,), tuple(sequenced.pdu.prev_events))
        self.assertEqual(3, len(self.stored()))

    def test_a_commit_that_took_place_all_the_same(self) -> None:
        """An error of the disk is no proof: what is there after it counts, for the room, its callers and listeners."""
        self.database.deny_commits = 1
        answer = self.sequencer.submit(self.message(1))
        self.clock.advance(1)
        [sequenced] = self.successResultOf(answer)
        self.assertEqual((3, sequenced.event_id), self.stored()[-1])
        self.assertEqual((3, sequenced.event_id), (self.room.head_position, self.room.head_event_id))
        self.assertEqual([[sequenced.event_id]], [[one.pdu.event_id for one in c.draft.events] for c in self.commits])

    def test_nothing_is_decided_in_doubt(self) -> None:
        """While it cannot be seen whether a commit took place, nothing follows; then the next event follows what is
        there, with or without somebody asking.
        """
        self.database.deny_commits = 1
        self.database.fail_reads = 3
        uncertain = self.sequencer.submit(self.message(1))
        self.clock.advance(1)
        self.failureResultOf(uncertain, StorageFailed)
        self.failureResultOf(self.sequencer.submit(self.message(2)), StorageFailed)
        self.assertEqual(2, self.room.head_position)
        self.clock.pump([1, 1])
        self.assertEqual(3, self.room.head_position)
        self.assertEqual(1, len(self.commits))
        answer = self.sequencer.submit(self.message(3))
        self.clock.advance(1)
        [sequenced] = self.successResultOf(answer)
        self.assertEqual([1, 2, 3, 4], [position for position, _ in self.stored()])
        assert sequenced.pdu is not None
        self.assertEqual((self.stored()[2][1],), tuple(sequenced.pdu.prev_events))

    def test_a_refused_ticket_fails_alone(self) -> None:
        """What the rules refuse takes no place in the order, and the others of its batch go on."""
        first = self.sequencer.submit(self.message(0))
        good = self.sequencer.submit(self.message(1))
        bad = self.sequencer.submit(self.message(2, "@mallory:hub.example"))
        also_good = self.sequencer.submit(self.message(3))
        self.clock.pump([1, 1])
        self.failureResultOf(bad, EventRejected)
        ids = [self.successResultOf(answer)[0].event_id for answer in (first, good, also_good)]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])

    def test_a_ticket_is_all_or_nothing(self) -> None:
        """A ticket that fails half-way leaves nothing of itself, and nothing of the others is lost."""
        first = self.sequencer.submit(self.message(0))
        half = self.sequencer.submit(
            self.take(
                LocalEvent("m.room.message", ALICE, {"body": "half"}, 7),
                LocalEvent("m.room.message", "@mallory:hub.example", {"body": "other half"}, 8),
            ),
            events=2,
        )
        after = self.sequencer.submit(self.message(1))
        self.clock.pump([1, 1])
        self.failureResultOf(half, EventRejected)
        ids = [self.successResultOf(answer)[0].event_id for answer in (first, after)]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])

    def test_a_decision_that_breaks_fails_alone(self) -> None:
        """A fault in one decision is logged, fails its own ticket, and harms no other."""

        def broken(draft: RoomDraft) -> None:
            take_local(draft, LocalEvent("m.room.message", ALICE, {"body": "lost"}, 9), IDENTITY)
            raise ZeroDivisionError

        first = self.sequencer.submit(self.message(0))
        breaking = self.sequencer.submit(broken)
        after = self.sequencer.submit(self.message(1))
        self.clock.pump([1, 1])
        self.failureResultOf(breaking, ZeroDivisionError)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        ids = [self.successResultOf(answer)[0].event_id for answer in (first, after)]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])

    def test_what_assumes_wrongly_is_decided_anew(self) -> None:
        """A batch in which one decision took something for granted that the disk contradicts is not written as it is:
        that decision learns of it, all are decided again, and all of the batch is one commit then.
        """
        premise = HonestPremise({"is": "there"})
        decided: list[dict[str, str]] = []

        def decide(draft: RoomDraft) -> Any:
            decided.append(dict(premise.known))
            return self.message(1)(draft) if not premise.known else "known"

        first = self.sequencer.submit(self.message(0))
        assuming = self.sequencer.submit(decide, premise=premise)
        after = self.sequencer.submit(self.message(2))
        self.clock.pump([1] * 3)
        self.assertEqual([{}, {"is": "there"}], decided)
        self.assertEqual("known", self.successResultOf(assuming))
        ids = [self.successResultOf(answer)[0].event_id for answer in (first, after)]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])
        self.assertEqual(2, len(self.commits))

    def test_a_refusal_may_rest_on_a_wrong_premise(self) -> None:
        """What is refused because of an event that is then not appended is not refused."""
        premise = HonestPremise({"is": "there"})
        leave = self.take(LocalEvent("m.room.member", ALICE, {"membership": "leave"}, 9, ALICE))
        first = self.sequencer.submit(self.message(0))
        leaving = self.sequencer.submit(lambda draft: premise.known or leave(draft), premise=premise)
        after = self.sequencer.submit(self.message(1))
        self.clock.pump([1] * 3)
        self.assertEqual({"is": "there"}, self.successResultOf(leaving))
        ids = [self.successResultOf(answer)[0].event_id for answer in (first, after)]
        self.assertEqual(ids, [event_id for _, event_id in self.stored()[2:]])

    def test_nothing_is_refused_for_what_was_not_committed(self) -> None:
        """When a commit fails, so does what was refused in view of its events: nobody knows what it would have been."""
        first = self.sequencer.submit(self.message(0))
        leave = self.take(LocalEvent("m.room.member", ALICE, {"membership": "leave"}, 9, ALICE))
        leaving = self.sequencer.submit(leave)
        after = self.sequencer.submit(self.message(1))
        self.clock.advance(1)
        self.successResultOf(first)
        self.database.fail_commits = 1
        self.clock.advance(1)
        self.failureResultOf(leaving, StorageFailed)
        self.failureResultOf(after, StorageFailed)

    def test_what_is_written_beside_shares_the_fate_of_the_events(self) -> None:
        """The answer to a transaction is on disk when, and only when, its events are."""
        written: list[str] = []

        def beside(_: Any, outcome: Any) -> None:
            written.append(outcome[0].event_id)
            raise StorageFailed("disk full")

        answer = self.sequencer.submit(self.message(1), beside=beside)
        self.clock.advance(1)
        self.failureResultOf(answer, StorageFailed)
        self.assertEqual(1, len(written))
        self.assertEqual(2, len(self.stored()))

    def test_the_queue_is_bounded(self) -> None:
        """A room that is asked for more than it can take says so, and takes what it has promised."""
        first = self.sequencer.submit(self.message(0))
        full = self.sequencer.submit(self.message(1), events=MAX_QUEUED)
        refused = self.sequencer.submit(self.message(2))
        self.assertGreater(self.failureResultOf(refused, Overloaded).value.retry_after_ms, 0)
        self.clock.pump([1, 1])
        self.successResultOf(first)
        self.successResultOf(full)

    def test_sources_take_turns(self) -> None:
        """What one server has queued before does not hold another's events back: they come with the next commit."""
        first = self.sequencer.submit(self.message(0))
        order: list[str] = []

        def noting(source: str) -> Any:
            decide = self.message(len(order))

            def work(draft: RoomDraft) -> Any:
                order.append(source)
                return decide(draft)

            return work

        flood = [
            self.sequencer.submit(noting("noisy"), events=MAX_BATCH // 2, source="noisy.example") for _ in range(6)
        ]
        quiet = [self.sequencer.submit(noting("quiet"), source="quiet.example") for _ in range(2)]
        self.clock.advance(1)
        self.successResultOf(first)
        self.clock.advance(1)
        for answer in quiet:
            self.successResultOf(answer)
        self.assertEqual(order[:3], ["noisy", "quiet", "quiet"])
        self.clock.pump([1] * 6)
        for answer in flood:
            self.successResultOf(answer)
        self.assertEqual(order.count("noisy"), 6)

    def test_what_comes_from_one_source_stays_in_order(self) -> None:
        """Turns are taken between sources, never within one."""
        answers = [self.sequencer.submit(self.message(number), source=f"{number % 3}.example") for number in range(30)]
        self.clock.pump([1] * 4)
        ids = [self.successResultOf(answer)[0].event_id for answer in answers]
        stored = [event_id for _, event_id in self.stored()]
        for source in range(3):
            mine = [event_id for number, event_id in enumerate(ids) if number % 3 == source]
            self.assertEqual(sorted(mine, key=stored.index), mine)

    def test_one_source_does_not_fill_the_queue(self) -> None:
        """A server that sends without end is refused while there is room for others, and theirs is taken."""
        running = self.sequencer.submit(self.message(0))
        taken = [self.sequencer.submit(self.message(1), events=100, source="noisy.example") for _ in range(100)]
        refused = [answer for answer in taken if answer.called]
        for answer in refused:
            self.failureResultOf(answer, Overloaded)
        self.assertEqual(len(taken) - len(refused), MAX_QUEUED // 2 // 100)
        other = self.sequencer.submit(self.message(2), events=100, source="quiet.example")
        self.clock.pump([1] * 60)
        for answer in (running, other, *(answer for answer in taken if answer not in refused)):
            self.successResultOf(answer)
        self.assertEqual(self.metrics.registry.get_sample_value("lmatrix_shed_total", {"what": "sequencer"}), 50)
        self.assertEqual(self.metrics.registry.get_sample_value("lmatrix_queue_length", {"queue": "sequencer"}), 0)

    def test_idle_waits_for_all(self) -> None:
        """A shutdown can wait for what was promised."""
        answers = [self.sequencer.submit(self.message(number)) for number in range(3)]
        idle = self.sequencer.idle()
        self.assertNoResult(idle)
        self.clock.pump([1, 1])
        self.successResultOf(idle)
        for answer in answers:
            self.successResultOf(answer)

    def test_a_listener_that_fails_harms_nobody(self) -> None:
        """Who fails to hear of a commit does not undo it."""

        def broken(_: Commit) -> None:
            raise ZeroDivisionError

        sequencer = Sequencer(self.room, self.database, self.store, self.clock, Metrics(), broken)
        answer = sequencer.submit(self.message(1))
        self.clock.advance(1)
        self.successResultOf(answer)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(3, len(self.stored()))


class HonestPremise:
    """The premise that something is not there, which the disk contradicts as long as it is not known."""

    def __init__(self, there: dict[str, str]) -> None:
        self._there = there
        self.known: dict[str, str] = {}

    def contradiction(self, _: Any) -> dict[str, str] | None:
        return None if self.known else self._there

    def learn(self, contradiction: dict[str, str]) -> None:
        self.known.update(contradiction)
