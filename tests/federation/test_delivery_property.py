"""Whatever happens on the way, every destination gets every room's log: whole, in order."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.backoff import BackoffPolicy
from tests.events.builders import V2
from tests.federation.delivery_bench import OTHER, PEER, Bench, Request

STEPS = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 3), st.integers(1, 30), st.booleans()),
    st.tuples(st.just("say"), st.integers(0, 3), st.integers(1, 30), st.just(True)),
    st.tuples(st.just("answer"), st.sampled_from(["ok", "ok", "ok", "lost", "unreachable", "500", "400", "busy"])),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 10.0, 1000.0])),
    st.tuples(st.just("heard"), st.sampled_from([PEER, OTHER])),
    st.tuples(st.just("lpdu"), st.integers(0, 1)),
    st.tuples(st.just("disk")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("restart")),
)


class Receiver:
    """What a destination made of what it was sent: each room's log, event by event."""

    def __init__(self) -> None:
        self.logs: dict[str, list[str]] = {}
        self.lpdus: dict[str, list[str]] = {}

    def take(self, request: Request) -> dict[str, str]:
        """Take a transaction as a participant and hub does: what is known is ignored, a gap is an error."""
        accepted = {}
        for pdu in request.pdus:
            if "prev_events" not in pdu:
                seen = self.lpdus.setdefault(pdu["room_id"], [])
                if pdu["content"]["body"] not in seen:
                    seen.append(pdu["content"]["body"])
                accepted[pdu["content"]["body"]] = "$made"
                continue
            log = self.logs.setdefault(pdu["room_id"], [])
            text = pdu["content"].get("body", "create")
            if text in log:
                continue
            expected = "create" if not log else str(len(log))
            if text != expected:
                raise AssertionError(f"a gap: {text} after {log[-1:]}")
            log.append(text)
        return accepted


class World:
    """A bench with two destinations that are in all rooms."""

    def __init__(self, commit_seconds: float, read_seconds: float) -> None:
        self.bench = Bench(commit_seconds, read_seconds)
        self.bench.policy = BackoffPolicy(max_ms=60_000)
        self.bench.live()
        self.receivers = {PEER: Receiver(), OTHER: Receiver()}
        versions = (None, V2, None, V2)
        self.rooms = [
            self.bench.room(f"r{number}", destinations=[PEER, OTHER])
            if version is None
            else self.bench.room(f"r{number}", version, destinations=[PEER, OTHER])
            for number, version in enumerate(versions)
        ]
        self.lpdus: dict[str, str] = {}
        self.said: dict[str, list[str]] = {}

    def wake(self) -> None:
        """Everybody is woken for everything."""
        self.bench.advanced(*self.rooms, destinations=[PEER, OTHER])

    def accept(self, request: Request, *, lost: bool = False) -> None:
        """The destination takes a transaction; its answer may be lost on the way."""
        accepted = self.receivers[request.destination].take(request)
        if lost:
            request.unreachable()
        else:
            request.ok(accepted={self.lpdus[text]: made for text, made in accepted.items()})

    def step(self, name: str, *arguments: object) -> None:
        """One thing happens."""
        bench = self.bench
        if name == "say":
            room, count, told = arguments
            assert isinstance(room, int) and isinstance(count, int)
            room_id = self.rooms[room]
            begin = len(bench.heads[room_id][1])
            texts = [str(begin + number) for number in range(count)]
            if told:
                bench.grown(room_id, *texts, destinations=[PEER, OTHER])
            else:
                bench.say(room_id, *texts)
                self.wake()
        elif name == "lpdu":
            room = f"theirs{arguments[0]}"
            text = f"lpdu {len(self.lpdus)}"
            self.lpdus[text] = bench.lpdu(text, room).event_id
            self.said.setdefault(f"!{room}:{PEER}", []).append(text)
            bench.delivery.lpdus_pending(PEER)
        elif name == "wait":
            assert isinstance(arguments[0], float)
            bench.clock.advance(arguments[0])
        elif name == "heard":
            bench.delivery.heard_from(str(arguments[0]))
        elif name == "answer" and bench.peers.open:
            self.answer(bench.peers.open[0], str(arguments[0]))
        elif name == "crash":
            bench.live()
            self.wake()
        elif name == "restart":
            stopping = Deferred.fromCoroutine(bench.delivery.stop(1))
            bench.clock.advance(1)
            assert stopping.called
            bench.live()
            Deferred.fromCoroutine(bench.delivery.start())
        elif name == "disk":
            bench.database.fail_commits = 1
            for request in bench.peers.open[:1]:
                self.accept(request)
            bench.database.fail_commits = 0

    def answer(self, request: Request, how: str) -> None:
        """One of the open requests is answered."""
        if how in ("ok", "lost"):
            self.accept(request, lost=how == "lost")
        elif how == "unreachable":
            request.unreachable()
        elif how == "500":
            request.refuse(500)
        elif how == "400":
            request.refuse(400, "M_BAD_JSON")
        else:
            request.refuse(400, "M_BAD_STATE")

    def finish(self) -> None:
        """From now on all is well."""
        for _ in range(200):
            for request in self.bench.peers.open:
                self.accept(request)
            self.bench.clock.advance(60)


class PropertyTests(SynchronousTestCase):
    """Random failures, crashes and restarts."""

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=40), st.sampled_from([(0, 0), (0.01, 0), (5, 0), (0.01, 0.05), (0.05, 1)]))
    def test_everything_arrives_in_order(self, steps: list[tuple[object, ...]], seconds: tuple[float, float]) -> None:
        """Every destination ends with every room's whole log in order and every LPDU; at no time was there a gap.

        One transaction is in flight for each destination at any time.
        """
        world = World(*seconds)
        world.wake()
        for step in steps:
            world.step(*step)  # type: ignore[arg-type]
            open_to = [request.destination for request in world.bench.peers.open]
            self.assertEqual(len(open_to), len(set(open_to)))
        world.wake()
        world.finish()
        self.flushLoggedErrors()
        for receiver in world.receivers.values():
            for room_id in world.rooms:
                expected = ["create", *world.bench.texts(room_id)]
                self.assertEqual(expected, receiver.logs[room_id])
        self.assertEqual(world.said, world.receivers[PEER].lpdus)
        for room_id in world.rooms:
            head = len(world.bench.heads[room_id][1])
            self.assertEqual([head, head], [world.bench.cursor(room_id, name) for name in (PEER, OTHER)])
