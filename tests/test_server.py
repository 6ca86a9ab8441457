"""Whole servers, on real sockets with TLS and real databases, in this process."""

from __future__ import annotations

import datetime
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import attrs
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from lmatrix.config import Config, load_config
from lmatrix.config.files import FileProblem
from lmatrix.demo.client import ClientError, MatrixClient
from lmatrix.demo.evidence import AnyCertificate, disagreements, held_room, published_keys
from lmatrix.demo.servers import Place, prepare
from lmatrix.errors import StorageFailed
from lmatrix.listening import CannotListen
from lmatrix.server import Server, build_server
from lmatrix.storage.sqlite_engine import SqliteEngine

PATIENCE_SECONDS = 20.0
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def asynchronous(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], Deferred[None]]:
    """A test method that is a coroutine."""

    @wraps(test)
    def run(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    return run


class ServerTestCase(TestCase):
    """Servers that are stopped after the test, with every connection."""

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.pool = HTTPConnectionPool(reactor, persistent=True)
        self.https_pool = HTTPConnectionPool(reactor, persistent=False)
        self.http = HTTPClient(Agent(reactor, pool=self.pool))
        self.https = HTTPClient(Agent(reactor, AnyCertificate(), pool=self.https_pool))
        self.running: list[Server] = []
        self.addCleanup(self.settle)

    def settle(self) -> Deferred[None]:
        async def stop_all() -> None:
            await self.pool.closeCachedConnections()
            for server in list(self.running):
                await self.stop(server)
            while any(_is_connection(one) for one in reactor.getReaders()):  # type: ignore[attr-defined]
                await deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]

        return Deferred.fromCoroutine(stop_all())

    def places(self, *labels: str) -> list[Place]:
        """Configurations and keys for some servers."""
        return prepare(labels, self.directory, random.Random(1), NOW)

    def build(self, config: Config) -> Server:
        server = build_server(config, reactor, rng=random.Random(2))
        self.running.append(server)
        return server

    async def start(self, place: Place) -> Server:
        server = self.build(load_config(place.config))
        await server.start()
        return server

    async def stop(self, server: Server) -> None:
        self.running.remove(server)
        await server.stop()

    async def client(self, place: Place, username: str) -> MatrixClient:
        client = MatrixClient(place.client_url, self.http, reactor)  # type: ignore[arg-type]
        await client.register(username, "a password")
        return client

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self.https.get(url)
        return response.code, await response.content()

    async def fails(self, error: type[Exception], work: Awaitable[object]) -> Exception:
        """What the work raised, which has to be an ``error``."""
        try:
            await work
        except error as raised:
            return raised
        return self.fail(f"{error.__name__} was not raised")  # type: ignore[no-any-return]


def _is_connection(reader: object) -> bool:
    return type(reader).__name__ in ("Server", "Client", "_TLSServerMixin")


class OneServer(ServerTestCase):
    @asynchronous
    async def test_serves_what_each_listener_says(self) -> None:
        """Keys are on the federation port, clients on the other, and neither serves the other's; health and metrics."""
        (place,) = self.places("one")
        server = await self.start(place)
        federation = f"https://{place.server_name}"
        keys = await published_keys([place], self.https)
        self.assertEqual(len(keys[place.server_name]), 1)
        for url, expected in [
            (f"{place.client_url}/_matrix/client/versions", 200),
            (f"{place.client_url}/_matrix/key/v2/server", 404),
            (f"{federation}/_matrix/client/versions", 404),
            (f"{federation}/_matrix/federation/v2/event/$x", 401),
            (f"{place.client_url}/health", 200),
            (f"{federation}/metrics", 404),
        ]:
            self.assertEqual((await self.get(url))[0], expected, url)
        status, body = await self.get(f"{place.client_url}/metrics")
        self.assertEqual(status, 200)
        self.assertIn(b"lmatrix_requests_total", body)
        self.assertEqual(len(server.listeners.addresses()), 2)

    @asynchronous
    async def test_start_up_log(self) -> None:
        """The log says who this is, where it listens, where the data are, and loudly what is loosened."""
        logged: list[LogEvent] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        (place,) = self.places("one")
        await self.start(place)
        said = [str(event["log_format"]).format(**event) for event in logged if "log_format" in event]
        for expected in (place.server_name, str(place.database), f"https://127.0.0.1:{place.server_name[10:]}"):
            self.assertTrue(any(expected in line for line in said), expected)
        warnings = [event for event in logged if event["log_level"].name == "warn"]
        self.assertEqual(len(warnings), len(load_config(place.config).warnings()))

    @asynchronous
    async def test_restart_keeps_everything(self) -> None:
        """Accounts, rooms and messages are there after a stop and a new start."""
        (place,) = self.places("one")
        first = await self.start(place)
        alice = await self.client(place, "alice")
        room_id = await alice.create_room(name="Kept")
        event_id = await alice.say(room_id, "remember this")
        await self.pool.closeCachedConnections()
        await self.stop(first)
        await self.start(place)
        await alice.wait_for(room_id, event_id, PATIENCE_SECONDS)
        self.assertEqual((await alice.read_backwards(room_id, 1))[0]["content"]["body"], "remember this")

    @asynchronous
    async def test_stopped_server_is_gone(self) -> None:
        """After the stop nothing listens, and a second server can take the ports at once."""
        (place,) = self.places("one")
        server = await self.start(place)
        await self.stop(server)
        self.assertEqual(server.listeners.addresses(), ())
        await self.start(place)


