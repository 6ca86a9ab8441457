"""The admin API over HTTP, on real rooms: what it shows, what it does, and whom it lets in."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from lmatrix.admin_api.routes import admin_table
from lmatrix.http.router import Router
from lmatrix.http.site import ApiSite
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.interfaces import Evidence
from lmatrix.storage.overview import SqlOverviewStore
from tests.directory.network import DirectoryServer
from tests.http.memory_http import Answer, Wire
from tests.rooms.network import MemoryKeyring, NetworkTestCase, Server, done, result_of

TOKEN = "lmadmin_a-token-that-nobody-guesses"
PREFIX = "/_lmatrix/admin/v1"


class AdminTestCase(NetworkTestCase):
    """The admin APIs of the hub and of the north."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.wires = {server.name: self.wire(server) for server in (self.hub, self.north)}

    def wire(self, server: Server) -> Wire:
        overview = SqlOverviewStore()
        names = DirectoryServer(server, self.network.directory_servers)
        table = admin_table(
            server.name,
            TOKEN,
            database=server.database,
            overview=overview,
            rooms=server.floor.rooms,
            transfer=server.floor.transfer,
            recovery=server.floor.recovery,
            listener=server.floor.listener,
            aliases=names.floor.aliases,
            exporter=EvidenceExporter(
                server.name, server.database, server.rooms, overview, MemoryKeyring(self.network)
            ),
        )
        return Wire(ApiSite(Router([table], clock=self.network.clock), reactor=self.network.clock))

    def ask(
        self,
        server: Server,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        authorization: str | None = f"Bearer {TOKEN}",
    ) -> Answer:
        wire = self.wires[server.name]
        headers = "" if authorization is None else f"Authorization: {authorization}\r\n"
        wire.request(method, PREFIX + target, body, headers)
        for _ in range(300):
            self.network.clock.advance(0)
        return wire.answer()

    def get(self, server: Server, target: str) -> Any:
        answer = self.ask(server, target)
        self.assertEqual(200, answer.status, answer.body)
        return answer.json

    def encoded_room(self) -> str:
        return self.room_id.replace("!", "%21").replace(":", "%3A")


class Door(AdminTestCase):
    def test_without_the_token(self) -> None:
        """No endpoint answers without the token; it says which is wrong, that there is none or that it is another."""
        room = f"/rooms/{self.encoded_room()}"
        endpoints = [("GET", "/rooms"), ("GET", room), ("GET", room + "/evidence"), ("GET", "/destinations")]
        endpoints += [("POST", room + "/transfer"), ("POST", room + "/go_on"), ("GET", "/held_rooms")]
        for method, target in endpoints:
            for authorization, errcode in (
                (None, "M_MISSING_TOKEN"),
                ("Bearer", "M_UNKNOWN_TOKEN"),
                (f"Bearer {TOKEN}x", "M_UNKNOWN_TOKEN"),
                (f"Bearer {TOKEN[:-1]}", "M_UNKNOWN_TOKEN"),
                (f"Basic {TOKEN}", "M_UNKNOWN_TOKEN"),
            ):
                answer = self.ask(self.hub, target, method, b"{}", authorization)
                self.assertEqual((401, errcode), (answer.status, answer.json["errcode"]), target)
        self.assertEqual(self.hub.name, done(self.hub.floor.rooms.load(self.room_id)).hub_server)

    def test_the_token_is_not_logged(self) -> None:
        """Neither the right token nor a wrong one is in any log event, or in an answer."""
        logged: list[LogEvent] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        answers = [self.ask(self.hub, "/rooms"), self.ask(self.hub, "/rooms", authorization="Bearer wrong-token")]
        self.assertTrue(logged)
        for word in (TOKEN, "wrong-token"):
            self.assertNotIn(word, repr(logged))
            self.assertNotIn(word, repr(answers))

    def test_other_origins(self) -> None:
        """No browser may call it from a page of another origin."""
        self.assertNotIn("access-control-allow-origin", self.ask(self.hub, "/rooms").headers)


