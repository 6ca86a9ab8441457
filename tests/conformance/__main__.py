"""The suite's command line: ``python -m tests.conformance --target URL --server-name NAME``."""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.task import react

from tests.conformance.document import document
from tests.conformance.registry import Case, all_cases
from tests.conformance.report import does_conform, render
from tests.conformance.runner import Outcome, run
from tests.conformance.suite import Place, Suite, Target
from tests.conformance.verdicts import Verdict
from tests.end_to_end.raw_http import NO_ANSWER
from tests.end_to_end.wire_events import I1, V02


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    found.add_argument("--target", metavar="URL", help="the server's federation listener: https://host:port")
    found.add_argument("--server-name", metavar="NAME", help="the server's name")
    found.add_argument("--insecure", action="store_true", help="take whatever certificate it shows")
    client = found.add_argument_group("the target's users", "without them, only part of the suite can be run")
    client.add_argument("--client", metavar="URL", help="the server's Client-Server API; accounts are made on it")
    client.add_argument(
        "--user",
        metavar="NAME:PASSWORD",
        action="append",
        default=[],
        help="an account to use instead; give two of them",
    )
    client.add_argument("--room", metavar="ROOM_ID", help="a public room on it, for when there is no --client")
    client.add_argument("--room-version", default=I1, choices=(I1, V02), help="of the rooms that are made")
    client.add_argument("--unstable", action="store_true", help="use the unstable paths of the endpoints that have one")
    ours = found.add_argument_group("the suite's own servers", "the target must be able to reach them")
    ours.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0", help="IP address and first port")
    ours.add_argument("--host", default="localhost", help="how the target calls this machine")
    running = found.add_argument_group("running")
    running.add_argument("--only", metavar="PATTERN", action="append", help="cases or requirements, with * and ?")
    running.add_argument("--hammer", metavar="N", type=int, default=0, help="make N requests to see a rate limit")
    running.add_argument("--strict", action="store_true", help="a SHOULD that fails counts, too")
    running.add_argument("--verbose", action="store_true", help="show what was sent and received for every case")
    running.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts there, too")
    running.add_argument("--list", action="store_true", help="show the cases, and do nothing")
    running.add_argument("--write-document", metavar="FILE", type=Path, help="write docs/conformance.rst")
    return found


def main(arguments: Sequence[str]) -> None:
    """Run the suite; exits with 0 when the target conforms, 1 when not, 2 when it could not be run."""
    options = parser().parse_args(arguments)
    cases = [case for case in all_cases() if _is_wanted(case, options.only)]
    if options.write_document is not None:
        options.write_document.write_text(document(), encoding="utf-8")
        return
    if options.list:
        for case in cases:
            print(f"{case.name}\n    {case.summary}\n    {', '.join(case.requirements)}")
        return
    if not options.target or not options.server_name:
        parser().error("--target and --server-name are needed")
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, options, cases)))


async def _main(reactor: Any, options: argparse.Namespace, cases: Sequence[Case]) -> None:
    target = Target(
        url=options.target.rstrip("/"),
        server_name=options.server_name,
        insecure=options.insecure,
        client_url=options.client and options.client.rstrip("/"),
        logins=tuple((name, password) for name, _, password in (one.partition(":") for one in options.user)),
        room=options.room,
        version=options.room_version,
        unstable=options.unstable,
        hammer=options.hammer,
    )
    address, _, port = options.listen.rpartition(":")
    place = Place(host=options.host, address=address.strip("[]"), first_port=int(port))
    suite = Suite(reactor, target, place, random.SystemRandom())
    try:
        await _check_there(suite)
        outcomes = await run(suite, cases, _told if sys.stderr.isatty() else lambda outcome: None)
    finally:
        await suite.stop()
    for line in render(outcomes, everything=options.verbose):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps([_as_json(one) for one in outcomes], indent=1), encoding="utf-8")
    if not does_conform(outcomes, strict=options.strict):
        raise SystemExit(1)


async def _check_there(suite: Suite) -> None:
    """That there is a target to test; a run against nobody would say that everything fails."""
    url = suite.target.url
    try:
        await suite.http.request("GET", url, "/_matrix/key/v2/server", headers={"Host": [suite.target.server_name]})
    except (*NO_ANSWER, CancelledError, ConnectTimeout, TimeoutError) as error:
        print(f"{url} does not answer: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _is_wanted(case: Case, patterns: Sequence[str] | None) -> bool:
    names = (case.name, *case.requirements)
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _told(outcome: Outcome) -> None:
    if outcome.verdict is not Verdict.PASSED:
        print(f"{outcome.verdict.value}: {outcome.case.name}: {outcome.reason}"[:200], file=sys.stderr)


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "case": outcome.case.name,
        "requirements": list(outcome.case.requirements),
        "verdict": outcome.verdict.value,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
        "exchanges": [list(exchange.lines()) for exchange in outcome.exchanges],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
