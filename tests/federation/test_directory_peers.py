"""Asking other servers what their users and rooms are called: paths, and what is made of answers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.directory.interfaces import AliasTarget
from lmatrix.directory.profiles import Profile
from lmatrix.errors import NotFound, PeerMisbehaved, PeerRefused, PeerUnreachable
from lmatrix.federation.directory_peers import MAX_SERVERS, HttpDirectoryPeers
from lmatrix.federation.peer_traits import PeerTraitsMemory
from tests.federation.test_peers import FakeClient, refused

PEER = "hub.example"
ALICE = "@alice:hub.example"
HERE = "#here:hub.example"
ROOM = "!room:hub.example"


class DirectoryPeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = FakeClient()
        self.peers = HttpDirectoryPeers(self.client, PeerTraitsMemory())

    def result(self, request: Any, answer: Any) -> Any:
        """What a request returns when it gets this answer."""
        self.client.answers = [answer]
        return self.successResultOf(Deferred.fromCoroutine(request))

    def fails(self, kind: type[Exception], request: Any, answer: Any) -> None:
        """A request fails in this way when it gets this answer."""
        self.client.answers = [answer]
        self.failureResultOf(Deferred.fromCoroutine(request), kind)

    def test_profile(self) -> None:
        """Matrix's request; what is unusable in the answer is as good as not there."""
        answer = {"displayname": "Alice", "avatar_url": "mxc://a/b", "more": {}}
        self.assertEqual(self.result(self.peers.profile(PEER, ALICE), answer), Profile("Alice", "mxc://a/b"))
        [made] = self.client.made
        self.assertEqual((made.method, made.path), ("GET", "/_matrix/federation/v1/query/profile"))
        self.assertEqual((made.destination, made.query), (PEER, [("user_id", ALICE)]))
        self.assertLessEqual(made.max_answer or 2**30, 64 * 1024)
        self.assertLessEqual(made.timeout_s or 3600, 15)
        for unusable in ({}, {"displayname": 5, "avatar_url": None}, {"displayname": "x" * 257, "avatar_url": ""}):
            self.assertEqual(self.result(self.peers.profile(PEER, ALICE), unusable), Profile())

    def test_alias(self) -> None:
        """Matrix's request; bad names of servers are passed over, and the peer itself is always one to try."""
        answer = {"room_id": ROOM, "servers": ["a.example", "no server", 5, "b.example", "a.example"]}
        target = AliasTarget(ROOM, ("a.example", "b.example", PEER))
        self.assertEqual(self.result(self.peers.alias(PEER, HERE), answer), target)
        [made] = self.client.made
        self.assertEqual((made.method, made.path), ("GET", "/_matrix/federation/v1/query/directory"))
        self.assertEqual(made.query, [("room_alias", HERE)])
        many = self.result(
            self.peers.alias(PEER, HERE), {"room_id": ROOM, "servers": [f"s{n}.example" for n in range(1000)]}
        )
        self.assertEqual(len(many.servers), MAX_SERVERS + 1)

    def test_bad_answers(self) -> None:
        """A room ID that is none, or no list of servers, is not used."""
        for answer in ({}, {"room_id": "room", "servers": []}, {"room_id": ROOM}, {"room_id": ROOM, "servers": {}}):
            self.fails(PeerMisbehaved, self.peers.alias(PEER, HERE), answer)

    def test_errors(self) -> None:
        """Every 404 means that the peer does not know; anything else is the peer's error."""
        for ask in (lambda: self.peers.profile(PEER, ALICE), lambda: self.peers.alias(PEER, HERE)):
            for errcode in ("M_NOT_FOUND", "M_UNRECOGNIZED", None):
                self.fails(NotFound, ask(), refused(404, errcode))
            self.fails(PeerRefused, ask(), refused(403, "M_FORBIDDEN"))
            self.fails(PeerUnreachable, ask(), PeerUnreachable(PEER, "connection refused"))
