"""``query/profile``, ``query/directory`` and ``publicRooms``."""

from __future__ import annotations

from lmatrix.directory.public_rooms import DEFAULT_PAGE, MAX_PAGE, RoomQuery
from lmatrix.errors import NotFound
from lmatrix.http.limits import RateLimiter
from tests.federation.resources.api_bench import ROOM, ApiTestCase, unstable

PROFILE = "/v1/query/profile?user_id=%40alice%3Ahub.example"
DIRECTORY = "/v1/query/directory?room_alias=%23here%3Ahub.example"


class QueryTests(ApiTestCase):
    def test_profile(self) -> None:
        """All of the profile, or the field that is asked for."""
        whole = {"displayname": "Alice", "avatar_url": "mxc://hub.example/alice"}
        self.assertEqual(whole, self.ask("GET", PROFILE).json)
        self.assert_called("profile", "@alice:hub.example")
        for name, value in whole.items():
            self.assertEqual({name: value}, self.ask("GET", f"{PROFILE}&field={name}").json)

    def test_directory(self) -> None:
        """The room, and the servers."""
        answer = self.ask("GET", DIRECTORY)
        self.assertEqual({"room_id": ROOM, "servers": ["hub.example", "north.example"]}, answer.json)
        self.assert_called("alias", "#here:hub.example")

    def test_like_the_others(self) -> None:
        """Authenticated, limited, in one form only; what is not there is 404."""
        for path in (PROFILE, DIRECTORY):
            self.assert_error(self.ask("GET", path, origin=None), 401, "M_FORBIDDEN")
            self.assert_error(self.ask("GET", unstable(path)), 404, "M_UNRECOGNIZED")
            self.assertEqual([], self.rooms.calls)
            self.rooms.error = NotFound("nobody")
            self.assert_error(self.ask("GET", path), 404, "M_NOT_FOUND")
            self.rooms.error = None
            self.build(limiter=RateLimiter(1, 1, self.clock))
            self.assertEqual([200, 429], [self.ask("GET", path).status for _ in range(2)])
            self.build()
            self.rooms.calls.clear()

    def test_bad_requests(self) -> None:
        """What is missing, malformed, another server's or unknown as a field is told apart; nobody is asked."""
        for path in ("/v1/query/profile", "/v1/query/profile?field=displayname", "/v1/query/directory"):
            self.assert_error(self.ask("GET", path), 400, "M_MISSING_PARAM")
        for path in (
            "/v1/query/profile?user_id=alice",
            "/v1/query/profile?user_id=",
            "/v1/query/profile?user_id=%40bob%3Anorth.example",
            f"{PROFILE}&user_id=%40alice%3Ahub.example",
            f"{PROFILE}&field=",
            f"{PROFILE}&field=email",
            "/v1/query/directory?room_alias=here",
            "/v1/query/directory?room_alias=%23here",
            "/v1/query/directory?room_alias=%23here%3Anorth.example",
            f"{DIRECTORY}&room_alias=%23here%3Ahub.example",
        ):
            self.assert_error(self.ask("GET", path), 400, "M_INVALID_PARAM")
        self.assertEqual([], self.rooms.calls)


class PublicRoomsTests(ApiTestCase):
    def test_read(self) -> None:
        """What is asked for in either form reaches the list; a page has a largest size."""
        for request, query in (
            (("GET", "/v1/publicRooms"), RoomQuery(DEFAULT_PAGE, 0)),
            (("GET", "/v1/publicRooms?limit=5&since=10&include_all_networks=true"), RoomQuery(5, 10)),
            (("GET", "/v1/publicRooms?limit=100000"), RoomQuery(MAX_PAGE, 0)),
            (("GET", "/v1/publicRooms?third_party_instance_id=irc"), RoomQuery(nowhere=True)),
            (("POST", "/v1/publicRooms", b"{}"), RoomQuery()),
            (
                (
                    "POST",
                    "/v1/publicRooms",
                    b'{"limit":7,"since":"3","filter":{"generic_search_term":"MLS","room_types":[null,"m.space"]}}',
                ),
                RoomQuery(7, 3, "mls", frozenset({None, "m.space"})),
            ),
        ):
            answer = self.ask(*request)
            self.assertEqual({"chunk": [], "total_room_count_estimate": 0}, answer.json)
            self.assert_called("page", query)

    def test_like_the_others(self) -> None:
        """Authenticated and limited."""
        for request in (("GET", "/v1/publicRooms"), ("POST", "/v1/publicRooms", b"{}")):
            self.assert_error(self.ask(*request, origin=None), 401, "M_FORBIDDEN")
            self.build(limiter=RateLimiter(1, 1, self.clock))
            self.assertEqual([200, 429], [self.ask(*request).status for _ in range(2)])
            self.build()

    def test_bad_requests(self) -> None:
        """What has the wrong type, or is of no use."""
        for body, errcode in (
            (b'{"limit":"5"}', "M_BAD_JSON"),
            (b'{"limit":true}', "M_BAD_JSON"),
            (b'{"limit":-1}', "M_INVALID_PARAM"),
            (b'{"since":5}', "M_BAD_JSON"),
            (b'{"since":"next"}', "M_INVALID_PARAM"),
            (b'{"filter":[1]}', "M_BAD_JSON"),
            (b'{"filter":{"generic_search_term":5}}', "M_BAD_JSON"),
            (b'{"filter":{"generic_search_term":"' + b"x" * 256 + b'"}}', "M_INVALID_PARAM"),
            (b'{"filter":{"room_types":"m.space"}}', "M_BAD_JSON"),
            (b'{"filter":{"room_types":[5]}}', "M_BAD_JSON"),
            (b'{"third_party_instance_id":5}', "M_BAD_JSON"),
        ):
            self.assert_error(self.ask("POST", "/v1/publicRooms", body), 400, errcode)
        self.assert_error(self.ask("GET", "/v1/publicRooms?since=-1"), 400, "M_INVALID_PARAM")
        self.assert_error(self.ask("GET", "/v1/publicRooms?limit=x"), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)
