"""A server whose users are a DAG server's, among other servers, without a network.

Owns: :class:`MirrorServer`, the real rooms, stores and mirrors of one server beside a :class:`FakeDagServer`, and
:class:`MirrorTestCase`, in which it is ``us.example`` and there are two ordinary LM servers, each with a user.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import PeerUnreachable
from lmatrix.events.forms import Pdu
from lmatrix.replication.interfaces import SOURCE, Comparison
from lmatrix.replication.service import MirrorService
from lmatrix.rooms.floor import RoomsFloor
from lmatrix.storage.replication import SqlMirrorStore
from tests.replication.fake_dag import DeadEnd, FakeDagServer
from tests.rooms.network import Network, Server, done, result_of

US = "us.example"


class Fuse:
    """Counts steps (commits, and writes on the DAG side), and lets the process die at one of them.

    Attributes:
        steps: how many there were.
        at: the step at which everything ends; ``None``: never.
        after: whether that step still takes place.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.at: int | None = None
        self.after = False
        self.dead = DeadEnd()

    def step(self, do: Callable[[], Any]) -> Any:
        """One step."""
        if self.dead.reached:
            return self.dead.forever()
        self.steps += 1
        if self.steps == self.at:
            if self.after:
                done = do()
                if isinstance(done, Deferred):
                    done.addErrback(lambda _: None)  # nobody hears of it
            return self.dead.forever()
        return do()

    def look(self, do: Callable[[], Any]) -> Any:
        """Something that changes nothing."""
        return self.dead.forever() if self.dead.reached else do()


class FusedDatabase:
    """A database of a process that may die."""

    def __init__(self, database: Any, fuse: Fuse) -> None:
        self._database = database
        self._fuse = fuse

    def write(self, work: Any, *, patient: bool = False) -> Any:
        return self._fuse.step(lambda: self._database.write(work, patient=patient))

    def read(self, work: Any) -> Any:
        return self._fuse.look(lambda: self._database.read(work))


class FusedDag:
    """A DAG server as a process sees it that may die."""

    WRITES = frozenset({"create_room", "set_membership", "send", "let_in"})

    def __init__(self, dag: FakeDagServer, fuse: Fuse) -> None:
        self._dag = dag
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._dag, name)
        if not callable(value):
            return value
        fused = self._fuse.step if name in self.WRITES else self._fuse.look

        async def call(*args: Any, **more: Any) -> Any:
            return await fused(lambda: Deferred.fromCoroutine(value(*args, **more)))

        return call


class MirrorServer(Server):
    """One server with mirrors."""

    def __init__(self, network: Network, name: str, dag: FakeDagServer) -> None:
        self.dag = dag
        self.mirror_store = SqlMirrorStore()
        self.fuse = Fuse()
        super().__init__(network, name)

    def build(self) -> RoomsFloor:
        """The rooms floor and the mirrors, on this server's database."""
        fuse = self.fuse
        database: Any = FusedDatabase(self.database, fuse)
        dag: Any = FusedDag(self.dag, fuse)
        self.mirrors = MirrorService(
            dag,
            identity=self.identity,
            database=database,
            store=self.mirror_store,
            room_store=self.rooms,
            clock=self.network.clock,
            rng=Random(f"{self.name}{fuse.steps}{id(self) % 7}"),
            metrics=self.metrics,
        )
        self.audience = self.mirrors.audience  # type: ignore[assignment]
        self.edus, self.directory = self.mirrors.edus, self.mirrors
        whole, self.database = self.database, database
        floor = super().build()
        self.database = whole
        self.mirrors.attach(floor, self.delivery)
        self.dag.advanced = self.mirrors.stream_advanced
        return floor

    def receive(self, origin: str, transaction_id: str, pdus: Any, **more: Any) -> Any:
        """A transaction, unless this server is dead, or dies of it."""
        return self._unless_dead(lambda: super(MirrorServer, self).receive(origin, transaction_id, pdus, **more))

    def deliver_once(self) -> bool:
        """Deliver, likewise."""
        try:
            return bool(self._unless_dead(super().deliver_once))
        except PeerUnreachable:
            return False

    def _unless_dead(self, do: Callable[[], Any]) -> Any:
        try:
            if not self.fuse.dead.reached:
                return do()
        except AssertionError:
            if not self.fuse.dead.reached:
                raise
        raise PeerUnreachable(self.name, "connection refused")

    def start(self) -> None:
        """The process begins."""
        done(self.mirrors.start())

    def die_and_restart(self) -> None:
        """The process ends at once, and another begins."""
        if not self.fuse.dead.reached:
            self.fuse.dead.forever()
        self.dag.advanced = lambda: None
        self.fuse = Fuse()
        self.restart()
        # What was not delivered is owed from the database, as at a start.
        self.delivery.destinations.update(name for name in self.network.servers if name != self.name)
        self.delivery.hubs.update(result_of(self.database.read(self.pending.hubs)))
        self.start()


