"""Modules in the configuration: what is made of them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config import Config, ConfigError, parse_config
from lmatrix.config.policies import make_modules
from lmatrix.policies.modules import ModuleProblem, make_module
from tests.config.test_config import MINIMAL
from tests.policies.modules_to_load import Good

_HERE = "tests.policies.modules_to_load"


def parse(section: str) -> Config:
    return parse_config(f"{MINIMAL}policies:\n{section}", "lmatrix.yaml", Path("/srv"))


class ModuleTests(SynchronousTestCase):
    """Making policies."""

    def test_the_configuration_arrives_as_it_was_written(self) -> None:
        """Lists, numbers and nested sections, and the server's name."""
        config = parse(
            f"""\
  modules:
    - module: {_HERE}.Good
      config:
        names: [a, b]
        limits: {{most: 3, share: 0.5, keen: true}}
    - module: {_HERE}.Good
"""
        )
        first, second = make_modules(config.policies, "us.example")
        assert isinstance(first, Good)
        assert isinstance(second, Good)
        expected = {"names": ["a", "b"], "limits": {"most": 3, "share": 0.5, "keen": True}}
        self.assertEqual(first.given, (expected, "us.example"))
        self.assertEqual(second.given, ({}, "us.example"))

    def test_what_cannot_be_used_says_why(self) -> None:
        """Nothing there, no class, a bad configuration, no hook, a hook that nobody calls."""
        for module, words in (
            ("no.such.module.Class", "No module named"),
            (f"{_HERE}.Missing", "has no attribute 'Missing'"),
            (f"{_HERE}.not_a_class", "not callable"),
            (f"{_HERE}.Picky", "`colour` is missing"),
            (f"{_HERE}.Idle", "has none of the hooks"),
            (f"{_HERE}.Mistyped", "check_invites is no hook; did you mean check_invite?"),
        ):
            with self.assertRaises(ModuleProblem) as caught:
                make_module(module, {}, "us.example")
            self.assertIn(words, str(caught.exception))
            self.assertTrue(str(caught.exception).startswith(module))


class SectionTests(SynchronousTestCase):
    """The section ``policies``."""

    def test_nothing_by_default(self) -> None:
        """Without it there is no policy at all."""
        policies = parse_config(MINIMAL, "lmatrix.yaml", Path("/srv")).policies
        self.assertFalse(policies.blocked_rooms)
        self.assertFalse(policies.invites)
        self.assertEqual(policies.modules, ())

    def test_values(self) -> None:
        """Everything arrives."""
        policies = parse(
            """\
  blocked_rooms: {ids: ["!a:b.example"], servers: ["*.c.example"]}
  invites:
    blocked_servers: [d.example]
    blocked_users: ["@e*:*"]
    allowed_servers: [f.example]
    only_from_shared_rooms: true
"""
        ).policies
        self.assertEqual(
            (policies.blocked_rooms.ids, policies.blocked_rooms.servers), (("!a:b.example",), ("*.c.example",))
        )
        self.assertEqual(policies.invites.blocked_servers, ("d.example",))
        self.assertEqual(policies.invites.blocked_users, ("@e*:*",))
        self.assertEqual(policies.invites.allowed_servers, ("f.example",))
        self.assertTrue(policies.invites.only_from_shared_rooms)

    def test_mistakes_are_named(self) -> None:
        """Each with its line and key, and the nearest known key where it is mistyped."""
        for section, words in (
            ("  blocked_room: {}\n", "policies.blocked_room: unknown key; did you mean 'blocked_rooms'?"),
            ("  blocked_rooms: {ids: [no-room]}\n", "policies.blocked_rooms.ids[0]: expected a room ID"),
            ("  invites: {blocked_servers: ['a b']}\n", "a pattern has no spaces"),
            ("  invites: {only_from_shared_room: true}\n", "did you mean 'only_from_shared_rooms'?"),
            ("  modules: [{config: {}}]\n", "policies.modules[0].module: is missing"),
            ("  modules: [{module: noclass}]\n", "a class with its module"),
            ("  modules: [{module: a.B, config: [1]}]\n", "policies.modules[0].config: expected a section"),
            ("  modules: [{module: a.B, config: {x: 1, x: 2}}]\n", "already given"),
            ("  modules: [{module: a.B, config: {1: 2}}]\n", "a section whose keys are text"),
            ("  modules: [{module: a.B, config: {x: !!python/name:os.system }}]\n", "cannot be read"),
        ):
            with self.assertRaises(ConfigError) as caught:
                parse(section)
            self.assertIn(words, str(caught.exception))
