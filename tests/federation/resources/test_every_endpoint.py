"""What holds for every federation endpoint, in both of its forms."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import (
    BadSignature,
    EventRejected,
    Forbidden,
    IncompatibleRoomVersion,
    NotFound,
    Overloaded,
    PeerRefused,
    SchemaViolation,
    ShuttingDown,
    TransactionInFlight,
    WrongServer,
)
from lmatrix.federation.authentication import Authenticator
from lmatrix.federation.resources.paths import UNSTABLE_PREFIX
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from lmatrix.http.limits import RateLimiter
from tests.events.builders import KEYS, PARTICIPANT
from tests.federation.resources.api_bench import (
    GOOD_REQUESTS,
    JSON_THAT_IS_NO_OBJECT,
    NOT_JSON,
    ORIGIN,
    UNSAFE_JSON,
    ApiTestCase,
    forms,
    with_body,
)
from tests.http.memory_http import Wire

UNLIMITED = {"send"}
"""Endpoints that the I-D calls not rate-limited."""


class EveryEndpointTests(ApiTestCase):
    """Each endpoint, stable and unstable."""

    def test_twins(self) -> None:
        """Both forms of an endpoint ask the rooms the same and give the same answer."""
        for name in GOOD_REQUESTS:
            answers = [self.ask(*request) for request in forms(name)]
            self.assertEqual([200, 200], [answer.status for answer in answers], name)
            self.assertEqual(answers[0].body, answers[1].body, name)
            first, second = self.rooms.calls
            self.assertEqual(first, second, name)
            self.rooms.calls.clear()

    def test_unstable_paths(self) -> None:
        """The unstable form is the one that the I-D's implementation notes give."""
        prefix = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"
        self.assertEqual(prefix, UNSTABLE_PREFIX)
        for path in ("send", "invite", "send_join", "send_leave", "send_knock"):
            answer = self.ask("OPTIONS", f"{prefix}/{path}/txn")
            self.assert_error(answer, 405, "M_UNRECOGNIZED")
        for path in ("event/$x", "backfill/!x", "make_join/!r/@u", "state/!r", "state_ids/!r"):
            self.assert_error(self.ask("OPTIONS", f"{prefix}/{path}"), 405, "M_UNRECOGNIZED")

    def test_unauthenticated(self) -> None:
        """Who does not say who it is gets 401, and the rooms are not asked."""
        for name in GOOD_REQUESTS:
            for request in forms(name):
                self.assert_error(self.ask(*request, origin=None), 401, "M_FORBIDDEN")
        self.assertEqual([], self.rooms.calls)

    def test_other_methods(self) -> None:
        """A known path with another method is 405."""
        for name in GOOD_REQUESTS:
            for method, path, body in forms(name):
                other = "PUT" if method != "PUT" else "POST"
                self.assert_error(self.ask(other, path, body), 405, "M_UNRECOGNIZED")
        self.assertEqual([], self.rooms.calls)

    def test_other_paths(self) -> None:
        """A slash at the end, two in a row, and other versions are unknown endpoints."""
        for name in GOOD_REQUESTS:
            for method, path, body in forms(name):
                place, _, query = path.partition("?")
                for wrong in (f"{place}/?{query}", f"{place.replace('/', '//', 1)}?{query}", f"{place}/more?{query}"):
                    self.assert_error(self.ask(method, wrong, body), 404, "M_UNRECOGNIZED")
        self.assert_error(self.ask("PUT", "/v1/send/txn", b"{}"), 404, "M_UNRECOGNIZED")

    def test_bodies(self) -> None:
        """A body that is not JSON, not safe, or no object, is refused as such, and the rooms are not asked."""
        for name in filter(with_body, GOOD_REQUESTS):
            for method, path, _ in forms(name):
                for body in NOT_JSON:
                    self.assert_error(self.ask(method, path, body), 400, "M_NOT_JSON")
                for body in (*JSON_THAT_IS_NO_OBJECT, *UNSAFE_JSON):
                    self.assert_error(self.ask(method, path, body), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)

    def test_bodies_where_none_is_asked_for(self) -> None:
        """An empty object does no harm; what is not JSON is refused; the signature is checked with what there is."""
        for name in GOOD_REQUESTS:
            if with_body(name):
                continue
            method, path, _ = GOOD_REQUESTS[name]
            self.assertEqual(200, self.ask(method, path, b"{}").status)
            self.assertEqual({}, self.authenticator.contents[-1])
            self.assertEqual(200, self.ask(method, path).status)
            self.assertIsNone(self.authenticator.contents[-1])
            self.assert_error(self.ask(method, path, b"nonsense"), 400, "M_NOT_JSON")

    def test_too_large(self) -> None:
        """A body beyond the endpoint's bound is 413."""
        for name in GOOD_REQUESTS:
            for method, path, _ in forms(name):
                size = 11 * 1024 * 1024 if name == "send" else 2 * 1024 * 1024
                body = b'{"a":"' + b"x" * size + b'"}'
                self.assert_error(self.ask(method, path, body), 413, "M_TOO_LARGE")
        self.assertEqual([], self.rooms.calls)

    def test_large_enough(self) -> None:
        """Fifty events of the greatest size fit in a transaction, one in the others."""
        for name in filter(with_body, GOOD_REQUESTS):
            method, path, _ = GOOD_REQUESTS[name]
            events = 50 if name == "send" else 1
            body = b'{"pdus":["' + b'","'.join([b"x" * 65536] * events) + b'"]}'
            # The endpoint of claims looks into its body itself; but it was taken.
            self.assertEqual(400 if name == "claim_keys" else 200, self.ask(method, path, body).status, name)

    def test_rate_limits(self) -> None:
        """A server that asks too often is told when to come back, at every endpoint that the I-D calls limited.

        Another server is not concerned.
        """
        for name in GOOD_REQUESTS:
            self.build(limiter=RateLimiter(1, 3, self.clock))
            stable, other = forms(name)
            answers = [self.ask(*(stable if number % 2 else other)) for number in range(4)]
            self.assertEqual([200] * 3, [answer.status for answer in answers[:3]])
            if name in UNLIMITED:
                self.assertEqual(200, answers[3].status)
                continue
            self.assert_error(answers[3], 429, "M_LIMIT_EXCEEDED")
            self.assertEqual(1000, answers[3].json["retry_after_ms"])
            self.assertEqual(200, self.ask(*stable, origin="other.example").status)
            self.clock.advance(1)
            self.assertEqual(200, self.ask(*stable).status)

    def test_errors_of_the_rooms(self) -> None:
        """What the rooms refuse is answered as the I-D says, with what helps the peer; nothing internal leaks."""
        table: Sequence[tuple[Exception, int, str, dict[str, object]]] = (
            (NotFound("x"), 404, "M_NOT_FOUND", {}),
            (Forbidden("x"), 403, "M_FORBIDDEN", {}),
            (EventRejected("5.3", "x"), 403, "M_FORBIDDEN", {}),
            (BadSignature("a.example", "x"), 403, "M_FORBIDDEN", {}),
            (SchemaViolation("type", "x"), 400, "M_BAD_JSON", {}),
            (WrongServer("!r", "hub.example"), 400, "M_WRONG_SERVER", {"hub_server": "hub.example"}),
            (IncompatibleRoomVersion("I.1"), 400, "M_INCOMPATIBLE_ROOM_VERSION", {"room_version": "I.1"}),
            (TransactionInFlight("x"), 400, "M_BAD_STATE", {}),
            (Overloaded(5), 429, "M_LIMIT_EXCEEDED", {"retry_after_ms": 5}),
            (PeerRefused("a.example", 403, "M_FORBIDDEN", "no", {}), 403, "M_FORBIDDEN", {}),
            (ShuttingDown("x"), 503, "M_UNKNOWN", {}),
            (ZeroDivisionError("secret"), 500, "M_UNKNOWN", {}),
        )
        for error, status, errcode, extra in table:
            self.rooms.error = error
            for name in GOOD_REQUESTS:
                answer = self.ask(*GOOD_REQUESTS[name])
                self.assert_error(answer, status, errcode)
                self.assertEqual(extra, {key: answer.json[key] for key in extra})
                self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(GOOD_REQUESTS), len(self.flushLoggedErrors(ZeroDivisionError)))


