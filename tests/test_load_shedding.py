"""A hub under more load than it can take: a whole server, on a clock, flooded over HTTP.

The listener, the router, request authentication, the rooms and the stores are the real ones. Only time, the network
towards other servers (which answers for their keys, and takes everything) and the disk (in memory, with commits that
take half a second) are the test's, so that the hub has too much to do exactly when the test says so.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from lmatrix.canonical_json import encode
from lmatrix.config import parse_config
from lmatrix.core import Outside
from lmatrix.crypto.keys import SigningKey
from lmatrix.events.building import build_lpdu
from lmatrix.events.creation import Preset, RoomPlan
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from lmatrix.http.site import ApiSite
from lmatrix.server import build_server
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores
from tests.http.memory_http import Answer as HttpAnswer
from tests.http.memory_http import Wire
from tests.simulation.network import StaticRoutes

HUB = "hub.example"
NOISY, QUIET = "noisy.example", "quiet.example"
ALICE = f"@alice:{HUB}"
PLACES = 16
COMMIT_SECONDS = 0.5

_CONFIG = f"""\
server_name: "{HUB}"
signing_key_path: "signing.key"
listeners:
  - port: 8448
    tls: false
    resources: [federation, keys, health, metrics]
database:
  path: "unused.db"
federation:
  limits: {{concurrent_requests: {PLACES}}}
  peers:
    "{NOISY}": {{concurrent_transactions: true}}
