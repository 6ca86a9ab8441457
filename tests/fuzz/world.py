"""Whole servers in one process, over the real HTTP stack, that begin every example in the same place.

Owns: :class:`World`, two servers that know each other (``us.example``, which is fuzzed, and ``north.example``), their
users and rooms, and the way between them. The stage is set once and kept as database files; each example starts on
copies of them, with the same time and the same randomness, so that it can be replayed.

A request to ``us`` goes as bytes through the site of its listener. What ``us`` asks of others goes through
:class:`Wires`, where a fuzzer can put something else in the place of any answer, and of any request of the north's.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import attrs
from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as ConnectionRefused
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from lmatrix.canonical_json import encode
from lmatrix.client_api.auth import hash_of_token
from lmatrix.config import Config, parse_config
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import TooLarge
from lmatrix.events.creation import Preset, RoomPlan
from lmatrix.events.room_versions import V02
from lmatrix.federation.discovery import Route
from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.server import Outside, Server, build_server
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores
from tests.devices.builders import Device
from tests.http.memory_http import Wire
from tests.simulation.clocks import WorldClock
from tests.simulation.network import StaticRoutes
from tests.simulation.reactor import ServerReactor

T = TypeVar("T")

US, NORTH, NOBODY = "us.example", "north.example", "nobody.example"
ALICE, ZOE = f"@alice:{US}", f"@zoe:{US}"
BOB, CARL, DORA = f"@bob:{NORTH}", f"@carl:{NORTH}", f"@dora:{NORTH}"
ALICES_DEVICE, BOBS_DEVICE = "ALICE1", "BOB1"
TOKENS = {ALICE: "alices_token", ZOE: "zoes_token"}
ADMIN_TOKEN = "the_operators_secret_token"
PASSWORD = "secret"
START_S = 1_700_000_000.0

PATIENCE_S = 400.0
"""Seconds, of the world's time, in which every request must have been answered: a little more than the longest of all,
which waits for two other servers in turn."""

_CONFIG = """\
server_name: "{name}"
signing_key_path: "signing.key"
admin_token_path: "admin.token"
listeners:
  - port: 8448
    tls: false
    resources: [federation, keys, client, health, metrics, admin]
database:
  path: "lmatrix.db"
federation:
  accept_hub_offers: true
registration:
  enabled: true
rate_limits:
  enabled: false
