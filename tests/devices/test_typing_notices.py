"""Who is typing: time-outs, bounds, what other servers are told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.devices.edus import TypingNotice
from lmatrix.devices.typing_notices import TypingNotices
from lmatrix.rooms.interfaces import JsonObject
from tests.devices.bench import Wakes

ROOM = "!room:hub.example"
ALICE = "@alice:hub.example"
BOB = "@bob:north.example"


class Servers:
    """Two other servers in every room; notes what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    async def destinations(self, room_id: str) -> list[str]:
        return ["north.example", "south.example"]

    def edus_pending(self, destination: str) -> None:
        raise AssertionError("typing has no outbox")

    def offer_edu(self, destination: str, subject: str, edu: JsonObject) -> None:
        assert edu["type"] == "m.typing" and edu["content"]["room_id"] == ROOM
        assert edu["sender"] == edu["content"]["user_id"]
        self.told.append((destination, edu["content"]["typing"]))


class TypingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.servers, self.wakes = Servers(), Wakes()
        self.typing = self.begin()

    def begin(self) -> TypingNotices:
        typing = TypingNotices(self.servers, self.servers, self.wakes, self.clock)
        self.addCleanup(typing.stop)
        return typing

    def users(self, room_id: str = ROOM) -> tuple[str, ...]:
        return self.typing.snapshot().rooms.get(room_id, (0, ()))[1]

    def told(self) -> list[bool]:
        """What one of the other servers was told since the last time."""
        told = [typing for destination, typing in self.servers.told if destination == "north.example"]
        self.servers.told.clear()
        return told

    def test_begin_and_end(self) -> None:
        """Other servers and local clients hear when somebody begins and ends, and not of what they know."""
        self.typing.set_local(ROOM, ALICE, typing=True)
        self.assertEqual((self.users(), self.told()), ((ALICE,), [True]))
        self.typing.set_local(ROOM, ALICE, typing=True)
        self.assertEqual(self.told(), [])
        self.typing.set_local(ROOM, ALICE, typing=False)
        self.typing.set_local(ROOM, ALICE, typing=False)
        self.assertEqual((self.users(), self.told()), ((), [False]))
        self.assertEqual(self.wakes.stirred, [ROOM, ROOM])

    def test_timeouts(self) -> None:
        """Whoever does not say so again ends after its time-out, which is bounded."""
        self.typing.set_local(ROOM, ALICE, typing=True, timeout_ms=5_000)
        self.clock.advance(4)
        self.typing.set_local(ROOM, ALICE, typing=True, timeout_ms=5_000)
        self.clock.advance(4)
        self.assertEqual(self.users(), (ALICE,))
        self.clock.advance(1)
        self.assertEqual((self.users(), self.told()), ((), [True, False]))
        self.typing.set_local(ROOM, ALICE, typing=True, timeout_ms=10**9)
        self.clock.advance(45)
        self.assertEqual(self.users(), ())

    def test_told_again(self) -> None:
        """Other servers, who forget as well, are told now and then that somebody still types."""
        for _ in range(30):
            self.typing.set_local(ROOM, ALICE, typing=True)
            self.clock.advance(5)
        self.assertEqual(self.told(), [True] * 8)

    def test_others(self) -> None:
        """What another server says of its user is not passed on, and is believed for a minute."""
        self.typing.heard(TypingNotice(ROOM, BOB, True))
        self.clock.advance(50)
        self.typing.heard(TypingNotice(ROOM, BOB, True))
        self.clock.advance(50)
        self.assertEqual(self.users(), (BOB,))
        self.clock.advance(10)
        self.assertEqual(self.users(), ())
        self.typing.heard(TypingNotice(ROOM, BOB, False))
        self.typing.heard(TypingNotice(ROOM, BOB, True))
        self.typing.left(ROOM, BOB)
        self.typing.left(ROOM, BOB)
        self.assertEqual((self.users(), self.told()), ((), []))

    def test_serials(self) -> None:
        """Every change has a later serial, in later lives of the server too."""
        serials = []
        for _ in range(3):
            for typing in (True, False):
                self.typing.set_local(ROOM, ALICE, typing=typing)
                serials.append(self.typing.snapshot().serial)
            self.clock.advance(1)
            self.typing = self.begin()
            self.assertGreater(self.typing.snapshot().floor, serials[-1])
        self.assertEqual(serials, sorted(set(serials)))

    def test_bounds(self) -> None:
        """Neither a room nor all rooms together hold more than they may; what ended makes room again."""
        self.typing = TypingNotices(self.servers, self.servers, self.wakes, self.clock, max_in_room=10, max_overall=100)
        self.addCleanup(self.typing.stop)
        for number in range(15):
            self.typing.heard(TypingNotice(ROOM, f"@u{number}:north.example", True))
        self.assertEqual(len(self.users()), 10)
        self.clock.advance(60)
        for number in range(110):
            self.typing.heard(TypingNotice(f"!room{number}:hub.example", BOB, True))
        self.assertEqual(sum(len(users) for _, users in self.typing.snapshot().rooms.values()), 100)
        self.typing.set_local(ROOM, ALICE, typing=True)
        self.assertEqual(self.users(), ())
        self.clock.advance(60)
        self.typing.heard(TypingNotice(ROOM, BOB, True))
        self.assertEqual(self.users(), (BOB,))

    def test_quiet_rooms_are_forgotten(self) -> None:
        """Of a room where nobody types any more nothing is left after a while; serials of before then show that."""
        self.typing.set_local(ROOM, ALICE, typing=True)
        told = self.typing.snapshot().serial
        self.typing.set_local(ROOM, ALICE, typing=False)
        self.clock.advance(700)
        snapshot = self.typing.snapshot()
        self.assertEqual(snapshot.rooms, {})
        self.assertGreater(snapshot.floor, told)

    @given(
        st.lists(
            st.tuples(st.sampled_from(["on", "off", "heard", "ended", "left", "time"]), st.integers(0, 3)), max_size=40
        )
    )
    def test_whatever_happens(self, actions: list[tuple[str, int]]) -> None:
        """No alarm outlives its user's typing, and nobody types without one."""
        clock = Clock()
        typing = TypingNotices(self.servers, self.servers, Wakes(), clock)
        for what, number in actions:
            room_id, user_id = ROOM, f"@u{number}:x"
            if what in ("on", "off"):
                typing.set_local(room_id, user_id, typing=what == "on", timeout_ms=7_000)
            elif what in ("heard", "ended"):
                typing.heard(TypingNotice(room_id, user_id, what == "heard"))
            elif what == "left":
                typing.left(room_id, user_id)
            else:
                clock.advance(number * 10)
            users = typing.snapshot().rooms.get(ROOM, (0, ()))[1]
            self.assertEqual(len(users), len(clock.getDelayedCalls()))
        clock.advance(100)
        self.assertEqual(clock.getDelayedCalls(), [])
