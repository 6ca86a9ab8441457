"""Declining an invite, whatever the hub answers: a user can always be rid of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.events.forms import Lpdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.rooms.asking import Asker
from lmatrix.rooms.departing import Departer
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, MembershipTemplate, Peers, PendingInvite
from lmatrix.rooms.timestamps import Timestamps

from .network import done

ALICE = "@alice:us.example"
INVITE = PendingInvite(ALICE, "!room:hub.example", "I.1", "hub.example", b"{}", (), 1)


class BadHub:
    """A hub that gives a template of its own making, and takes what comes back."""

    def __init__(self, template: MembershipTemplate) -> None:
        self._template = template
        self.sent: list[Lpdu] = []

    async def make_membership(self, *_: object) -> MembershipTemplate:
        return self._template

    async def send_membership(
        self, destination: str, membership: str, room_version: RoomVersion, lpdu: Lpdu
    ) -> JsonObject:
        self.sent.append(lpdu)
        return {}


class DecliningTests(SynchronousTestCase):
    def decline(self, event: JsonObject, version: str | None) -> tuple[Lpdu, Sequence[Lpdu]]:
        """Decline at a hub that answers with such a template; the event that says so, and what was sent."""
        hub = BadHub(MembershipTemplate(event, version))
        peers = cast(Peers, cast(Any, hub))
        identity = ServerIdentity("us.example", (SigningKey.generate("1", bytes(32)),))
        departer = Departer(Asker(identity, peers, Timestamps(Clock())), peers)
        return done(departer.decline(INVITE, {"membership": "leave"})), hub.sent

    def test_a_good_template(self) -> None:
        """The hub is sent the leave, and nothing of what else the template had."""
        left, sent = self.decline({"hub_server": "hub.example", "org.example": 1}, "I.1")
        self.assertEqual([left], sent)
        self.assertNotIn("org.example", left.fields)

    def test_bad_templates(self) -> None:
        """With a version that nobody knows, or a hub that cannot be one, nothing is sent; the leave counts here."""
        for event, version in (
            ({"hub_server": "hub.example"}, "org.example.unknown"),
            ({"hub_server": "two words"}, "I.1"),
            ({"hub_server": "x" * 300}, "I.1"),
        ):
            left, sent = self.decline(event, version)
            self.assertEqual([], sent)
            self.assertEqual(
                ("leave", ALICE, "hub.example"), (left.content["membership"], left.sender, left.hub_server)
            )
