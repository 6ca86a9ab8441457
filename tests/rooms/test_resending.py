"""Pending LPDUs find the room's hub, however often it changes meanwhile, and each is in the room once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import parse_object
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import EventRejected, LMatrixError, SendFailed, ShuttingDown, StorageFailed, WrongServer
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import PendingLpdu
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.resending import RETRY_SECONDS, Resender
from lmatrix.rooms.sequencing import LocalEvent, Sequenced
from lmatrix.storage.accounts import SqlAccountStore
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.pending_lpdus import SqlPendingLpduStore
from tests.rooms.network import MemoryDelivery

US = "us.example"
ROOM = "!room:first.example"
COMMIT_SECONDS = 0.1


@attrs.define
class FakeRoom:
    """As much of a room as is asked for."""

    room_id: str = ROOM
    version: RoomVersion = attrs.field(factory=lambda: room_version("I.1"))
    hub_server: str = "first.example"
    held: bool = False

    @property
    def is_hub(self) -> bool:
        return self.hub_server == US


@attrs.define
class FakeLoaded:
    room: FakeRoom


class FakeRooms:
    """One room."""

    def __init__(self) -> None:
        self.room = FakeRoom()

    async def loaded(self, room_id: str) -> FakeLoaded | None:
        return FakeLoaded(self.room) if room_id == ROOM else None


class FakeHub:
    """Takes events, or raises what it is told to, once each."""

    def __init__(self, database: InlineDatabase) -> None:
        self.taken: list[str] = []
        self.raising: list[Callable[[], LMatrixError]] = []
        self._database = database

    async def take_local(self, loaded: Any, events: list[LocalEvent], beside: Any) -> list[Sequenced]:
        if self.raising:
            raise self.raising.pop(0)()
        sequenced = [Sequenced(f"${event.content['body']}", None, None) for event in events]
        await self._database.write(lambda tx: beside(tx, sequenced))
        self.taken += [event.content["body"] for event in events]
        return sequenced


class ResendingTests(SynchronousTestCase):
    """One server's outbox, with commits that take time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.database = InlineDatabase(clock=self.clock, commit_seconds=lambda: COMMIT_SECONDS)
        self.addCleanup(self.database.close)
        self.store = SqlPendingLpduStore()
        self.delivery = MemoryDelivery()
        self.identity = ServerIdentity(US, (SigningKey.generate("1", b"u" * 32),))
        self.rooms = FakeRooms()
        self.hub = FakeHub(self.database)
        self.outbox = Outbox(self.database, self.store, SqlAccountStore(), self.delivery, self.clock, US)
        self.resender = Resender(
            self.identity,
            self.rooms,  # type: ignore[arg-type]
            self.hub,  # type: ignore[arg-type]
            self.outbox,
            self.database,
            self.store,
            self.clock,
        )
        self.outbox.attach(self.resender.stored, self.takes_part)

    def lpdu(self, body: str) -> Lpdu:
        return build_lpdu(
            self.rooms.room.version,
            room_id=ROOM,
            type="m.room.message",
            sender=f"@me:{US}",
            content={"body": body},
            origin_server_ts=1,
            hub_server=self.rooms.room.hub_server,
            server_name=US,
            keys=self.identity.keys,
        )

    def send(self, body: str) -> Deferred[str]:
        return Deferred.fromCoroutine(self.outbox.send(self.lpdu(body), self.rooms.room.hub_server, None))

    async def takes_part(self, room_id: str) -> bool:
        return True

    def move(self, hub: str) -> None:
        """The room has another hub from now on, and the resender hears of it."""
        self.rooms.room.hub_server = hub
        Deferred.fromCoroutine(self.resender.hub_changed(ROOM)).addErrback(self.fail)

    def pending(self) -> list[PendingLpdu]:
        found: list[list[PendingLpdu]] = []
        self.database.read(lambda tx: self.store.for_room(tx, ROOM)).addCallback(found.append)
        return found[0]

    def pending_for(self) -> list[tuple[str, str]]:
        """Text and hub of what is pending, in order; each signed for the hub that it is pending for."""
        for one in self.pending():
            self.assertEqual(one.hub_server, parse_object(one.canonical)["hub_server"])
        return [(parse_object(one.canonical)["content"]["body"], one.hub_server) for one in self.pending()]

    def pass_time(self, seconds: float = 10.0) -> None:
        for _ in range(int(seconds / 0.05)):
            self.clock.advance(0.05)

    def test_signed_anew_in_order(self) -> None:
        """All that was pending goes to the new hub, in the order in which it was sent."""
        for body in "abc":
            self.send(body).addErrback(lambda _: None)
        self.pass_time(1)
        self.delivery.hubs.clear()
        self.move("second.example")
        self.pass_time(2)
        self.assertEqual([(body, "second.example") for body in "abc"], self.pending_for())
        self.assertEqual({"second.example"}, self.delivery.hubs)

    def test_two_changes_at_once(self) -> None:
        """A second change while the first is being seen to: each LPDU is pending once, for the last hub."""
        for body in "abc":
            self.send(body).addErrback(lambda _: None)
        self.pass_time(1)
        self.move("second.example")
        self.clock.advance(COMMIT_SECONDS / 2)
        self.move("third.example")
        self.pass_time(2)
        self.assertEqual([(body, "third.example") for body in "abc"], self.pending_for())
        self.move("first.example")
        self.move("second.example")
        self.pass_time(2)
        self.assertEqual([(body, "second.example") for body in "abc"], self.pending_for())

    def test_a_change_while_it_is_being_stored(self) -> None:
        """An LPDU that reaches the disk after the change was seen to is not left with the old hub."""
        sending = self.send("late")
        self.move("second.example")
        self.assertEqual([], self.pending())
        self.pass_time(1)
        self.assertEqual([("late", "second.example")], self.pending_for())
        [one] = self.pending()
        accepted = {one.lpdu_event_id: "$made"}
        Deferred.fromCoroutine(self.outbox.hub_answered("second.example", [one], {}, accepted, {})).addErrback(
            self.fail
        )
        self.pass_time(1)
        self.assertEqual("$made", self.successResultOf(sending))

    def test_what_has_gone_meanwhile(self) -> None:
        """What was settled while its new form was waiting for the disk does not come back."""
        sending = self.send("echoed")
        self.pass_time(1)
        [one] = self.pending()
        self.database.write(lambda tx: self.outbox.settle_one(tx, one.lpdu_event_id, "$made"))
        self.move("second.example")
        self.pass_time(1)
        self.assertEqual([], self.pending())
        self.outbox.resolved(one.lpdu_event_id, "$made")
        self.assertEqual("$made", self.successResultOf(sending))

    def test_we_are_the_hub(self) -> None:
        """Our own hub takes them; one that it refuses is refused to whoever sent it."""
        good, bad, also_good = (self.send(body) for body in "abc")
        self.pass_time(1)
        taking = self.hub.take_local

        async def take(loaded: Any, events: list[LocalEvent], beside: Any) -> list[Sequenced]:
            if events[0].content["body"] == "b":
                raise _refusal()
            return await taking(loaded, events, beside)

        self.hub.take_local = take  # type: ignore[method-assign]
        self.move(US)
        self.pass_time(2)
        self.assertEqual(["a", "c"], self.hub.taken)
        self.assertEqual(("$a", "$c"), (self.successResultOf(good), self.successResultOf(also_good)))
        self.assertTrue(self.failureResultOf(bad, SendFailed).value.refused)
        self.assertEqual([], self.pending())

    def test_no_fault_of_the_event(self) -> None:
        """When the disk fails it stays pending, and is taken later; nobody is told that it was refused."""
        sending = self.send("a")
        self.pass_time(1)
        self.hub.raising = [lambda: StorageFailed("disk full")]
        self.move(US)
        self.pass_time(RETRY_SECONDS / 2)
        self.assertEqual(1, len(self.pending()))
        self.assertNoResult(sending)
        self.pass_time(RETRY_SECONDS)
        self.assertEqual("$a", self.successResultOf(sending))

    def test_a_disk_that_fails(self) -> None:
        """The same when the new form could not be stored."""
        self.send("a").addErrback(lambda _: None)
        self.pass_time(1)
        self.database.fail_commits = 1
        self.move("second.example")
        self.pass_time(RETRY_SECONDS / 2)
        self.assertEqual([("a", "first.example")], self.pending_for())
        self.pass_time(RETRY_SECONDS * 2)
        self.assertEqual([("a", "second.example")], self.pending_for())

    def test_the_room_moves_on_before_we_took_it(self) -> None:
        """We were the hub, and are not any more when its turn comes: it goes to the one after us."""
        sending = self.send("a")
        self.pass_time(1)

        def moved_on() -> LMatrixError:
            self.rooms.room.hub_server = "third.example"
            return WrongServer(ROOM, "third.example")

        self.hub.raising = [moved_on]
        self.move(US)
        self.pass_time(2)
        self.assertEqual([("a", "third.example")], self.pending_for())
        self.assertNoResult(sending)

    def test_shutting_down(self) -> None:
        """A server that stops leaves them pending; the next start sees to them."""
        self.send("a").addErrback(lambda _: None)
        self.pass_time(1)
        self.hub.raising = [lambda: ShuttingDown("the database is closed")]
        self.move(US)
        self.pass_time(5)
        self.assertEqual(1, len(self.pending()))
        Deferred.fromCoroutine(self.resender.resume()).addErrback(self.fail)
        self.pass_time(1)
        self.assertEqual(["a"], self.hub.taken)


def _refusal() -> LMatrixError:
    return EventRejected("7", "no power")
