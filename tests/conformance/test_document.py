"""The tables of the conformance suite: complete in themselves, and the same as the page in ``docs/``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.document import document, kind, proofs
from tests.conformance.registry import all_cases
from tests.conformance.requirements import requirements, sections

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "conformance.rst"


class TableTests(SynchronousTestCase):
    def test_every_requirement_is_accounted_for(self) -> None:
        """Each is proved by cases or tests, or says why it is not; and only those say so that are not."""
        cases = proofs()
        wrong = {
            one.id: (bool(cases.get(one.id)), one.tests, one.other, one.open)
            for one in requirements().values()
            if not kind(one, cases.get(one.id, ())) or ((one.other or one.open) and (cases.get(one.id) or one.tests))
        }
        self.assertEqual({}, wrong)

    def test_requirements_have_names_of_their_own(self) -> None:
        """No two share an ID, and each says something."""
        every = [one for section in sections() for one in section.requirements]
        self.assertEqual(len(every), len(requirements()))
        self.assertEqual([], [one.id for one in every if not one.text.endswith(".")])

    def test_tests_that_are_named_exist(self) -> None:
        """A module of tests that is said to prove something is there."""
        named = {module for one in requirements().values() for module in one.tests}
        self.assertEqual([], [module for module in sorted(named) if importlib.util.find_spec(module) is None])

    def test_cases_say_what_they_do(self) -> None:
        """Each case has a name of its own, and a summary."""
        names = [case.name for case in all_cases()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual([], [case.name for case in all_cases() if not case.summary.endswith(".")])


class PageTests(SynchronousTestCase):
    if not PAGE.parent.exists():
        skip = "the tests were copied away from their checkout"

    def test_page_is_current(self) -> None:
        """``docs/conformance.rst`` is what the tables say; make it anew with ``--write-document``."""
        self.assertEqual(document().splitlines(), PAGE.read_text(encoding="utf-8").splitlines())