class KnownKeys:
    """The keys of one server."""

    async def current_keys(self, server: str, key_ids: object) -> dict[str, VerifyKey]:
        return {KEYS[PARTICIPANT].key_id: KEYS[PARTICIPANT].public} if server == PARTICIPANT else {}


class SignedRequestTests(ApiTestCase):
    """The endpoints behind the real authentication."""

    def setUp(self) -> None:
        super().setUp()
        self.build(authenticator=Authenticator("hub.example", KnownKeys()))

    def signed(self, name: str, content: bytes | None, *, destination: str = "hub.example", body: bytes) -> int:
        """The status of a request that is signed as ``content``, and sent with ``body``."""
        method, path, _ = GOOD_REQUESTS[name]
        target = f"/_matrix/federation{path}"
        key = KEYS[PARTICIPANT]
        message = request_signing_bytes(method, target, PARTICIPANT, destination, content)
        header = format_authorization(XMatrix(PARTICIPANT, destination, key.key_id, key.sign(message)))
        return self.ask(method, target, body, origin=None, headers=f"Authorization: {header}\r\n").status

    def test_signed(self) -> None:
        """A request that is signed as it is sent is admitted as its origin's; a bodiless one in either form."""
        for name, (_, _, body) in GOOD_REQUESTS.items():
            if with_body(name):
                self.assertEqual(200, self.signed(name, body, body=body), name)
            else:
                self.assertEqual(200, self.signed(name, None, body=b""), name)
                self.assertEqual(200, self.signed(name, b"{}", body=b""), name)
        told = [call for call in self.rooms.calls if call[0] not in ("local_device", "hand_out")]
        self.assertEqual({PARTICIPANT}, {call[1] for call in told})

    def test_tampered(self) -> None:
        """A request that is signed otherwise than it is sent, or for somebody else, is not admitted."""
        for name, (_, _, body) in GOOD_REQUESTS.items():
            if with_body(name):
                self.assertEqual(401, self.signed(name, b'{"pdus":[1]}', body=body), name)
            self.assertEqual(401, self.signed(name, body or None, destination="other.example", body=body), name)
        self.assertEqual([], self.rooms.calls)


class SlowRoomsTests(ApiTestCase):
    """An answer that takes its time."""

    def test_the_answer_waits(self) -> None:
        """Nothing is answered before the rooms are done."""
        done: Deferred[bytes] = Deferred()

        async def receive(origin: str, transaction_id: str, body: object, raw: bytes | None = None) -> bytes:
            return await done

        self.rooms.receive = receive  # type: ignore[method-assign]
        self.build()
        wire = self.wire_for("send")
        self.assertEqual([], wire.answers())
        done.callback(b'{"failed_pdus":{}}')
        self.assertEqual(b'{"failed_pdus":{}}', wire.answer().body)

    def wire_for(self, name: str) -> Wire:
        """A connection with one request under way."""
        method, path, body = GOOD_REQUESTS[name]
        wire = Wire(self.site)
        wire.request(method, f"/_matrix/federation{path}", body, f"Authorization: {ORIGIN}\r\n")
        return wire