class Rooms(AdminTestCase):
    def test_list(self) -> None:
        """Each room with version, hub, role, head, and its joined users by server; in pages."""
        more = sorted([self.room_id, *(self.hub.create_room(self.alice) for _ in range(4))])
        found: list[Any] = []
        target = "/rooms?limit=2"
        while True:
            page = self.get(self.hub, target)
            found += page["rooms"]
            if "next_batch" not in page:
                break
            target = "/rooms?limit=2&from=" + page["next_batch"].replace("!", "%21")
        self.assertEqual(more, [room["room_id"] for room in found])
        [room] = [room for room in found if room["room_id"] == self.room_id]
        head = self.hub.log(self.room_id)[-1]
        self.assertEqual(
            {
                "room_id": self.room_id,
                "room_version": "I.1",
                "hub": "hub.example",
                "role": "hub",
                "head": {"position": head.position, "place": str(head.position), "event_id": head.event_id},
                "joined": {"hub.example": 1, "north.example": 1, "south.example": 1},
            },
            room,
        )

    def test_one(self) -> None:
        """One room says more: what waits, what is kept, and who could be its hub."""
        room = self.get(self.hub, f"/rooms/{self.encoded_room()}")
        self.assertEqual(["north.example", "south.example"], room["candidates"])
        self.assertEqual((0, 0), (room["pending_lpdus"], room["evidence"]))
        self.say(self.hub, self.room_id, self.alice, "1")
        self.network.clock.advance(3600)
        self.network.settle()
        self.wires = {server.name: self.wire(server) for server in (self.hub, self.north)}
        head = self.hub.log(self.room_id)[-1].event_id
        heads = self.get(self.hub, f"/rooms/{self.encoded_room()}")["heads"]
        self.assertEqual(
            [("north.example", head, True), ("south.example", head, True)],
            [(one["server"], one["head"], one["agrees"]) for one in heads],
        )
        room = self.get(self.north, f"/rooms/{self.encoded_room()}")
        self.assertEqual(("participant", "hub.example", []), (room["role"], room["hub"], room["candidates"]))
        self.assertTrue(room["head"]["place"].startswith("1+"))

    def test_what_is_no_room(self) -> None:
        """An unknown room is not found; what cannot be a room is a bad request."""
        self.assertEqual(404, self.ask(self.hub, "/rooms/%21x%3Ay").status)
        self.assertEqual(404, self.ask(self.hub, "/rooms/%21x%3Ay/evidence").status)
        self.assertEqual(400, self.ask(self.hub, "/rooms/x").status)
        self.assertEqual(400, self.ask(self.hub, "/rooms?limit=0").status)


class Recovery(AdminTestCase):
    """Rooms that are held."""

    def hold(self) -> None:
        """The south does not answer, and the room waits for it."""
        self.network.unreachable.add(self.south.name)
        done(self.hub.floor.recovery.hold(self.room_id, "somebody holds more"))
        self.network.clock.pump([0.0] * 100)

    def test_shown(self) -> None:
        """The list and the room say since when, why, and who is waited for; a room that is not held says so."""
        self.assertEqual({"held_rooms": []}, self.get(self.hub, "/held_rooms"))
        self.assertIsNone(self.get(self.hub, f"/rooms/{self.encoded_room()}")["recovery"])
        self.hold()
        [held] = self.get(self.hub, "/held_rooms")["held_rooms"]
        self.assertEqual((self.room_id, "somebody holds more"), (held["room_id"], held["reason"]))
        self.assertEqual(([self.north.name], [self.south.name]), (held["answered"], list(held["waiting_for"])))
        self.assertEqual(held, self.get(self.hub, f"/rooms/{self.encoded_room()}")["recovery"])

    def test_go_on(self) -> None:
        """The operator lets the room go on without the server that does not answer, and only without such a one."""
        target = f"/rooms/{self.encoded_room()}/go_on"
        good = b'{"without": ["south.example"]}'
        self.assertEqual(404, self.ask(self.hub, target, "POST", good).status)
        self.hold()
        for bad in (b"{}", b'{"without": []}', b'{"without": ["north.example"]}', b'{"without": ["no server!"]}'):
            self.assertEqual(400, self.ask(self.hub, target, "POST", bad).status, bad)
        self.assertEqual(1, len(self.get(self.hub, "/held_rooms")["held_rooms"]))
        answer = self.ask(self.hub, target, "POST", good)
        self.assertEqual((200, {}), (answer.status, answer.json))
        self.assertEqual({"held_rooms": []}, self.get(self.hub, "/held_rooms"))
        result_of(self.hub.send(self.room_id, self.alice, "on"))


class Transfer(AdminTestCase):
    def transfer(self, server: Server, body: bytes) -> Answer:
        return self.ask(server, f"/rooms/{self.encoded_room()}/transfer", "POST", body)

    def test_the_room_moves(self) -> None:
        """The answer is the event that moved it, and the new hub is the hub."""
        answer = self.transfer(self.hub, b'{"server": "north.example"}')
        self.assertEqual(200, answer.status, answer.body)
        self.assertEqual({"event_id": self.hub.log(self.room_id)[-1].event_id}, answer.json)
        self.network.settle()
        self.assertEqual("hub", self.get(self.north, f"/rooms/{self.encoded_room()}")["role"])
        self.assertEqual("participant", self.get(self.hub, f"/rooms/{self.encoded_room()}")["role"])

    def test_what_cannot_be(self) -> None:
        """Each reason has its error; the one that knows the right server names it; the room stays."""
        for server, body, status, errcode in (
            (self.north, b'{"server": "south.example"}', 400, "M_WRONG_SERVER"),
            (self.hub, b'{"server": "hub.example"}', 400, "M_BAD_JSON"),
            (self.hub, b'{"server": "stranger.example"}', 400, "M_BAD_JSON"),
            (self.hub, b'{"server": "no server!"}', 400, "M_BAD_JSON"),
            (self.hub, b"{}", 400, "M_BAD_JSON"),
            (self.hub, b"x", 400, "M_NOT_JSON"),
        ):
            answer = self.transfer(server, body)
            self.assertEqual((status, errcode), (answer.status, answer.json["errcode"]), body)
            if errcode == "M_WRONG_SERVER":
                self.assertEqual("hub.example", answer.json["hub_server"])
        self.network.unreachable.add(self.north.name)
        answer = self.transfer(self.hub, b'{"server": "north.example"}')
        self.assertEqual((502, "M_UNKNOWN"), (answer.status, answer.json["errcode"]))
        self.assertEqual("hub", self.get(self.hub, f"/rooms/{self.encoded_room()}")["role"])


