"""The example in docs/policies.rst, as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent

from twisted.internet.defer import Deferred

from lmatrix.config import parse_config
from lmatrix.config.policies import make_modules
from lmatrix.errors import Forbidden, PeerRefused
from lmatrix.policies.panel import Panel
from tests.config.test_config import MINIMAL
from tests.rooms.network import NetworkTestCase, done

_DOCUMENT = Path(__file__).parents[2] / "docs" / "policies.rst"


def block(language: str) -> str:
    """The one block in a language."""
    text = _DOCUMENT.read_text(encoding="utf-8")
    [found] = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text)
    return dedent(found)


class DocumentedExampleTests(NetworkTestCase):
    """The hub runs the example's module with the example's configuration."""

    def setUp(self) -> None:
        super().setUp()
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "house_rules.py").write_text(block("python"), encoding="utf-8")
        sys.path.insert(0, str(directory))
        self.addCleanup(sys.modules.pop, "house_rules", None)
        self.addCleanup(sys.path.remove, str(directory))
        config = parse_config(MINIMAL + block("yaml"), "lmatrix.yaml", Path("/srv"))
        modules = make_modules(config.policies, self.hub.name)
        self.hub.policies = Panel(modules, clock=self.network.clock, metrics=self.hub.metrics)
        self.hub.restart()

    def test_invites(self) -> None:
        """A stranger's invite is refused with the example's words, which the inviter reads; a partner's is taken."""
        room_id = self.north.create_room(self.bob)
        refused = Deferred.fromCoroutine(self.north.floor.local_users.invite(room_id, self.bob, self.alice, None))
        error = self.failureResultOf(refused, PeerRefused).value
        self.assertEqual((error.status, error.error), (403, "north.example is not one of our partners."))
        partner = self.network.server("partner.example")
        dave = partner.user("dave")
        done(partner.floor.local_users.invite(partner.create_room(dave), dave, self.alice, None))

    def test_rooms(self) -> None:
        """Only staff makes rooms."""
        self.hub.create_room(self.alice)
        with self.assertRaisesRegex(Forbidden, r"Ask the staff for a room\."):
            self.hub.create_room(self.hub.user("erin"))

    def test_messages(self) -> None:
        """A long message is refused, whoever sends it, and a short one is taken."""
        room_id = self.hub.create_room(self.alice)
        self.north.join(self.bob, room_id, self.hub.name)
        self.failureResultOf(self.hub.send(room_id, self.alice, "x" * 21), Forbidden)
        long, short = (self.north.send(room_id, self.bob, "x" * length) for length in (21, 20))
        self.network.settle()
        self.assertIn("up to 20 characters", str(self.failureResultOf(long).value))
        self.successResultOf(short)
        self.assertEqual(self.hub.bodies(room_id), ["x" * 20])