class FailedStarts(ServerTestCase):
    @asynchronous
    async def test_port_in_use(self) -> None:
        """A port that is taken is named; what had been started is stopped again without a word of complaint."""
        one, two = self.places("one", "two")
        await self.start(one)
        config = load_config(two.config)
        taken = load_config(one.config).listeners[0].port
        listeners = (config.listeners[0], attrs.evolve(config.listeners[1], port=taken))
        server = self.build(attrs.evolve(config, listeners=listeners))
        error = await self.fails(CannotListen, server.start())
        self.assertIn(f"port {taken} of 127.0.0.1", str(error))
        await self.stop(server)
        await self.start(two)

    @asynchronous
    async def test_database_of_a_newer_version(self) -> None:
        """A database that a newer version has written is refused, not guessed at."""
        (place,) = self.places("one")
        await self.stop(await self.start(place))
        connection = SqliteEngine(place.database).connect(read_only=False)
        connection.execute("INSERT INTO schema_steps VALUES (999, 'from_the_future', '')")
        connection.close()
        await self.fails(StorageFailed, self.start(place))

    def test_unreadable_key(self) -> None:
        """A key that others may read is refused before anything is opened."""
        (place,) = self.places("one")
        config = load_config(place.config)
        config.signing_key_path.chmod(0o644)
        error = self.assertRaises(FileProblem, build_server, config, reactor)
        self.assertIn("chmod 600", str(error))


class TwoServers(ServerTestCase):
    @asynchronous
    async def test_conversation(self) -> None:
        """Users of two servers talk in one room; both hold the same events, with every signature verified anew."""
        hub, participant = self.places("hub", "participant")
        await self.start(hub)
        await self.start(participant)
        alice = await self.client(hub, "alice")
        bob = await self.client(participant, "bob")
        room_id = await alice.create_room(preset="private_chat")
        await alice.invite(room_id, bob.user_id)
        await bob.join(room_id, hub.server_name)
        await alice.say(room_id, "hello")
        last = await bob.say(room_id, "hello yourself")
        for client in (alice, bob):
            await client.wait_for(room_id, last, PATIENCE_SECONDS)
        refused = await self.fails(ClientError, bob.set_state(room_id, "m.room.name", {"name": "mine"}))
        self.assertIn("needs 50", str(refused))
        keys = await published_keys([hub, participant], self.https)
        rooms = [held_room(place, room_id, keys) for place in (hub, participant)]
        self.assertEqual(disagreements(rooms[0], rooms[1:]), [])
        forms = {signed.form.value for signed in rooms[1].events[-1].signed_by}
        self.assertEqual(forms, {"LPDU", "PDU"})

    @asynchronous
    async def test_message_waits_for_its_hub(self) -> None:
        """A message sent while the hub is down is kept, and arrives when the hub is back, once."""
        hub, participant = self.places("hub", "participant")
        hub_server = await self.start(hub)
        await self.start(participant)
        alice = await self.client(hub, "alice")
        bob = await self.client(participant, "bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        await self.pool.closeCachedConnections()
        await self.stop(hub_server)
        sending = Deferred.fromCoroutine(bob.say(room_id, "are you there?"))
        await deferLater(reactor, 0.2, lambda: None)  # type: ignore[arg-type]
        self.assertNoResult(sending)
        await self.start(hub)
        event_id = await sending
        await alice.wait_for(room_id, event_id, PATIENCE_SECONDS)
        said = [event for event in await alice.read_backwards(room_id, 20) if event["type"] == "m.room.message"]
        self.assertEqual([event["event_id"] for event in said], [event_id])
