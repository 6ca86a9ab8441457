"""The requests that the rooms and the delivery make of others: paths, bodies, and the shape of what comes back."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.errors import PeerError, PeerMisbehaved, PeerRefused, PeerUnreachable
from lmatrix.events.building import build_lpdu
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import V02, PathForm, room_version
from lmatrix.federation.peer_traits import PeerTraitsMemory
from lmatrix.federation.peers import HttpPeers
from lmatrix.rooms.interfaces import MembershipTemplate
from tests.federation.fakes import NOW_MS, signing_key

T = TypeVar("T")

THEM = "hub.example"
ROOM = "!r_oom:hub.example"
UNSTABLE = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"
I1 = room_version("I.1")
V2 = room_version(V02)


@attrs.frozen(kw_only=True)
class Made:
    """One request that was made."""

    destination: str
    method: str
    path: str
    query: list[tuple[str, str]]
    content: Any
    timeout_s: float | None
    max_answer: int | None
    repeatable: bool | None


class FakeClient:
    """Gives the prepared answers or errors in turn."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.answers: list[Any] = []

    async def request(self, destination: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The next answer."""
        body = options.get("content_bytes")
        self.made.append(
            Made(
                destination=destination,
                method=method,
                path=path,
                query=list(options.get("query", ())),
                content=None if body is None else json.loads(body),
                timeout_s=options.get("timeout_s"),
                max_answer=options.get("max_answer"),
                repeatable=options.get("repeatable"),
            )
        )
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer


def refused(status: int, errcode: str | None, **body: Any) -> PeerRefused:
    """An error answer."""
    body = {**body, **({"errcode": errcode} if errcode else {})}
    return PeerRefused(THEM, status, errcode or "M_UNKNOWN", "no", body)


UNRECOGNIZED = refused(404, "M_UNRECOGNIZED")


def join_lpdu() -> Lpdu:
    """A join of ours."""
    return build_lpdu(
        I1,
        room_id=ROOM,
        type="m.room.member",
        sender="@u:us.example",
        state_key="@u:us.example",
        content={"membership": "join"},
        origin_server_ts=NOW_MS,
        hub_server=THEM,
        server_name="us.example",
        keys=[signing_key("1")],
    )


class PeersTestCase(SynchronousTestCase):
    """Common to the tests of this file."""

    def setUp(self) -> None:
        self.client = FakeClient()
        self.traits = PeerTraitsMemory()
        self.peers = HttpPeers(self.client, self.traits)

    def result(self, request: Coroutine[Any, Any, T], *answers: Any) -> T:
        """What a request returns when it gets these answers."""
        self.client.answers = list(answers)
        result = self.successResultOf(Deferred.fromCoroutine(request))
        self.assertEqual(self.client.answers, [])
        return result

    def assert_fails(self, kind: type[PeerError], request: Coroutine[Any, Any, Any], *answers: Any) -> PeerError:
        """A request fails in this way when it gets these answers."""
        self.client.answers = list(answers)
        error = self.failureResultOf(Deferred.fromCoroutine(request), kind).value
        self.assertEqual(self.client.answers, [])
        assert isinstance(error, PeerError)
        return error

    def paths(self) -> list[str]:
        """The paths of the requests made since the last time."""
        made, self.client.made = self.client.made, []
        return [request.path for request in made]


class PathFormTests(PeersTestCase):
    """Stable and unstable paths."""

    def test_follows_the_room_version(self) -> None:
        """The stable path for I.1 rooms, the unstable one for v02 rooms."""
        self.result(self.peers.event(THEM, I1, "$e"), {})
        self.result(self.peers.event(THEM, V2, "$e"), {})
        self.assertEqual(self.paths(), ["/_matrix/federation/v2/event/%24e", f"{UNSTABLE}/event/%24e"])

    def test_other_form_when_unrecognized(self) -> None:
        """The other form is tried, remembered for the destination, and given up when it fails in its turn."""
        stable, unstable = "/_matrix/federation/v2/event/%24e", f"{UNSTABLE}/event/%24e"
        self.result(self.peers.event(THEM, I1, "$e"), UNRECOGNIZED, {})
        self.assertEqual(self.paths(), [stable, unstable])
        self.result(self.peers.event(THEM, I1, "$e"), {})
        self.result(self.peers.send_transaction(THEM, "t", b"{}", PathForm.STABLE), {})
        self.assertEqual(self.paths(), [unstable, f"{UNSTABLE}/send/t"])
        self.result(self.peers.event(THEM, V2, "$e"), UNRECOGNIZED, {})
        self.assertEqual(self.traits.of(THEM).path_form, PathForm.STABLE)

    def test_ways_of_not_recognizing(self) -> None:
        """404, 405 and 400 with the errcode, and a 404 or 405 that no program was meant to read."""
        for error in (
            refused(404, "M_UNRECOGNIZED"),
            refused(405, "M_UNRECOGNIZED"),
            refused(400, "M_UNRECOGNIZED"),
            refused(404, None),
            refused(405, None),
        ):
            self.traits = PeerTraitsMemory()
            self.peers = HttpPeers(self.client, self.traits)
            self.result(self.peers.event(THEM, I1, "$e"), error, {})
            self.assertEqual(self.traits.of(THEM).path_form, PathForm.UNSTABLE)

    def test_other_refusals_are_final(self) -> None:
        """Every other error is an answer to the request."""
        for error in (
            refused(404, "M_NOT_FOUND"),
            refused(400, None),
            refused(403, "M_UNRECOGNIZED"),
            refused(500, None),
            PeerUnreachable(THEM, "x"),
            PeerMisbehaved(THEM, "x"),
        ):
            self.assert_fails(type(error), self.peers.event(THEM, I1, "$e"), error)
        self.assertIsNone(self.traits.of(THEM).path_form)

    def test_both_unrecognized(self) -> None:
        """Nothing is learned, and the first refusal stands."""
        first = refused(404, "M_UNRECOGNIZED", first=True)
        error = self.assert_fails(PeerRefused, self.peers.event(THEM, I1, "$e"), first, UNRECOGNIZED)
        self.assertIs(error, first)
        self.assertIsNone(self.traits.of(THEM).path_form)

    def test_refused_in_the_other_form(self) -> None:
        """A refusal in the other form shows that it was understood, and stands."""
        error = self.assert_fails(
            PeerRefused, self.peers.event(THEM, I1, "$e"), UNRECOGNIZED, refused(403, "M_FORBIDDEN")
        )
        assert isinstance(error, PeerRefused)
        self.assertEqual(error.errcode, "M_FORBIDDEN")
        self.assertEqual(self.traits.of(THEM).path_form, PathForm.UNSTABLE)


class SendTransactionTests(PeersTestCase):
    """``PUT /send``."""

    def send(self, answer: Any) -> dict[str, Any]:
        """What a transaction that gets this answer comes back with."""
        sending = self.peers.send_transaction(THEM, "t/1", b'{"pdus":[]}', PathForm.STABLE)
        return self.result(sending, answer)

    def test_request(self) -> None:
        """The transaction ID is one segment of the path, the body is the one given."""
        self.send({})
        (made,) = self.client.made
        self.assertEqual((made.method, made.path), ("PUT", "/_matrix/federation/v2/send/t%2F1"))
        self.assertEqual(made.content, {"pdus": []})

    def test_answer(self) -> None:
        """Reasons and accepted events come through."""
        answer = {"failed_pdus": {"$a": {"error": "no"}}, "org.lmatrix.accepted": {"$b": "$c"}}
        self.assertEqual(self.send(answer), answer)

    def test_other_answers(self) -> None:
        """What has another shape is an answer all the same: the transaction was taken. It just says less."""
        nothing: dict[str, Any] = {"failed_pdus": {}, "org.lmatrix.accepted": {}}
        for answer in ({}, {"pdus": {}}, {"failed_pdus": [], "org.lmatrix.accepted": []}, {"failed_pdus": None}):
            self.assertEqual(self.send(answer), nothing)
        odd = {"failed_pdus": {"$a": {}, "$b": "text", "$c": {"error": 5}}, "org.lmatrix.accepted": {"$b": 5}}
        failed = self.send(odd)["failed_pdus"]
        self.assertEqual(failed["$b"], {"error": "text"})
        for event_id in ("$a", "$c"):
            self.assertIsInstance(failed[event_id]["error"], str)


class MakeMembershipTests(PeersTestCase):
    """``GET /make_*``."""

    def setUp(self) -> None:
        super().setUp()
        self.template: dict[str, Any] = {"type": "m.room.member", "content": {"membership": "join"}}

    def make(self, membership: str, answer: Any) -> MembershipTemplate:
        """The template that comes of an answer."""
        making = self.peers.make_membership(THEM, membership, ROOM, "@u:us.example", ["I.1", "org.x"])
        return self.result(making, answer)

    def test_request(self) -> None:
        """Room and user are in the path, the versions in the query, but for a leave."""
        for membership in ("join", "knock", "leave"):
            self.make(membership, {"event": {}, "room_version": "I.1"})
            made = self.client.made.pop()
            self.assertEqual(
                made.path, f"/_matrix/federation/v1/make_{membership}/%21r_oom%3Ahub.example/%40u%3Aus.example"
            )
            self.assertEqual(made.query, [] if membership == "leave" else [("ver", "I.1"), ("ver", "org.x")])

    def test_wrapped(self) -> None:
        """The wrapped form, with or without the version."""
        answer = {"event": self.template, "room_version": "I.1"}
        self.assertEqual(self.make("join", answer), MembershipTemplate(self.template, "I.1"))
        self.assertEqual(self.make("leave", {"event": self.template}), MembershipTemplate(self.template, None))

    def test_bare(self) -> None:
        """The bare form, in which the version may stand beside the event's fields."""
        self.assertEqual(self.make("join", self.template), MembershipTemplate(self.template, None))
        self.assertEqual(
            self.make("join", {**self.template, "room_version": "I.1"}), MembershipTemplate(self.template, "I.1")
        )

    def test_malformed(self) -> None:
        """Anything else."""
        for answer in ({}, {"event": []}, {"event": None}, {"event": self.template, "room_version": 5}, {"x": 1}):
            making = self.peers.make_membership(THEM, "join", ROOM, "@u:us.example", ["I.1"])
            self.assert_fails(PeerMisbehaved, making, answer)


class SendMembershipTests(PeersTestCase):
    """``POST /send_*``."""

    def send(self, membership: str) -> Coroutine[Any, Any, dict[str, Any]]:
        """The request."""
        return self.peers.send_membership(THEM, membership, I1, join_lpdu())

    def test_request(self) -> None:
        """The LPDU is the body, its event ID the transaction ID; sending it twice does no harm."""
        self.result(self.send("join"), {"state": [], "auth_chain": [], "event": {}})
        (made,) = self.client.made
        self.assertEqual(made.method, "POST")
        lpdu = join_lpdu()
        self.assertEqual(made.path, "/_matrix/federation/v3/send_join/%24" + lpdu.event_id[1:])
        self.assertEqual(canonical_json.encode(made.content), lpdu.canonical)
        self.assertTrue(made.repeatable)

    def test_join(self) -> None:
        """State and auth chain have to be there; prototypes may leave the event out."""
        for good in ({"state": [{}], "auth_chain": []}, {"state": [], "auth_chain": [{}], "event": {"x": 1}}):
            self.assertEqual(self.result(self.send("join"), dict(good)), good)
        for bad in (
            {},
            {"state": []},
            {"auth_chain": []},
            {"state": {}, "auth_chain": []},
            {"state": [1], "auth_chain": []},
            {"state": [], "auth_chain": [None]},
            {"state": [], "auth_chain": [], "event": []},
        ):
            self.assert_fails(PeerMisbehaved, self.send("join"), bad)

    def test_leave(self) -> None:
        """Any object will do."""
        self.assertEqual(self.result(self.send("leave"), {"x": 1}), {"x": 1})

    def test_knock(self) -> None:
        """Stripped state under either name."""
        state = [{"type": "m.room.name"}]
        for name in ("stripped_state", "knock_room_state"):
            self.assertEqual(self.result(self.send("knock"), {name: state})["stripped_state"], state)
        for bad in ({}, {"stripped_state": {}}, {"stripped_state": ["x"]}):
            self.assert_fails(PeerMisbehaved, self.send("knock"), bad)

    def test_answers_of_a_size(self) -> None:
        """The state of a large room may be long; the answer to a leave may not."""
        self.result(self.send("join"), {"state": [], "auth_chain": []})
        self.result(self.send("leave"), {})
        join, leave = self.client.made
        assert join.max_answer is not None
        assert leave.max_answer is not None
        self.assertGreater(join.max_answer, 10 * leave.max_answer)


class InviteTests(PeersTestCase):
    """``POST /invite``."""

    def invite(self, event: dict[str, Any] | None = None) -> Coroutine[Any, Any, dict[str, Any]]:
        """The request."""
        return self.peers.invite(THEM, V2, event or {"type": "m.room.member"}, ({"type": "m.room.name"},))

    def test_request(self) -> None:
        """The I-D's body; the same invite has the same transaction ID, another one another."""
        for event in ({"a": 1}, {"a": 1}, {"a": 2}):
            self.result(self.invite(event), {"pdu": {}})
        first, same, other = self.client.made
        self.assertEqual(first.method, "POST")
        self.assertTrue(first.path.startswith(f"{UNSTABLE}/invite/"))
        self.assertEqual(
            first.content, {"event": {"a": 1}, "invite_room_state": [{"type": "m.room.name"}], "room_version": V02}
        )
        self.assertEqual(first.path, same.path)
        self.assertNotEqual(first.path, other.path)

    def test_answer(self) -> None:
        """The signed event under either name."""
        self.assertEqual(self.result(self.invite(), {"pdu": {"x": 1}, "event": {"x": 2}}), {"x": 1})
        self.assertEqual(self.result(self.invite(), {"event": {"x": 2}}), {"x": 2})
        for bad in ({}, {"pdu": []}, {"pdu": None, "event": {}}, {"event": "x"}):
            self.assert_fails(PeerMisbehaved, self.invite(), bad)


class HistoryTests(PeersTestCase):
    """``GET /backfill``, ``/event``, ``/state``."""

    def test_backfill(self) -> None:
        """The events in the order in which they came."""
        asking = self.peers.backfill(THEM, I1, ROOM, "$v", 50)
        self.assertEqual(self.result(asking, {"pdus": [{"b": 1}, {"a": 1}]}), [{"b": 1}, {"a": 1}])
        (made,) = self.client.made
        self.assertEqual(made.path, "/_matrix/federation/v2/backfill/%21r_oom%3Ahub.example")
        self.assertEqual(made.query, [("v", "$v"), ("limit", "50")])
        for bad in ({}, {"pdus": {}}, {"pdus": [[]]}):
            self.assert_fails(PeerMisbehaved, self.peers.backfill(THEM, I1, ROOM, "$v", 50), bad)

    def test_event(self) -> None:
        """The answer is the event."""
        self.assertEqual(self.result(self.peers.event(THEM, I1, "$e"), {"type": "x"}), {"type": "x"})

    def test_state(self) -> None:
        """State and auth chain, at the one path that there is for either version."""
        answer = {"pdus": [{"a": 1}], "auth_chain": [{"b": 1}]}
        for version in (I1, V2):
            self.assertEqual(self.result(self.peers.state(THEM, version, ROOM, "$e"), answer), ([{"a": 1}], [{"b": 1}]))
            made = self.client.made.pop()
            self.assertEqual(made.path, "/_matrix/federation/v1/state/%21r_oom%3Ahub.example")
            self.assertEqual(made.query, [("event_id", "$e")])
        for bad in ({}, {"pdus": []}, {"auth_chain": []}, {"pdus": [1], "auth_chain": []}):
            self.assert_fails(PeerMisbehaved, self.peers.state(THEM, I1, ROOM, "$e"), bad)
