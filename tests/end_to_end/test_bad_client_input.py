"""Bad requests to every endpoint of a real server's Client-Server API, under both of its prefixes.

Source: Client-Server API v1.11, "Standard error response" and the errors of each endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tests.end_to_end.bad_input import BadInputTestCase
from tests.end_to_end.client_user import PASSWORD, V3, ClientUser, place
from tests.end_to_end.signing_client import Refused
from tests.end_to_end.wire_events import V02, canonical

PREFIXES = (V3, "/_matrix/client/r0")
NOT_JSON = (b"not JSON", b'{"a":', b'{"a":NaN}', b'"\xff"', b"{}{}")
NO_OBJECT = (b"[]", b'"text"', b"1", b"null", b'{"a":1,"a":2}', b'{"a":9007199254740992}')
LONG = "x" * 256
NOBODY = "$" + "x" * 43


@attrs.frozen(slots=True)
class Request:
    """A request that is in order.

    Attributes:
        path: below the prefix.
        open: whether nobody need be logged in.
        body: ``None`` where there is none; else whether it must be there.
    """

    method: str
    path: str
    open: bool = False
    body: str | None = None


class ClientInputTests(BadInputTestCase):
    """What clients get wrong.

    Attributes:
        bob: a user of the same server, who is in no room.
        private: a room of Alice's that nobody else is in.
    """

    bob: ClientUser
    private: str

    async def stage_users(self) -> None:
        """Set the scene."""
        await self.stage()
        self.bob = await self.user(self.us, "bob")
        self.private = await self.alice.create_room(preset="private_chat")
        await self.mark()

    def requests(self) -> Iterator[Request]:
        """A request to each endpoint; none of them would change anything."""
        room, user, head = ("rooms", self.room_id), self.alice.user_id, self.head
        yield Request("POST", place("register", query={"kind": "user"}), open=True, body="optional")
        yield Request("GET", place("register", "available", query={"username": "free"}), open=True)
        yield Request("GET", place("login"), open=True)
        yield Request("POST", place("login"), open=True, body="required")
        yield Request("GET", place("profile", user), open=True)
        for below in (("capabilities",), ("account", "whoami"), ("joined_rooms",), ("sync",), ("pushrules", "")):
            yield Request("GET", place(*below))
        yield Request("GET", place("pushrules", "global", ""))
        yield Request("POST", place("user", user, "filter"), body="required")
        yield Request("GET", place("user", user, "filter", "0"))
        yield Request("POST", place("createRoom"), body="optional")
        for change in ("invite", "kick", "ban", "unban"):
            yield Request("POST", place(*room, change), body="required")
        for change in ("join", "leave", "forget"):
            yield Request("POST", place(*room, change), body="optional" if change != "forget" else None)
        for change in ("join", "knock"):
            yield Request("POST", place(change, self.room_id), body="optional")
        yield Request("PUT", place(*room, "send", "m.room.message", "txn"), body="required")
        yield Request("PUT", place(*room, "redact", head, "txn"), body="optional")
        for below in (("org.example",), ("org.example", ""), ("org.example", "key")):
            yield Request("PUT", place(*room, "state", *below), body="required")
            yield Request("GET", place(*room, "state", *below))
        for below in (("state",), ("members",), ("joined_members",), ("event", head), ("context", head)):
            yield Request("GET", place(*room, *below))
        yield Request("GET", place(*room, "messages", query={"dir": "b"}))
        yield Request("GET", place("devices"))
        yield Request("GET", place("devices", "PHONE"))
        yield Request("PUT", place("devices", "PHONE"), body="required")
        yield Request("PUT", place("sendToDevice", "org.example", "txn"), body="required")
        for ask in ("upload", "query", "claim"):
            yield Request("POST", place("keys", ask), body="required")
        yield Request("GET", place("keys", "changes", query={"from": "x", "to": "x"}))
        yield Request("POST", place("logout"))
        yield Request("POST", place("logout", "all"))

    async def test_requests(self) -> None:
        """Tokens, paths, methods and bodies, at every endpoint.

        No token: 401 M_MISSING_TOKEN; a wrong or an old one: 401 M_UNKNOWN_TOKEN; unknown paths: 404 M_UNRECOGNIZED;
        another method: 405 M_UNRECOGNIZED; not JSON: 400 M_NOT_JSON; no object, or unsafe JSON: 400 M_BAD_JSON; too
        large: 413 M_TOO_LARGE.
        """
        await self.stage_users()
        ask = self.alice.request
        await self.bob.call("POST", place("logout"))
        await self.mark()
        old = self.bob.token
        for request in self.requests():
            method, below = request.method, request.path
            for prefix in PREFIXES:
                what = f"{method} {prefix}{below}"
                content = None if method == "GET" else {}
                if not request.open:
                    for token, errcode in (
                        ("", "MISSING"),
                        ("lmt_wrong", "UNKNOWN"),
                        (old, "UNKNOWN"),
                        ("x" * 2000, "UNKNOWN"),
                    ):
                        answer = await ask(method, below, content, token=token, prefix=prefix)
                        self.judge(f"{what} with {token!r:.20}", answer, 401, f"M_{errcode}_TOKEN")
                bare = below.partition("?")[0]
                for bent in (f"{bare}/more/and/more", f"/{bare}", bare.replace("/", "//", 1) + "//"):
                    self.judge(
                        f"{what}: {bent}", await ask(method, bent, content, prefix=prefix), 404, "M_UNRECOGNIZED"
                    )
                answer = await ask("PATCH", below, {}, prefix=prefix)
                self.judge(f"{what}: PATCH", answer, 405, "M_UNRECOGNIZED")
                if method != "GET":
                    body = canonical({"a": "x" * 1024 * 1024})
                    self.judge(
                        f"{what}: too large", await ask(method, below, body=body, prefix=prefix), 413, "M_TOO_LARGE"
                    )
                if request.body is not None:
                    bodies = (*NOT_JSON, b"") if request.body == "required" else NOT_JSON
                    for body in bodies:
                        answer = await ask(method, below, body=body, prefix=prefix)
                        self.judge(f"{what}: {body!r}", answer, 400, "M_NOT_JSON")
                    for body in NO_OBJECT:
                        answer = await ask(method, below, body=body, prefix=prefix)
                        self.judge(f"{what}: {body!r}", answer, 400, "M_BAD_JSON")
        for unknown in ("", "/", "/rooms", f"/rooms/{self.room_id}", "/unheard_of", "/register/", "/sync/"):
            for method in ("GET", "POST", "PUT"):
                content = None if method == "GET" else {}
                self.judge(f"{method} {unknown}", await ask(method, unknown, content), 404, "M_UNRECOGNIZED")
        await self.assert_nothing_happened()

    async def test_values(self) -> None:
        """Missing keys: M_MISSING_PARAM; wrong types: M_BAD_JSON; useless values: M_INVALID_PARAM; and their kin."""
        await self.stage_users()
        room = ("rooms", self.room_id)
        create, login, register = place("createRoom"), place("login"), place("register")
        user = {"type": "m.id.user", "user": "alice"}
        dummy = {"auth": {"type": "m.login.dummy"}}
        filters = place("user", self.alice.user_id, "filter")
        messages = {"dir": "b"}
        name, avatar = (place("profile", self.alice.user_id, field) for field in ("displayname", "avatar_url"))
        canonical = place(*room, "state", "m.room.canonical_alias")
        alias = f"#alias:{self.us.server_name}"
        directory = place("directory", "room", alias)
        table: Mapping[tuple[int, str], Sequence[tuple[str, str, object]]] = {
            (400, "M_BAD_JSON"): [
                *(("POST", create, {key: 1}) for key in ("name", "topic", "preset", "visibility", "room_version")),
                *(("POST", create, {key: 1}) for key in ("invite", "initial_state", "creation_content", "is_direct")),
                *(("POST", create, {"power_level_content_override": value}) for value in (1, [], "x")),
                *(
                    ("POST", create, {"initial_state": [value]})
                    for value in (1, "x", {}, {"type": "x"}, {"type": 1, "content": {}})
                ),
                *(("POST", place(*room, change), {"user_id": 1}) for change in ("invite", "kick", "ban", "unban")),
                *(("POST", place(*room, change), {"reason": 1}) for change in ("join", "leave")),
                ("POST", create, {"initial_state": [{"type": "m.room.create", "content": {}}]}),
                ("PUT", place(*room, "redact", self.head, "t"), {"reason": 1}),
                ("PUT", place(*room, "state", "m.room.member", self.alice.user_id), {"membership": 1}),
                ("PUT", place(*room, "state", "m.room.member", self.alice.user_id), {}),
                *(("POST", login, {"type": "m.login.password", "identifier": value}) for value in (1, "x", [])),
                ("POST", login, {"type": "m.login.password", "identifier": user, "password": 1}),
                ("POST", login, {"type": 1}),
                *(("POST", register, {key: 1}) for key in ("auth", "username", "password")),
                *(("POST", filters, {"room": value}) for value in (1, "x", [])),
                ("POST", filters, {"room": {"timeline": {"limit": "x"}}}),
                *(("PUT", name, {"displayname": value}) for value in (1, [], {})),
                ("PUT", avatar, {"avatar_url": True}),
                ("PUT", directory, {"room_id": 1}),
                ("PUT", place("directory", "list", "room", self.room_id), {"visibility": 1}),
                *(("POST", place("publicRooms"), {key: True}) for key in ("limit", "since", "filter")),
                ("POST", create, {"room_alias_name": 1}),
            ],
            (400, "M_MISSING_PARAM"): [
                ("PUT", name, {}),
                ("PUT", avatar, {"displayname": "x"}),
                ("PUT", directory, {}),
                *(("POST", place(*room, change), {}) for change in ("invite", "kick", "ban", "unban")),
                ("POST", login, {}),
                ("POST", login, {"type": "m.login.password"}),
                ("POST", login, {"type": "m.login.password", "identifier": user}),
                ("POST", login, {"type": "m.login.password", "identifier": {"type": "m.id.user"}, "password": "x"}),
                ("POST", register, {**dummy, "username": "carol"}),
                ("GET", place("register", "available"), None),
            ],
            (400, "M_INVALID_PARAM"): [
                ("POST", create, {"preset": "x"}),
                ("POST", create, {"visibility": "x"}),
                ("POST", create, {"invite": ["nobody"]}),
                ("POST", create, {"invite": [1]}),
                ("POST", create, {"room_alias_name": "a b"}),
                *(("POST", place(*room, change), {"user_id": "x"}) for change in ("invite", "kick", "ban", "unban")),
                ("POST", place(*room, "kick"), {"user_id": self.member, "reason": "x" * 5000}),
                *(
                    ("POST", place("rooms", "x", change), {"user_id": self.member})
                    for change in ("invite", "kick", "join", "leave")
                ),
                ("POST", place("join", "x"), {}),
                ("POST", place("join", self.room_id, query={"via": "not a name"}), {}),
                ("POST", place("join", self.room_id, query={"via": [f"{n}.example" for n in range(21)]}), {}),
                ("PUT", place("rooms", "x", "send", "m.room.message", "t"), {}),
                ("PUT", place(*room, "send", LONG, "t"), {}),
                ("PUT", place(*room, "send", "m.room.message", LONG), {}),
                ("PUT", place(*room, "redact", "x", "t"), {}),
                ("PUT", place(*room, "state", "m.room.member", "x"), {"membership": "join"}),
                ("GET", place(*room, "messages"), None),
                *(("GET", place(*room, "messages", query={"dir": value}), None) for value in ("x", "")),
                *(
                    ("GET", place(*room, "messages", query={**messages, "limit": value}), None)
                    for value in ("x", "-1", "1.5")
                ),
                *(("GET", place(*room, "messages", query={**messages, key: "x"}), None) for key in ("from", "to")),
                ("GET", place(*room, "members", query={"at": "x"}), None),
                ("GET", place(*room, "state", "m.room.name", query={"format": "x"}), None),
                ("GET", place(*room, "context", self.head, query={"limit": "x"}), None),
                *(
                    ("GET", place("sync", query={key: "x"}), None)
                    for key in ("since", "timeout", "full_state", "filter")
                ),
                ("GET", place("profile", "x"), None),
                ("PUT", name, {"displayname": "x" * 257}),
                ("PUT", avatar, {"avatar_url": "x" * 1001}),
                *(
                    ("PUT", place("directory", "room", value), {"room_id": self.room_id})
                    for value in ("x", "#x", "#x:other.example", "#" + LONG + ":" + self.us.server_name)
                ),
                ("PUT", directory, {"room_id": "x"}),
                ("GET", place("directory", "room", "x"), None),
                *(("PUT", canonical, {"alias": value}) for value in (1, "x", [alias])),
                *(("PUT", canonical, {"alt_aliases": value}) for value in (1, "x", [1], [alias] * 51)),
                ("PUT", place("directory", "list", "room", self.room_id), {"visibility": "x"}),
                ("GET", place("publicRooms", query={"since": "x"}), None),
            ],
            (400, "M_BAD_ALIAS"): [
                ("PUT", canonical, {"alias": alias}),
                ("PUT", canonical, {"alt_aliases": ["#x:127.0.0.1:1"]}),
                ("POST", create, {"initial_state": [{"type": "m.room.canonical_alias", "content": {"alias": alias}}]}),
            ],
            (400, "M_UNSUPPORTED_ROOM_VERSION"): [
                *(("POST", create, {"room_version": value}) for value in ("99", "", "i.1", V02 + "x")),
            ],
            (400, "M_INVALID_ROOM_STATE"): [
                ("POST", create, {"power_level_content_override": {"users": 1}}),
                ("POST", create, {"power_level_content_override": {"ban": "100"}}),
                ("POST", create, {"initial_state": [{"type": LONG, "content": {}}]}),
            ],
            (400, "M_USER_IN_USE"): [
                ("POST", register, {**dummy, "username": "alice", "password": PASSWORD}),
                ("GET", place("register", "available", query={"username": "alice"}), None),
            ],
            (400, "M_INVALID_USERNAME"): [
                *(
                    ("POST", register, {**dummy, "username": name, "password": PASSWORD})
                    for name in ("", "ALICE", "a b", LONG, "a:b")
                ),
                ("GET", place("register", "available", query={"username": "ALICE"}), None),
            ],
            (400, "M_UNKNOWN"): [
                ("POST", login, {"type": "m.login.token", "token": "x"}),
                ("POST", place(*room, "forget"), {}),
            ],
            (403, "M_FORBIDDEN"): [
                *(
                    ("POST", login, {"type": "m.login.password", "identifier": {**user, "user": name}, "password": "x"})
                    for name in ("alice", "nobody", "@alice:other.example", "A B")
                ),
                ("POST", place("register", query={"kind": "guest"}), {}),
                ("GET", place("user", self.bob.user_id, "filter", "0"), None),
                ("POST", place("user", self.bob.user_id, "filter"), {}),
                ("PUT", place("profile", self.bob.user_id, "displayname"), {"displayname": "x"}),
                ("PUT", directory, {"room_id": f"!unknown:{self.us.server_name}"}),
            ],
            (403, "M_THREEPID_DENIED"): [
                ("POST", create, {"invite_3pid": [{}]}),
                ("POST", place(*room, "invite"), {"medium": "email", "address": "a@example.org"}),
            ],
            (404, "M_NOT_FOUND"): [
                ("GET", place(*room, "event", NOBODY), None),
                ("GET", place(*room, "event", "x"), None),
                ("GET", place(*room, "context", NOBODY), None),
                ("GET", place(*room, "state", "org.example", "x"), None),
                ("GET", place("user", self.alice.user_id, "filter", "99"), None),
                ("POST", place("join", alias), {}),
                ("GET", directory, None),
                ("DELETE", directory, None),
                ("PUT", place("directory", "list", "room", f"!unknown:{self.us.server_name}"), {}),
                ("POST", place("join", f"!unknown:{self.us.server_name}"), {}),
                ("GET", place("profile", "@nobody:" + self.us.server_name), None),
            ],
            (413, "M_TOO_LARGE"): [
                ("PUT", place(*room, "send", "m.room.message", "t"), {"body": "x" * 65_536}),
                ("PUT", place(*room, "state", "m.room.topic"), {"topic": "x" * 65_536}),
                ("POST", create, {"topic": "x" * 65_536}),
                ("POST", filters, {"room": {"rooms": ["x" * 20_000]}}),
            ],
        }
        for (status, errcode), rows in table.items():
            for method, below, content in rows:
                what = f"{method} {below} {content!r:.100}"
                self.judge(what, await self.alice.request(method, below, content), status, errcode)
        await self.assert_nothing_happened()

    async def test_rooms(self) -> None:
        """What a user may not do in a room, and rooms that there are not, or that are not for them: 403 M_FORBIDDEN.

        The reason is given; a room that is unknown and one that is hidden look the same.
        """
        await self.stage_users()
        alice, bob = self.alice, self.bob
        unknown = f"!unknown:{self.us.server_name}"
        for room_id in (self.private, unknown):
            room = ("rooms", room_id)
            rows: list[tuple[str, str, object]] = [
                *(
                    ("POST", place(*room, change), {"user_id": self.member})
                    for change in ("invite", "kick", "ban", "unban")
                ),
                ("POST", place(*room, "leave"), {}),
                ("PUT", place(*room, "send", "m.room.message", "t"), {"body": "x"}),
                ("PUT", place(*room, "redact", self.head, "t"), {}),
                ("PUT", place(*room, "state", "m.room.name"), {"name": "x"}),
                *(("GET", place(*room, below), None) for below in ("state", "members", "joined_members")),
                ("GET", place(*room, "state", "m.room.name"), None),
                ("GET", place(*room, "messages", query={"dir": "b"}), None),
            ]
            for method, below, content in rows:
                answer = await bob.request(method, below, content)
                self.judge(f"{method} {below}", answer, 403, "M_FORBIDDEN")
        self.judge("join", await bob.request("POST", place("join", self.private), {}), 403, "M_FORBIDDEN")
        await self.assert_nothing_happened()

        await bob.join(self.room_id, self.us.server_name)
        await self.mark()
        room = ("rooms", self.room_id)
        refused: list[tuple[str, str, object]] = [
            ("PUT", place(*room, "state", "m.room.name"), {"name": "x"}),
            ("PUT", place(*room, "state", "m.room.create"), {"room_version": "I.1"}),
            ("PUT", place(*room, "state", "m.room.power_levels"), {"users": {bob.user_id: 100}}),
            ("PUT", place(*room, "state", "org.example", alice.user_id), {}),
            ("PUT", place(*room, "state", "m.room.member", alice.user_id), {"membership": "leave"}),
            ("PUT", place(*room, "state", "m.room.member", bob.user_id), {"membership": "guest"}),
            ("POST", place(*room, "kick"), {"user_id": alice.user_id}),
            ("POST", place(*room, "kick"), {"user_id": "@nobody:example.org"}),
            ("POST", place(*room, "ban"), {"user_id": alice.user_id}),
            ("POST", place(*room, "unban"), {"user_id": alice.user_id}),
            ("POST", place(*room, "invite"), {"user_id": alice.user_id}),
            ("POST", place("knock", self.room_id), {}),
        ]
        for method, below, content in refused:
            answer = await bob.request(method, below, content)
            self.judge(f"{method} {below}", answer, 403, "M_FORBIDDEN")
        await self.assert_nothing_happened()
        try:
            await bob.say(self.room_id, "but this is allowed")
        except Refused as error:
            self.fail(f"a good message was refused: {error}")