"""


class Overdue(AssertionError):
    """Something that must come to an end did not."""


class FuzzReactor(ServerReactor):
    """The reactor of a server; what is handed to its threads is done at once."""

    def getThreadPool(self) -> Any:
        return self

    def callInThreadWithCallback(self, told: Callable[[bool, Any], None], do: Callable[..., Any], *args: Any) -> None:
        try:
            result, success = do(*args), True
        except Exception:
            result, success = Failure(), False
        told(success, result)

    def callFromThread(self, do: Callable[..., Any], *args: Any) -> None:
        self.callLater(0, do, *args)


Reply = Callable[[str, OutgoingRequest, Answer], "Answer | BaseException | None"]
Rewrite = Callable[[str, OutgoingRequest], "OutgoingRequest | None"]


class Wires:
    """The transport of one server.

    Args:
        world: whose servers it reaches.
        origin: whose it is.
    """

    def __init__(self, world: World, origin: str) -> None:
        self._world = world
        self._origin = origin
        self.open: set[Deferred[Answer]] = set()

    def exchange(self, route: Route, request: OutgoingRequest, max_body: int) -> Deferred[Answer]:
        """Send a request and read its answer."""
        answer: Deferred[Answer] = Deferred(lambda _: self.open.discard(answer))
        self.open.add(answer)
        world, destination = self._world, route.host_header
        sent: OutgoingRequest | None = request
        if world.rewrite is not None and self._origin == NORTH:
            sent = world.rewrite(destination, request)
        if sent is None:
            return answer  # never arrives, and nobody says so
        host = world.hosts.get(destination)
        if host is None or host.site is None:
            world.clock.callLater(0.01, self._end, answer, ConnectionRefused())
            return answer

        def came(given: Answer) -> None:
            result: Answer | BaseException | None = given
            if world.reply is not None and destination == NORTH:
                result = world.reply(destination, request, given)
            if result is None:
                return  # swallowed
            if isinstance(result, Answer) and len(result.body) > max_body:
                result = TooLarge(f"the answer is longer than {max_body} bytes")
            world.clock.callLater(0.01, self._end, answer, result)

        world.clock.callLater(0.01, host.ask, sent, came)
        return answer

    async def close(self) -> None:
        """Nothing is kept open."""

    def _end(self, answer: Deferred[Answer], result: Answer | BaseException) -> None:
        if answer not in self.open:
            return
        self.open.discard(answer)
        if isinstance(result, Answer):
            answer.callback(result)
        else:
            answer.errback(Failure(result))


class _Disk(InlineDatabase):
    async def start(self) -> None:
        """It is open already."""

    async def stop(self) -> None:
        self.close()


class Host:
    """One server.

    Args:
        world: where it stands.
        name: its name.
        home: its directory.
    """

    def __init__(self, world: World, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.reactor = FuzzReactor(world.clock)
        self.wires = Wires(world, name)
        self.config: Config = parse_config(_CONFIG.format(name=name), "lmatrix.yaml", home)
        self.key = SigningKey.from_line((home / "signing.key").read_text().strip())
        self.database = _Disk(home / "lmatrix.db")
        self.server: Server = build_server(
            self.config,
            self.reactor,
            rng=Random(f"{name} {'stage' if world.stage is None else 'example'}"),
            outside=Outside(self.database, self.wires, StaticRoutes()),
        )
        self.users = self.server.rooms.local_users

    @property
    def site(self) -> Any:
        """What listens, while something does."""
        return self.reactor.site

    def connect(self) -> Wire:
        """A connection to its listener."""
        return Wire(self.site)

    def ask(self, request: OutgoingRequest, came: Callable[[Answer], None]) -> None:
        """A request of another server."""
        wire = self.connect()
        fields = "".join(f"{name}: {value}\r\n" for name, values in request.headers.items() for value in values)
        wire.request(request.method, request.target, request.body or b"", fields)
        watch(self.reactor, wire, lambda: came(_read(wire)))

    def rows(self, sql: str) -> list[Any]:
        """What is stored."""
        return self.database._writer.connection.execute(sql, ()).fetchall()


def watch(reactor: FuzzReactor, wire: Wire, answered: Callable[[], None]) -> None:
    """Call back when a connection has something to read."""
    if wire.transport.value() or wire.closed:
        answered()
    else:
        reactor._world.callLater(0.01, watch, reactor, wire, answered)


def _read(wire: Wire) -> Answer:
    answers = wire.answers()
    wire.hang_up()
    if not answers:
        return Answer(502, Headers(), b"")
    one = answers[-1]
    return Answer(one.status, Headers({name: [value] for name, value in one.headers.items()}), one.body)


@attrs.frozen
class Stage:
    """What there is when an example begins.

    Attributes:
        rooms: by what they are: ``hub``, ``hub_v02``, ``ours_private``, ``ours_knock``, ``north``, ``north_v02``,
            ``north_private`` (we are invited), ``north_other`` (we know nothing of it).
        events: event IDs of each, in order.
    """

    directory: Path
    rooms: dict[str, str]
    events: dict[str, tuple[str, ...]]


class World:
    """The servers of one example.

    Args:
        stage: where it begins; ``None``: nowhere yet.

    Attributes:
        reply: puts something in the place of the north's answers to us.
        rewrite: puts something in the place of the north's requests.
    """

    def __init__(self, stage: Stage | None, directory: Path) -> None:
        self.stage = stage
        self.clock = WorldClock(START_S if stage is None else START_S + 3600)
        self.reply: Reply | None = None
        self.rewrite: Rewrite | None = None
        self.interrupted: BaseException | None = None
        self.hosts: dict[str, Host] = {}
        for name in (US, NORTH):
            home = directory / name
            if stage is not None:
                shutil.copytree(stage.directory / name, home)
            self.hosts[name] = Host(self, name, home)
        self.us, self.north = self.hosts[US], self.hosts[NORTH]
        for host in self.hosts.values():
            self.done(host.server.start())

    def done(self, work: Awaitable[T], seconds: float = PATIENCE_S) -> T:
        """What comes of something, after as many turns of the reactor as it takes.

        Raises:
            Overdue: it takes too long.
        """
        results: list[Any] = []
        running = Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        running.addBoth(results.append)
        self.until(lambda: bool(results), seconds, "something to be done")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        result: T = results[0]
        return result

    def until(self, is_so: Callable[[], bool], seconds: float, what: str) -> None:
        """Go on until something is so.

        Raises:
            Overdue: it takes too long.
        """
        deadline = self.clock.seconds() + seconds
        while not is_so():
            if self.interrupted is not None:
                raise self.interrupted
            if self.clock.seconds() > deadline or not self.clock.step():
                raise Overdue(f"{what}: not within {seconds:.0f} s")

    def answer(self, wire: Wire) -> Any:
        """The answer that a connection gets."""
        self.until(lambda: bool(wire.transport.value()), 10, "an answer")
        return wire.answer()

    def settle(self, seconds: float = 30.0) -> None:
        """Let time pass."""
        self.clock.run_until(self.clock.seconds() + seconds)
        if self.interrupted is not None:
            raise self.interrupted

    def drawing(self, draw: Callable[[], T], otherwise: T) -> T:
        """What a fuzzer draws in the middle of a server's work. When Hypothesis has had enough, the server must not be
        the one to hear of it: whoever lets time pass does.
        """
        if self.interrupted is None:
            try:
                return draw()
            except BaseException as interruption:
                self.interrupted = interruption
        return otherwise

    def end(self) -> None:
        """Stop the servers."""
        for host in self.hosts.values():
            self.done(host.server.stop())
            host.reactor.kill()


def set_stage(directory: Path) -> Stage:
    """Make the files that every example begins with."""
    for number, name in enumerate((US, NORTH), start=1):
        home = directory / name
        home.mkdir()
        for file, text in (
            ("signing.key", SigningKey.generate("first", bytes([number]) * 32).to_line()),
            ("admin.token", ADMIN_TOKEN),
        ):
            (home / file).write_text(text + "\n")
            (home / file).chmod(0o600)
    world = World(None, directory)
    _make_users(world)
    rooms = _make_rooms(world)
    world.settle(600)
    events = {kind: _log(world, kind, room_id) for kind, room_id in rooms.items()}
    world.end()
    return Stage(directory, rooms, events)


def _log(world: World, kind: str, room_id: str) -> tuple[str, ...]:
    """The room's event IDs, as its hub has them."""
    hub = world.north if kind.startswith("north") else world.us
    room_nids = dict(hub.rows("SELECT room_id, room_nid FROM rooms"))
    rows = hub.rows("SELECT room_nid, event_id FROM events WHERE position > 0 ORDER BY position")
    return tuple(event_id for room_nid, event_id in rows if room_nid == room_nids[room_id])


