"""The configured policies: put together, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config import Config, load_config, parse_config
from lmatrix.errors import Forbidden
from lmatrix.metrics import Metrics
from lmatrix.operator_policies import OperatorPolicies
from lmatrix.policies import Invite
from lmatrix.policies.modules import ModuleProblem
from lmatrix.storage.inline import InlineDatabase
from tests.config.test_config import MINIMAL

ROOM = "!room:hub.example"


class Sharing:
    """Who shares a room with us."""

    def servers_share_a_room(self, tx: Any, server_name: str, other: str) -> bool:
        assert server_name == "example.org"
        return other == "friend.example"


class OperatorPoliciesTests(SynchronousTestCase):
    """Policies of a configuration file that changes."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def write(self, section: str = "") -> None:
        self.file.write_text(MINIMAL + section, encoding="utf-8")

    def policies(self) -> OperatorPolicies:
        def reread() -> Config:
            return load_config(self.file)

        made = OperatorPolicies(reread(), reread, clock=Clock(), metrics=Metrics())
        made.attach(InlineDatabase(), Sharing())
        return made

    def is_blocked(self, policies: OperatorPolicies) -> bool:
        asking = Deferred.fromCoroutine(policies.panel.check_room(ROOM))
        blocked: list[bool] = []
        asking.addCallbacks(lambda _: blocked.append(False), lambda f: blocked.append(f.check(Forbidden) is Forbidden))
        return blocked[0]

    def test_a_reload_changes_what_is_allowed(self) -> None:
        """Blocked, then not, then blocked by a module's own list."""
        self.write(f"policies: {{blocked_rooms: {{ids: ['{ROOM}']}}}}\n")
        policies = self.policies()
        self.assertTrue(self.is_blocked(policies))
        self.write()
        self.assertTrue(policies.reload())
        self.assertFalse(self.is_blocked(policies))
        self.assertFalse(policies.panel.blocks_rooms)

    def test_what_cannot_be_read_changes_nothing(self) -> None:
        """A mistake in any section, or in a module, is logged; what held goes on to hold."""
        self.write(f"policies: {{blocked_rooms: {{ids: ['{ROOM}']}}}}\n")
        policies = self.policies()
        for section in (
            "polices: {}\n",
            "policies: {blocked_rooms: {ids: [x]}}\n",
            "policies: {modules: [{module: no.such.Module}]}\n",
        ):
            self.write(section)
            self.assertFalse(policies.reload(), section)
            self.assertTrue(self.is_blocked(policies))
        self.file.unlink()
        self.assertFalse(policies.reload())

    def test_a_module_that_cannot_be_used_keeps_the_server_from_starting(self) -> None:
        """Nothing is let through because a policy is missing."""
        config = parse_config(MINIMAL + "policies: {modules: [{module: no.such.Module}]}\n", "c", Path("/srv"))
        with self.assertRaises(ModuleProblem):
            OperatorPolicies(config, None, clock=Clock(), metrics=Metrics())

    def test_shared_rooms_are_looked_up(self) -> None:
        """The rule that needs the database has it."""
        self.write("policies: {invites: {only_from_shared_rooms: true}}\n")
        panel = self.policies().panel

        def invite(server: str) -> Deferred[None]:
            value = Invite(
                inviter=f"@x:{server}", invitee="@me:example.org", room_id=ROOM, hub_server=server, content={}
            )
            return Deferred.fromCoroutine(panel.check_invite(value))

        self.successResultOf(invite("friend.example"))
        error = self.failureResultOf(invite("stranger.example"), Forbidden).value
        self.assertIn("stranger.example does not", str(error))
