"""Some examples of each campaign: the same ones every time. ``tox -e fuzz`` tries more, and others.

When one fails, Hypothesis prints the simplest example that fails, step by step, and a ``@reproduce_failure`` for it.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.campaigns import CAMPAIGNS, run


class FuzzTests(SynchronousTestCase):
    """No 500, no error in the log, nothing that stays, nothing stored that was refused."""

    def test_servers(self) -> None:
        run(CAMPAIGNS["servers"], 50)

    def test_clients(self) -> None:
        run(CAMPAIGNS["clients"], 30)

    def test_operators(self) -> None:
        run(CAMPAIGNS["operators"], 12)

    def test_lying_servers(self) -> None:
        run(CAMPAIGNS["lying_servers"], 35)

    def test_lying_hubs(self) -> None:
        run(CAMPAIGNS["lying_hubs"], 25)

    def test_bytes_on_the_wire(self) -> None:
        run(CAMPAIGNS["bytes_on_the_wire"], 25)