class MirrorTestCase(SynchronousTestCase):
    """``us.example`` with a DAG server and two people, and two LM servers with one each."""

    creators_rule = True
    version = "I.1"

    def setUp(self) -> None:
        self.network = Network()
        self.dag = FakeDagServer(US, creators_rule=self.creators_rule)
        self.us = MirrorServer(self.network, US, self.dag)
        self.network.servers[US] = self.us
        self.north = self.network.server("north.example")
        self.south = self.network.server("south.example")
        self.alice, self.dave = self.dag.user("alice"), self.dag.user("dave")
        self.bob, self.carol = self.north.user("bob"), self.south.user("carol")
        self.bobs_ghost = f"@lm.bob=3anorth.example:{US}"
        self.carols_ghost = f"@lm.carol=3asouth.example:{US}"
        self.us.start()

    def settle(self) -> None:
        """Let everything happen that follows by itself, within a few seconds."""
        for _ in range(20):
            before = (len(self.dag.stream), [server.database.commits for server in self.network.servers.values()])
            self.network.settle()
            for _ in range(10):
                self.network.clock.advance(0)
            self.network.clock.advance(1)
            self.network.settle()
            after = (len(self.dag.stream), [server.database.commits for server in self.network.servers.values()])
            if before == after:
                return
        raise AssertionError("it never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Time passes, in small steps."""
        for _ in range(int(seconds)):
            self.network.clock.advance(1)
            self.settle()

    def do(self, work: Any) -> Any:
        """What comes of something, with all that follows."""
        running = Deferred.fromCoroutine(work)
        self.settle()
        return result_of(running)

    def invited_room(self, **plan: Any) -> tuple[str, str]:
        """Bob's room, into which he has invited Alice, who has accepted: LM and DAG room ID."""
        room_id = self.north.create_room(self.bob, self.version, **{"name": "Bob's", "topic": "Things", **plan})
        self.do(self.north.floor.local_users.invite(room_id, self.bob, self.alice, "come in"))
        dag_room_id = self.mirror_of(room_id)
        self.dag.join(dag_room_id, self.alice, displayname="Alice")
        self.settle()
        return room_id, dag_room_id

    def opened_room(self, *, public: bool = False, **state: Any) -> tuple[str, str]:
        """Alice's room, into which she has invited Bob's ghost, and he has accepted: LM and DAG room ID."""
        dag_room_id = self.dag.make_room(self.alice, public=public, **{"name": {"name": "Alice's"}, **state})
        self.dag.member(dag_room_id, self.alice, self.bobs_ghost, "invite")
        self.settle()
        room_id = self.lm_of(dag_room_id)
        self.do(self.north.floor.local_users.join(self.bob, room_id, [], None))
        return room_id, dag_room_id

    def mirror_of(self, room_id: str) -> str:
        """The DAG room of an LM room."""
        [status] = [one for one in done(self.us.mirrors.statuses()) if one.lm_room_id == room_id]
        return str(status.dag_room_id)

    def lm_of(self, dag_room_id: str) -> str:
        """The LM room of a DAG room."""
        [status] = [one for one in done(self.us.mirrors.statuses()) if one.dag_room_id == dag_room_id]
        return str(status.lm_room_id)

    def compare(self, room_id: str) -> Comparison:
        """Both sides, compared."""
        return self.do(self.us.mirrors.compare(room_id))  # type: ignore[no-any-return]

    def assert_agree(self, room_id: str) -> None:
        """Both sides of a mirror, and every LM server's copy, say the same, and nothing is on its way."""
        comparison = self.compare(room_id)
        self.assertEqual(list(comparison.differences), [])
        self.assertEqual((comparison.status.outward_lag, comparison.status.inward_lag), (0, 0))

    def lm_state(self, server: Server, room_id: str, event_type: str, state_key: str = "") -> dict[str, Any] | None:
        """Content of state on the LM side, without marks."""
        room = done(server.floor.rooms.load(room_id))
        assert room is not None
        event = room.state.get(event_type, state_key)
        return None if event is None else {key: value for key, value in event.content.items() if key != SOURCE}

    def lm_members(self, server: Server, room_id: str, membership: str = "join") -> set[str]:
        """Members on the LM side."""
        room = done(server.floor.rooms.load(room_id))
        assert room is not None
        return {one.state_key for one in room.state.members() if one.content.get("membership") == membership}

    def lm_last(self, server: Server, room_id: str) -> Pdu:
        """The last event of a room's log."""
        return server.pdus(room_id)[-1]

    def lm_send(
        self, server: Server, room_id: str, sender: str, kind: str, content: Any, key: str | None = None
    ) -> str:
        """Somebody on the LM side sends an event; its ID."""
        sending = Deferred.fromCoroutine(server.floor.local_users.send(room_id, sender, kind, content, state_key=key))
        self.settle()
        return result_of(sending)