def _make_users(world: World) -> None:
    accounts = Stores.create().accounts
    password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    for host, users in ((world.us, (ALICE, ZOE)), (world.north, (BOB, CARL, DORA))):
        for user_id in users:
            device = user_id[1:].partition(":")[0].upper() + "1"
            token = hash_of_token(TOKENS.get(user_id, user_id))

            def work(tx: Any, user_id: str = user_id, device: str = device, token: str = token) -> None:
                accounts.create_user(tx, user_id, password, 0)
                accounts.add_token(tx, user_id, device, token, 0, None)

            host.database.write(work)
    for host, user_id, device_id in ((world.us, ALICE, ALICES_DEVICE), (world.north, BOB, BOBS_DEVICE)):
        device = Device(user_id, device_id)
        upload = {"device_keys": device.signed(device.fields())}
        wire = host.connect()
        token = TOKENS.get(user_id, user_id)
        wire.request("POST", "/_matrix/client/v3/keys/upload", encode(upload), f"Authorization: Bearer {token}\r\n")
        answer = world.answer(wire)
        assert answer.status == 200, answer
        wire.hang_up()


def _make_rooms(world: World) -> dict[str, str]:
    us, north = world.us.users, world.north.users
    public, private = Preset.PUBLIC_CHAT, Preset.PRIVATE_CHAT

    def create(host: Host, creator: str, preset: Preset = public, version: str = "I.1") -> str:
        return world.done(host.users.create_room(creator, version, RoomPlan(preset=preset)))

    def talk(room_id: str, *users: str) -> None:
        for user_id in users:
            host = world.us if user_id.endswith(US) else world.north
            world.done(host.users.send(room_id, user_id, "m.room.message", {"msgtype": "m.text", "body": "hello"}))

    rooms = {
        "hub": create(world.us, ALICE),
        "hub_v02": create(world.us, ALICE, version=V02),
        "ours_private": create(world.us, ALICE, private),
        "ours_knock": create(world.us, ALICE, private),
        "north": create(world.north, BOB),
        "north_v02": create(world.north, BOB, version=V02),
        "north_private": create(world.north, BOB, private),
        "north_other": create(world.north, BOB),
    }
    for kind in ("hub", "hub_v02"):
        world.done(us.join(ZOE, rooms[kind], (), None))
        world.done(north.join(BOB, rooms[kind], (US,), None))
        talk(rooms[kind], ALICE, BOB, ZOE)
    world.done(us.invite(rooms["ours_private"], ALICE, CARL, None))
    world.done(us.send(rooms["ours_knock"], ALICE, "m.room.join_rules", {"join_rule": "knock"}, state_key=""))
    world.done(north.knock(CARL, rooms["ours_knock"], (US,), None))
    for kind in ("north", "north_v02"):
        world.done(us.join(ALICE, rooms[kind], (NORTH,), None))
        world.done(
            north.send(
                rooms[kind],
                BOB,
                "m.room.power_levels",
                {"users": {BOB: 100, ALICE: 50}, "users_default": 0},
                state_key="",
            )
        )
        talk(rooms[kind], BOB, ALICE, BOB)
    world.done(north.invite(rooms["north_private"], BOB, ALICE, None))
    world.settle(30)
    return rooms


_stages: list[Stage] = []


def the_stage() -> Stage:
    """The stage, set when it is first asked for."""
    if not _stages:
        directory = Path(tempfile.mkdtemp(prefix="lmatrix-fuzz-stage-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        _stages.append(set_stage(directory))
    return _stages[0]
