"""``event``, ``state``, ``state_ids``, ``backfill``, ``event_auth``: what the endpoints read and pass on."""

from __future__ import annotations

from lmatrix.http.limits import RateLimiter
from tests.federation.resources.api_bench import EVENT, ORIGIN, ROOM, ROOM_IN_PATH, ApiTestCase, unstable

BACKFILL = f"/v2/backfill/{ROOM_IN_PATH}"


class ReadTests(ApiTestCase):
    """Good requests."""

    def test_event(self) -> None:
        """The event is the whole body of the answer."""
        answer = self.ask("GET", f"/v2/event/{EVENT}")
        self.assert_called("event", ORIGIN, EVENT)
        self.assertEqual(b'{"type":"m.room.message"}', answer.body)

    def test_event_percent_encoded(self) -> None:
        """An event ID may be percent-encoded."""
        self.ask("GET", f"/v2/event/{EVENT.replace('$', '%24')}")
        self.assert_called("event", ORIGIN, EVENT)

    def test_state(self) -> None:
        """Room and event reach the rooms, for ``state`` and for ``state_ids``."""
        for name in ("state", "state_ids"):
            self.assertEqual(200, self.ask("GET", f"/v1/{name}/{ROOM_IN_PATH}?event_id={EVENT}").status)
            self.assert_called(name, ORIGIN, ROOM, EVENT)

    def test_backfill(self) -> None:
        """Room, event and limit reach the rooms; a limit beyond a hundred is a hundred."""
        for asked, given in ((1, 1), (100, 100), (101, 100), (10**15, 100)):
            self.assertEqual(200, self.ask("GET", f"{BACKFILL}?v={EVENT}&limit={asked}").status)
            self.assert_called("backfill", ORIGIN, ROOM, EVENT, given)

    def test_backfill_from_several(self) -> None:
        """Of several ``v``, which a DAG-capable server may give, the first counts."""
        self.assertEqual(200, self.ask("GET", f"{BACKFILL}?v={EVENT}&v=$other&limit=5").status)
        self.assert_called("backfill", ORIGIN, ROOM, EVENT, 5)

    def test_event_auth(self) -> None:
        """Matrix's endpoint: room and event reach the rooms; authenticated, limited, and in one form only."""
        path = f"/v1/event_auth/{ROOM_IN_PATH}/{EVENT}"
        self.assertEqual(b'{"auth_chain":[]}', self.ask("GET", path).body)
        self.assert_called("event_auth", ORIGIN, ROOM, EVENT)
        self.assert_error(self.ask("GET", path, origin=None), 401, "M_FORBIDDEN")
        self.assert_error(self.ask("GET", unstable(path)), 404, "M_UNRECOGNIZED")
        self.build(limiter=RateLimiter(1, 1, self.clock))
        self.assertEqual([200, 429], [self.ask("GET", path).status for _ in range(2)])


class BadRequestTests(ApiTestCase):
    """Requests that ask for nothing that could be."""

    def test_refused(self) -> None:
        """Missing, repeated or malformed parameters are ``M_BAD_JSON``, and the rooms are not asked."""
        for path in (
            "/v2/event/nonsense",
            "/v2/event/%24",
            "/v2/event/$not!base64",
            f"/v1/state/{ROOM_IN_PATH}",
            f"/v1/state/{ROOM_IN_PATH}?event_id=",
            f"/v1/state/{ROOM_IN_PATH}?event_id=nonsense",
            f"/v1/state/{ROOM_IN_PATH}?event_id={EVENT}&event_id={EVENT}",
            f"/v1/state/nonsense?event_id={EVENT}",
            f"/v1/state_ids/{ROOM_IN_PATH}",
            f"/v1/state_ids/{ROOM_IN_PATH}?event_id=nonsense",
            f"/v1/state_ids/nonsense?event_id={EVENT}",
            f"{BACKFILL}?limit=10",
            f"{BACKFILL}?v={EVENT}",
            f"{BACKFILL}?v={EVENT}&limit=",
            f"{BACKFILL}?v={EVENT}&limit=0",
            f"{BACKFILL}?v={EVENT}&limit=-1",
            f"{BACKFILL}?v={EVENT}&limit=ten",
            f"{BACKFILL}?v={EVENT}&limit=1.5",
            f"{BACKFILL}?v={EVENT}&limit=10&limit=10",
            f"{BACKFILL}?v=nonsense&limit=10",
            f"/v2/backfill/nonsense?v={EVENT}&limit=10",
            f"/v1/event_auth/nonsense/{EVENT}",
            f"/v1/event_auth/{ROOM_IN_PATH}/nonsense",
        ):
            self.assert_error(self.ask("GET", path), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)
