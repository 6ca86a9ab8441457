"""The whole conformance suite against lmatrix: a real server of its own, with a development configuration.

No binding requirement may fail, nothing that can be tested on one machine may be left out, and the suite itself must
need nothing of lmatrix.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.registry import all_cases
from tests.conformance.report import failures, results
from tests.conformance.runner import Outcome, run
from tests.conformance.suite import Place, Suite, Target
from tests.conformance.verdicts import Verdict
from tests.end_to_end.processes import EndToEndTestCase, RealServer

NOT_TESTED_HERE = {"tls/known-authority"}
"""What cannot be tested on one machine, without a certificate from anybody."""

ROOT = Path(__file__).parent.parent.parent

LIMITS = "rate-limiting/"


class ConformanceTests(EndToEndTestCase):
    async def play(self, server: RealServer, *, hammer: int = 0) -> Sequence[Outcome]:
        """Run the cases against a server: those about rate limits, or all others."""
        target = Target(
            url=self.urls[server.server_name],
            server_name=server.server_name,
            insecure=True,
            client_url=server.place.client_url,
            hammer=hammer,
        )
        suite = Suite(reactor, target, Place(), random.Random(1))
        limits = [case for case in all_cases() if case.requirements[0].startswith(LIMITS)]
        cases = limits if hammer else [case for case in all_cases() if case not in limits]
        try:
            return await run(suite, cases)
        finally:
            await suite.stop()

    async def test_conforms(self) -> None:
        """lmatrix does all that is binding, and nothing is left out."""
        [server] = await self.start_servers("target")
        outcomes = await self.play(server)
        self.assertEqual([], failures(outcomes, strict=True))
        left_out = {
            name: [outcome.reason for outcome in result.outcomes]
            for name, result in results(outcomes).items()
            if result.verdict is Verdict.NOT_TESTED and name not in NOT_TESTED_HERE
        }
        self.assertEqual({}, left_out)

    async def test_command_line(self) -> None:
        """Given no more than where the target is, the command finds its name, and says when nothing can be tested."""
        [server] = await self.start_servers("target")
        place, some = ["--target", self.urls[server.server_name]], ["--only", "server_keys.*"]
        for more, status, said in (
            (["--insecure", *some], 0, ""),
            (some, 2, "with --insecure"),
            (["--insecure", "--server-name", "other.example"], 2, f"is {server.server_name}, and not other.example"),
            (["--insecure", "--host", "nowhere.invalid"], 2, "--listen and --host"),
        ):
            output, errors, code = await getProcessOutputAndValue(
                sys.executable, ["-m", "tests.conformance", *place, *more], env=os.environ, path=str(ROOT)
            )
            self.assertEqual(status, code, output + errors)
            if status:
                self.assertIn(said, errors.decode())
            else:
                self.assertIn("Retrieving Server Keys", output.decode())

    async def test_rate_limits(self) -> None:
        """With a low limit, lmatrix says in the right way that it has been reached."""
        [server] = await self.start_servers(
            "limited",
            configure=lambda settings: settings.update(
                rate_limits={"enabled": True, "federation": {"per_second": 0.1, "burst": 5}}
            ),
        )
        outcomes = await self.play(server, hammer=10)
        self.assertEqual([Verdict.PASSED], [outcome.verdict for outcome in outcomes])


class IndependenceTests(SynchronousTestCase):
    def test_imports_nothing_of_the_target(self) -> None:
        """The suite, with all its cases, imports no module of lmatrix."""
        program = (
            "import sys; from tests.conformance import __main__, registry; registry.all_cases();"
            "print([name for name in sys.modules if name.split('.')[0] == 'lmatrix'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual("[]", done.stdout.strip())
