"""Asking other servers about devices: paths, shapes, and what is not sent twice."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.errors import PeerMisbehaved, PeerRefused, PeerUnreachable
from lmatrix.federation.device_peers import HttpDevicePeers
from lmatrix.federation.peer_traits import PeerTraitsMemory
from tests.federation.test_peers import FakeClient, refused

PEER = "hub.example"
ALICE = "@alice:hub.example"
UNSTABLE = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"
WANTED = {ALICE: {"PHONE": "a"}}


class DevicePeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = FakeClient()
        self.traits = PeerTraitsMemory()
        self.peers = HttpDevicePeers(self.client, self.traits)

    def result(self, request: Any, *answers: Any) -> Any:
        """What a request returns when it gets these answers."""
        self.client.answers = list(answers)
        result = self.successResultOf(Deferred.fromCoroutine(request))
        self.assertEqual(self.client.answers, [])
        return result

    def fails(self, kind: type[Exception], request: Any, *answers: Any) -> None:
        """A request fails in this way when it gets these answers."""
        self.client.answers = list(answers)
        self.failureResultOf(Deferred.fromCoroutine(request), kind)
        self.assertEqual(self.client.answers, [])

    def made(self) -> list[tuple[str, str]]:
        """The requests made since the last time."""
        made, self.client.made = self.client.made, []
        return [(request.method, request.path) for request in made]

    def test_a_device(self) -> None:
        """``GET`` in the stable form, then in the unstable one, which is remembered."""
        device = {"device_id": "A/B"}
        asked = self.result(self.peers.device(PEER, ALICE, "A/B"), refused(404, "M_UNRECOGNIZED"), device)
        self.assertEqual(asked, device)
        tail = "/user/%40alice%3Ahub.example/device/A%2FB"
        self.assertEqual(self.made(), [("GET", f"/_matrix/federation/v1{tail}"), ("GET", f"{UNSTABLE}{tail}")])
        self.result(self.peers.device(PEER, ALICE, "A/B"), device)
        self.assertEqual(self.made(), [("GET", f"{UNSTABLE}{tail}")])
        self.fails(PeerRefused, self.peers.device(PEER, ALICE, "X"), refused(404, "M_NOT_FOUND"))

    def test_all_devices(self) -> None:
        """Matrix's endpoint; a peer without it, and a user whom the peer does not know, are no errors."""
        answer = {"user_id": ALICE, "stream_id": 1, "devices": [{"device_id": "A", "keys": {"a": 1}}]}
        self.assertEqual(self.result(self.peers.devices(PEER, ALICE), answer), [{"a": 1}])
        self.assertEqual(self.made(), [("GET", "/_matrix/federation/v1/user/devices/%40alice%3Ahub.example")])
        for error in (refused(404, "M_UNRECOGNIZED"), refused(405, "M_UNRECOGNIZED"), refused(404, None)):
            self.assertIsNone(self.result(self.peers.devices(PEER, ALICE), error))
        self.assertEqual(self.result(self.peers.devices(PEER, ALICE), refused(404, "M_NOT_FOUND")), ())
        for error in (refused(403, "M_FORBIDDEN"), refused(500, "M_UNKNOWN")):
            self.fails(PeerRefused, self.peers.devices(PEER, ALICE), error)
        for misshaped in ({}, {"devices": {}}, {"devices": [5]}, {"devices": [{}]}, {"devices": [{"keys": 5}]}):
            self.fails(PeerMisbehaved, self.peers.devices(PEER, ALICE), misshaped)

    def test_claims(self) -> None:
        """The I-D's request; an answer of another shape is not used."""
        keys = {ALICE: {"PHONE": {"a": "key", "b:1": {"key": "k"}}}}
        self.assertEqual(self.result(self.peers.claim_keys(PEER, WANTED), {"one_time_keys": keys}), keys)
        [request] = self.client.made
        self.assertEqual((request.method, request.path), ("POST", "/_matrix/federation/v1/user/keys/claim"))
        self.assertEqual(
            canonical_json.encode(request.content), b'{"one_time_keys":{"@alice:hub.example":{"PHONE":"a"}}}'
        )
        self.assertEqual(self.result(self.peers.claim_keys(PEER, WANTED), {"one_time_keys": {}}), {})
        for misshaped in (
            {},
            {"one_time_keys": []},
            {"one_time_keys": {ALICE: []}},
            {"one_time_keys": {ALICE: {"PHONE": "key"}}},
            {"one_time_keys": {ALICE: {"PHONE": {"a": 5}}}},
        ):
            self.fails(PeerMisbehaved, self.peers.claim_keys(PEER, WANTED), misshaped)

    def test_never_twice(self) -> None:
        """A claim whose answer is lost is not made again; only a peer that did not understand it is asked anew."""
        self.fails(PeerUnreachable, self.peers.claim_keys(PEER, WANTED), PeerUnreachable(PEER, "connection lost"))
        [request] = self.client.made
        self.assertIs(request.repeatable, False)
        self.made()
        self.result(self.peers.claim_keys(PEER, WANTED), refused(404, "M_UNRECOGNIZED"), {"one_time_keys": {}})
        self.assertEqual([path for _, path in self.made()][1], f"{UNSTABLE}/user/keys/claim")