"""


class Reactor(Clock):
    """Time, and the site of the one listener."""

    site: ApiSite

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        self.site = factory
        return _Port()

    def getThreadPool(self) -> None:
        """There are no threads."""


class _Port:
    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8448)

    def stopListening(self) -> None:
        """Nothing is open."""


class SlowDatabase(InlineDatabase):
    """A database whose commits take time."""

    async def start(self) -> None:
        """It is open."""

    async def stop(self) -> None:
        self.close()


@attrs.frozen
class Participant:
    """A server that is nothing but its key."""

    name: str
    key: SigningKey

    @property
    def user(self) -> str:
        return f"@user:{self.name}"

    def lpdu(self, room_id: str, now_ms: int, **fields: Any) -> Lpdu:
        return build_lpdu(
            room_version("I.1"),
            room_id=room_id,
            sender=self.user,
            origin_server_ts=now_ms,
            hub_server=HUB,
            server_name=self.name,
            keys=(self.key,),
            **fields,
        )

    def request(self, wire: Wire, method: str, target: str, content: dict[str, Any]) -> None:
        body = encode(content)
        signature = self.key.sign(request_signing_bytes(method, target, self.name, HUB, body))
        authorization = format_authorization(XMatrix(self.name, HUB, self.key.key_id, signature))
        wire.request(method, target, body, f"Authorization: {authorization}\r\n")


class Elsewhere:
    """The network towards the participants: it has their keys, and takes whatever is sent to them."""

    def __init__(self, participants: dict[str, Participant], clock: Clock) -> None:
        self._keys = {name: OwnKeys(name, [one.key], [], clock=clock) for name, one in participants.items()}

    def exchange(self, route: Any, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        if request.target.startswith("/_matrix/key/"):
            return succeed(Answer(200, Headers(), self._keys[route.host_header].published()))
        return succeed(Answer(200, Headers(), b'{"failed_pdus":{}}'))

    async def close(self) -> None:
        """Nothing is kept open."""


class WholeHubCase(SynchronousTestCase):
    """A whole server, and a room there with users of two other servers."""

    config = _CONFIG

    def setUp(self) -> None:
        self.clock = Reactor()
        self.clock.advance(1_700_000_000)
        directory = Path(self.mktemp())
        directory.mkdir()
        key = SigningKey.generate("hub", seed=b"h" * 32)
        (directory / "signing.key").write_text(key.to_line() + "\n")
        (directory / "signing.key").chmod(0o600)
        self.noisy, self.quiet = (
            Participant(name, SigningKey.generate("1", seed=name.encode().ljust(32, b".")[:32]))
            for name in (NOISY, QUIET)
        )
        self.database = SlowDatabase(clock=self.clock, commit_seconds=lambda: COMMIT_SECONDS)
        self.store = Stores.create()
        self.server = build_server(
            parse_config(self.config, "lmatrix.yaml", directory),
            self.clock,
            rng=random.Random(1),
            outside=Outside(
                database=self.database,
                transport=Elsewhere({NOISY: self.noisy, QUIET: self.quiet}, self.clock),  # type: ignore[arg-type]
                resolver=StaticRoutes(),
            ),
            reread=lambda: parse_config(self.config, "lmatrix.yaml", directory),
        )
        self.finish(self.server.start())
        creating = self.server.rooms.local_users.create_room(ALICE, "I.1", RoomPlan(preset=Preset.PUBLIC_CHAT))
        self.room_id: str = self.finish(creating)
        self.wires: list[Wire] = []
        for one in (self.noisy, self.quiet):
            self.join(one)

    def finish(self, work: Any) -> Any:
        """The result of something that takes time."""
        running = Deferred.fromCoroutine(work)
        for _ in range(600):
            if running.called:
                break
            self.clock.advance(0.1)
        return self.successResultOf(running)

    def wire(self, address: str) -> Wire:
        self.wires.append(Wire(self.clock.site, address))
        return self.wires[-1]

    def wait(self, wires: list[Wire], seconds: float) -> list[HttpAnswer]:
        """Let time pass; the answers that came, in the order of their wires."""
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
        return [answer for wire in wires for answer in wire.answers()]

    def join(self, who: Participant) -> None:
        wire = self.wire("198.51.100.9")
        member = {"type": "m.room.member", "state_key": who.user, "content": {"membership": "join"}}
        lpdu = who.lpdu(self.room_id, self.now_ms, **member)
        who.request(wire, "POST", "/_matrix/federation/v3/send_join/join", dict(lpdu.fields))
        [answer] = self.wait([wire], 3)
        self.assertEqual(answer.status, 200, answer.body)

    @property
    def now_ms(self) -> int:
        return int(self.clock.seconds() * 1000)

    def message(self, who: Participant, text: str) -> Lpdu:
        return who.lpdu(self.room_id, self.now_ms, type="m.room.message", content={"body": text}, state_key=None)

    def send(self, who: Participant, wire: Wire, number: object, *lpdus: Lpdu) -> None:
        content = {"pdus": [dict(lpdu.fields) for lpdu in lpdus]}
        who.request(wire, "PUT", f"/_matrix/federation/v2/send/{number}", content)

    def bodies(self) -> list[str]:
        """What has been said in the room, as it is on disk."""
        found = self.database.read(lambda tx: self.store.rooms.events_between(tx, self.room_id, 0, 2**62, 10**6))
        self.clock.advance(0)
        version = room_version("I.1")
        pdus = [Pdu.from_canonical(event.canonical, version) for event in self.successResultOf(found)]
        return [pdu.content["body"] for pdu in pdus if pdu.type == "m.room.message"]

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(f"lmatrix_{name}", labels) or 0


class LoadSheddingTests(WholeHubCase):
    """One of the two servers floods the hub."""

    def test_a_flood(self) -> None:
        """Forty transactions at once, where eight have room: the rest is told when to come back, another server and
        /health are served meanwhile, what was acknowledged is in the room, once and in order, and in the end nothing
        is left in memory.
        """
        flood = {self.wire("192.0.2.1"): (number, self.message(self.noisy, f"flood {number}")) for number in range(40)}
        for wire, (number, lpdu) in flood.items():
            self.send(self.noisy, wire, number, lpdu)
        refused = {wire: answer for wire in flood for answer in wire.answers()}
        self.assertEqual(len(flood) - len(refused), PLACES // 2, "one origin gets half of the places")
        for answer in refused.values():
            self.assertEqual((answer.status, answer.json["errcode"]), (429, "M_LIMIT_EXCEEDED"))
            self.assertGreater(answer.json["retry_after_ms"], 0)
            self.assertGreater(int(answer.headers["retry-after"]), 0)

        quiet, health = self.wire("198.51.100.1"), self.wire("203.0.113.1")
        self.send(self.quiet, quiet, "q", self.message(self.quiet, "quiet"))
        health.request("GET", "/health")
        self.assertEqual(health.answer().status, 200)
        self.assertEqual(quiet.answers(), [], "it is being carried out")
        # A commit is under way when it comes, so that it is in the next one, whatever else waits.
        [answer] = self.wait([quiet], 2 * COMMIT_SECONDS + 0.3)
        self.assertEqual((answer.status, answer.json["failed_pdus"]), (200, {}))

        taken = {wire for wire in flood if wire not in refused}
        acknowledged = [flood[wire][0] for wire in taken if [a.status for a in self.wait([wire], 1)] == [200]]
        self.wait([], 5)
        acknowledged += [flood[wire][0] for wire in taken if [answer.status for answer in wire.answers()] == [200]]
        self.assertEqual(len(acknowledged), PLACES // 2)
        self.assertEqual(sorted(self.bodies()), sorted(["quiet", *(f"flood {number}" for number in acknowledged)]))

        # Whoever comes back when told to is taken in time; some are sent twice, and are there once.
        waiting = list(refused)
        for _ in range(20):
            if not waiting:
                break
            for wire in waiting:
                self.send(self.noisy, wire, *flood[wire])
            self.wait([], 3)
            waiting = [wire for wire in waiting if [answer.status for answer in wire.answers()] != [200]]
        self.assertEqual(waiting, [])
        self.assertEqual(sorted(self.bodies()), sorted(["quiet", *(f"flood {number}" for number in range(40))]))

        self.assertGreater(self.metric("shed_total", what="federation"), 0)
        self.assert_nothing_is_left()

    def test_a_flood_of_strangers(self) -> None:
        """Requests whose sender cannot be known yet, because its keys do not come, leave places to those who are."""
        hanging: list[Deferred[Answer]] = []

        def never(*_: object) -> Deferred[Answer]:
            hanging.append(Deferred())
            return hanging[-1]

        self.patch(Elsewhere, "exchange", never)
        wires = [self.wire("192.0.2.1") for _ in range(40)]
        for number, wire in enumerate(wires):
            stranger = Participant(f"s{number}.example", self.noisy.key)
            self.send(stranger, wire, "x", self.message(stranger, "x"))
        statuses = [answer.status for wire in wires for answer in wire.answers()]
        self.assertEqual(statuses, [429] * (40 - PLACES // 2))
        quiet = self.wire("198.51.100.1")
        self.send(self.quiet, quiet, "q", self.message(self.quiet, "quiet"))
        [answer] = self.wait([quiet], 2)
        self.assertEqual((answer.status, answer.json["failed_pdus"]), (200, {}))
        self.assertEqual({answer.status for answer in self.wait(wires, 60)}, {401})
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self) -> None:
        """No request, no byte, no event waits anywhere."""
        self.wait([], 10)
        self.assertEqual(self.clock.site.router.requests_in_flight, 0)
        self.assertEqual((self.clock.site.body_bytes.taken, len(self.clock.site.body_bytes)), (0, 0))
        for queue in ("sequencer", "checks"):
            self.assertEqual(self.metric("queue_length", queue=queue), 0, queue)
        for wire in self.wires:
            wire.hang_up()
        self.assertEqual(self.clock.site.connections, 0)
        self.finish(self.server.stop())