class EvidenceAndDestinations(AdminTestCase):
    def test_evidence(self) -> None:
        """A document with the keys of all who signed; in pages."""
        known = self.hub.pdus(self.room_id)[-1]
        for number in range(3):
            evidence = Evidence(self.room_id, "fork", known.event_id, known.canonical, known.canonical, "x", number)
            result_of(self.north.database.write(lambda tx, one=evidence: self.north.rooms.add_evidence(tx, one)))
        target = f"/rooms/{self.encoded_room()}/evidence"
        document = self.get(self.north, target)
        self.assertEqual([0, 1, 2], [item["seen_ts"] for item in document["evidence"]])
        self.assertEqual(known.fields, document["evidence"][0]["event"])
        self.assertLessEqual({"hub.example", known.sender_server}, set(document["keys"]))
        self.assertNotIn("next_batch", document)
        page = self.get(self.north, target + "?limit=2")
        rest = self.get(self.north, target + "?limit=2&from=" + page["next_batch"])
        self.assertEqual([2], [item["seen_ts"] for item in rest["evidence"]])
        self.assertEqual(3, self.get(self.north, f"/rooms/{self.encoded_room()}")["evidence"])

    def test_destinations(self) -> None:
        """Who lacks how much, and since when; nobody who is up to date."""
        self.assertEqual({"destinations": []}, self.get(self.hub, "/destinations"))
        self.network.unreachable.add(self.north.name)
        result_of(self.hub.send(self.room_id, self.alice, "one"))
        result_of(self.hub.send(self.room_id, self.alice, "two"))
        self.network.settle()
        state = DestinationState(retry_at_ms=20, failing_since_ms=10, interval_ms=10)
        result_of(self.hub.database.write(lambda tx: self.hub.cursors.put_destination(tx, self.north.name, state)))
        [north] = self.get(self.hub, "/destinations")["destinations"]
        self.assertEqual(("north.example", 2, 1), (north["server"], north["owed_events"], north["owed_rooms"]))
        self.assertEqual((10, 20, 10), (north["failing_since_ts"], north["retry_at_ts"], north["back_off_ms"]))
        sending = Deferred.fromCoroutine(
            self.north.floor.local_users.send(self.room_id, self.bob, "m.room.message", {"body": "x"})
        )
        [hub] = self.get(self.north, "/destinations")["destinations"]
        self.assertEqual(("hub.example", 0, 1), (hub["server"], hub["owed_events"], hub["pending_lpdus"]))
        self.network.unreachable.clear()
        self.network.settle()
        self.successResultOf(sending)


class AliasesTests(AdminTestCase):
    """``/aliases``."""

    def test_aliases(self) -> None:
        """All of them, page by page, and the removal of one that somebody else has made."""
        aliases = self.network.directory_servers[self.hub.name].floor.aliases
        self.assertEqual({"aliases": []}, self.get(self.hub, "/aliases"))
        for name in ("b", "a"):
            self.network.finished(aliases.create(f"#{name}:hub.example", self.room_id, self.alice))
        shown = [
            {"alias": f"#{name}:hub.example", "room_id": self.room_id, "creator": self.alice} for name in ("a", "b")
        ]
        self.assertEqual({"aliases": shown}, self.get(self.hub, "/aliases"))
        first = self.get(self.hub, "/aliases?limit=1")
        self.assertEqual(shown[:1], first["aliases"])
        rest = self.get(self.hub, f"/aliases?from={quote(first['next_batch'])}")
        self.assertEqual({"aliases": shown[1:]}, rest)
        path = "/aliases/%23a%3Ahub.example"
        removed = self.ask(self.hub, path, "DELETE")
        self.assertEqual((200, {"room_id": self.room_id}), (removed.status, removed.json))
        self.assertEqual({"aliases": shown[1:]}, self.get(self.hub, "/aliases"))
        again = self.ask(self.hub, path, "DELETE")
        self.assertEqual((404, "M_NOT_FOUND"), (again.status, again.json["errcode"]))

    def test_without_the_token(self) -> None:
        """Neither is shown nor removed to somebody without the token."""
        for method, path in (("GET", "/aliases"), ("DELETE", "/aliases/%23a%3Ahub.example")):
            answer = self.ask(self.hub, path, method, authorization=None)
            self.assertEqual((401, "M_MISSING_TOKEN"), (answer.status, answer.json["errcode"]))
