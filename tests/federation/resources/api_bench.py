"""The federation API over HTTP in memory, with rooms that only note what they are asked.

Owns: :class:`ApiTestCase`. Who made a request is whatever its ``Authorization`` header says in plain words, but for
the tests of the authentication itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.directory.interfaces import AliasTarget
from lmatrix.directory.profiles import Profile
from lmatrix.directory.public_rooms import RoomQuery
from lmatrix.errors import Unauthenticated
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import room_version
from lmatrix.federation.notary_choice import KeyQuery
from lmatrix.federation.resources.admission import Admission, Authenticates
from lmatrix.federation.resources.paths import UNSTABLE_PREFIX
from lmatrix.federation.resources.routes import federation_table, key_table
from lmatrix.http.limits import RateLimiter
from lmatrix.http.messages import JsonObject, JsonRequest
from tests.http.memory_http import Answer, Wire, site_for

ORIGIN = "north.example"
ROOM = "!room:hub.example"
ROOM_IN_PATH = "%21room%3Ahub.example"
BOB = "@bob:north.example"
BOB_IN_PATH = "%40bob%3Anorth.example"
EVENT = "$nKHVqt3iyLA_HEE8lT1yUaaVjjBRR-fAqpN4t7opadc"


class PlainAuthenticator:
    """Believes the ``Authorization`` header."""

    def __init__(self) -> None:
        self.contents: list[JsonObject | None] = []

    async def authenticate(self, request: JsonRequest, content: JsonObject | None) -> str:
        self.contents.append(content)
        origin = request.header("Authorization")
        if origin is None:
            raise Unauthenticated("the request has no Authorization header")
        request.origin = origin
        return origin


class NotingRooms:
    """Stands for everything that the endpoints ask of the rooms."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def note(self, *call: object) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def receive(self, origin: str, transaction_id: str, body: JsonObject, raw: bytes | None = None) -> bytes:
        self.note("receive", origin, transaction_id, body)
        return b'{"failed_pdus":{}}'

    async def invite(self, origin: str, transaction_id: str, body: JsonObject) -> bytes:
        self.note("invite", origin, transaction_id, body)
        return b'{"pdu":{}}'

    async def make(
        self, origin: str, membership: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> JsonObject:
        self.note("make", origin, membership, room_id, user_id, tuple(versions))
        return {"event": {"type": "m.room.member"}, "room_version": "I.1"}

    async def send(self, origin: str, membership: str, transaction_id: str, body: JsonObject) -> bytes:
        self.note("send", origin, membership, transaction_id, body)
        return b'{"state":[]}'

    async def event(self, origin: str, event_id: str) -> bytes:
        self.note("event", origin, event_id)
        return b'{"type":"m.room.message"}'

    async def state(self, origin: str, room_id: str, event_id: str) -> bytes:
        self.note("state", origin, room_id, event_id)
        return b'{"auth_chain":[],"pdus":[]}'

    async def state_ids(self, origin: str, room_id: str, event_id: str) -> bytes:
        self.note("state_ids", origin, room_id, event_id)
        return b'{"auth_chain_ids":[],"pdu_ids":[]}'

    async def backfill(self, origin: str, room_id: str, event_id: str, limit: int) -> bytes:
        self.note("backfill", origin, room_id, event_id, limit)
        return b'{"pdus":[]}'

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> bytes:
        self.note("event_auth", origin, room_id, event_id)
        return b'{"auth_chain":[]}'

    async def local_device(self, user_id: str, device_id: str) -> bytes:
        self.note("local_device", user_id, device_id)
        return b'{"device_id":"BOBS"}'

    async def local_devices(self, user_id: str) -> tuple[int, Mapping[str, bytes]]:
        self.note("local_devices", user_id)
        return 7, {"BOBS": b'{"device_id":"BOBS"}'}

    async def hand_out(self, wanted: Mapping[str, Mapping[str, str]]) -> JsonObject:
        self.note("hand_out", wanted)
        return {}

    async def offered(self, origin: str, offer: JsonObject) -> Lpdu:
        self.note("offered", origin, offer)
        return build_lpdu(
            room_version("I.1"),
            room_id=ROOM,
            type="m.room.hub",
            sender=BOB,
            content={"previous_hub": "hub.example", "head": EVENT, "valid_until_ts": 5},
            origin_server_ts=1,
            hub_server="hub.example",
            server_name=ORIGIN,
            keys=(SigningKey.generate("1", seed=b"n" * 32),),
            state_key="",
        )

    async def tell(self, origin: str, room_id: str) -> JsonObject:
        self.note("tell", origin, room_id)
        return {"head": EVENT}

    async def requested(self, origin: str, room_id: str, user_id: str) -> str:
        self.note("requested", origin, room_id, user_id)
        return EVENT

    async def query(self, queries: Sequence[KeyQuery], client_address: str) -> bytes:
        self.note("query", *queries)
        return b'{"server_keys":[]}'

    def published(self) -> bytes:
        self.note("published")
        return b'{"server_name":"hub.example"}'


class NotingProfiles:
    """Stands for the profiles: the rooms take note."""

    def __init__(self, rooms: NotingRooms) -> None:
        self._rooms = rooms

    def is_local(self, user_id: str) -> bool:
        return user_id.endswith(":hub.example")

    async def local(self, user_id: str) -> Profile:
        self._rooms.note("profile", user_id)
        return Profile("Alice", "mxc://hub.example/alice")


class NotingAliases:
    """Stands for the aliases, likewise."""

    def __init__(self, rooms: NotingRooms) -> None:
        self._rooms = rooms

    def is_local(self, alias: str) -> bool:
        return alias.endswith(":hub.example")

    async def local(self, alias: str) -> AliasTarget:
        self._rooms.note("alias", alias)
        return AliasTarget(ROOM, ("hub.example", "north.example"))


class NotingList:
    """Stands for the list of public rooms."""

    def __init__(self, rooms: NotingRooms) -> None:
        self._rooms = rooms

    async def page(self, query: RoomQuery) -> JsonObject:
        self._rooms.note("page", query)
        return {"chunk": [], "total_room_count_estimate": 0}


class ApiTestCase(SynchronousTestCase):
    """The API, and a client of it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.rooms = NotingRooms()
        self.authenticator = PlainAuthenticator()
        self.build()

    def build(self, *, authenticator: Authenticates | None = None, limiter: RateLimiter | None = None) -> None:
        """The API anew."""
        admission = Admission(authenticator or self.authenticator, limiter)
        table = federation_table(
            admission,
            self.rooms,
            self.rooms,
            self.rooms,
            self.rooms,
            self.rooms,
            self.rooms,
            self.rooms,
            self.rooms,
            NotingProfiles(self.rooms),
            NotingAliases(self.rooms),
            NotingList(self.rooms),
        )
        self.site = site_for(*table.routes, *key_table(self.rooms, self.rooms).routes, clock=self.clock)

    def ask(
        self, method: str, path: str, body: bytes = b"", *, origin: str | None = ORIGIN, headers: str = ""
    ) -> Answer:
        """One request and its answer; the path is below ``/_matrix/federation``, or whole."""
        target = path if path.startswith("/_matrix") else f"/_matrix/federation{path}"
        if origin is not None:
            headers += f"Authorization: {origin}\r\n"
        wire = Wire(self.site)
        wire.request(method, target, body, headers)
        return wire.answer()

    def assert_error(self, answer: Answer, status: int, errcode: str) -> None:
        """The answer is an error envelope."""
        self.assertEqual((status, errcode), (answer.status, answer.json.get("errcode")), answer.body)
        self.assertEqual("application/json", answer.headers["content-type"])
        self.assertIsInstance(answer.json["error"], str)

    def assert_called(self, *call: object) -> None:
        """The rooms were asked this, and nothing else since the last time."""
        self.assertEqual([call], self.rooms.calls)
        self.rooms.calls.clear()


GOOD_REQUESTS: dict[str, tuple[str, str, bytes]] = {
    "send": ("PUT", "/v2/send/txn1", b'{"pdus":[]}'),
    "invite": ("POST", "/v3/invite/txn1", b'{"event":{},"room_version":"I.1"}'),
    "make_join": ("GET", f"/v1/make_join/{ROOM_IN_PATH}/{BOB_IN_PATH}?ver=I.1", b""),
    "make_leave": ("GET", f"/v1/make_leave/{ROOM_IN_PATH}/{BOB_IN_PATH}", b""),
    "make_knock": ("GET", f"/v1/make_knock/{ROOM_IN_PATH}/{BOB_IN_PATH}?ver=I.1", b""),
    "send_join": ("POST", "/v3/send_join/txn1", b"{}"),
    "send_leave": ("POST", "/v3/send_leave/txn1", b"{}"),
    "send_knock": ("POST", "/v3/send_knock/txn1", b"{}"),
    "event": ("GET", f"/v2/event/{EVENT}", b""),
    "state": ("GET", f"/v1/state/{ROOM_IN_PATH}?event_id={EVENT}", b""),
    "state_ids": ("GET", f"/v1/state_ids/{ROOM_IN_PATH}?event_id={EVENT}", b""),
    "device": ("GET", f"/v1/user/{BOB_IN_PATH}/device/BOBS", b""),
    "claim_keys": ("POST", "/v1/user/keys/claim", b'{"one_time_keys":{"@alice:hub.example":{"PHONE":"a"}}}'),
    "backfill": ("GET", f"/v2/backfill/{ROOM_IN_PATH}?v={EVENT}&limit=10", b""),
}
"""One good request for each endpoint, in the stable form."""


def unstable(path: str) -> str:
    """The same endpoint's path in the unstable form."""
    return f"{UNSTABLE_PREFIX}/{path.split('/', 2)[2]}"


def forms(name: str) -> list[tuple[str, str, bytes]]:
    """An endpoint's good request in both forms."""
    method, path, body = GOOD_REQUESTS[name]
    return [(method, path, body), (method, unstable(path), body)]


def with_body(name: str) -> bool:
    """Whether an endpoint asks for a body."""
    return GOOD_REQUESTS[name][0] != "GET"


JSON_THAT_IS_NO_OBJECT: tuple[bytes, ...] = (b"[]", b'"x"', b"1", b"null", b"true")
NOT_JSON: tuple[bytes, ...] = (b"", b"{", b"nonsense", b'{"a":1}x', b"\xff\xfe", b"{'a':1}")
UNSAFE_JSON: tuple[bytes, ...] = (
    b'{"a":1,"a":2}',
    b'{"a":9007199254740993}',
    b'{"a":"\\ud800"}',
)
