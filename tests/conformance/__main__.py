"""The suite's command line: ``python -m tests.conformance --target URL``.

Before the first case it makes sure that there is something to test: that the target answers, under which name, and that
it can reach the suite's own servers. A run without that would say of nearly everything that it fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import crypto
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import react

from tests.conformance.document import document
from tests.conformance.exchanges import RecordingHttp, Transcript
from tests.conformance.registry import Case, all_cases
from tests.conformance.report import does_conform, render
from tests.conformance.runner import Outcome, run
from tests.conformance.suite import Place, Suite, Target
from tests.conformance.verdicts import Verdict
from tests.end_to_end.raw_http import NO_ANSWER
from tests.end_to_end.signing_client import path
from tests.end_to_end.wire_events import I1, V02


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Check a running server against draft-ralston-mimi-linearized-matrix (docs/conformance.rst).",
    )
    found.add_argument("--target", metavar="URL", help="the server's federation listener: https://host:port")
    found.add_argument("--server-name", metavar="NAME", help="the server's name, unless it is what it publishes")
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
    ours.add_argument("--certificate", metavar="FILE", type=Path, help="their TLS certificate with its chain, PEM;")
    ours.add_argument("--private-key", metavar="FILE", type=Path, help="and its key (else they sign one themselves)")
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
    if not options.target:
        parser().error("--target is needed")
    if (options.certificate is None) != (options.private_key is None):
        parser().error("--certificate and --private-key belong together")
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, options, cases)))


async def _main(reactor: Any, options: argparse.Namespace, cases: Sequence[Case]) -> None:
    url = options.target.rstrip("/")
    target = Target(
        url=url,
        server_name=await _name_of(reactor, url, options.server_name, insecure=options.insecure),
        insecure=options.insecure,
        client_url=options.client and options.client.rstrip("/"),
        logins=tuple((name, password) for name, _, password in (one.partition(":") for one in options.user)),
        room=options.room,
        version=options.room_version,
        unstable=options.unstable,
        hammer=options.hammer,
    )
    address, _, port = options.listen.rpartition(":")
    place = Place(
        host=options.host,
        address=address.strip("[]"),
        first_port=int(port),
        certificate=_certificate(options.certificate, options.private_key),
    )
    suite = Suite(reactor, target, place, random.SystemRandom())
    try:
        await _check_reaches_us(suite)
        outcomes = await run(suite, cases, _told if sys.stderr.isatty() else lambda outcome: None)
    finally:
        await suite.stop()
    for line in render(outcomes, everything=options.verbose):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps([_as_json(one) for one in outcomes], indent=1), encoding="utf-8")
    if not does_conform(outcomes, strict=options.strict):
        raise SystemExit(1)


async def _name_of(reactor: Any, url: str, server_name: str | None, *, insecure: bool) -> str:
    """The target's name, as it publishes it. Ends the program when nobody is there, or somebody else."""
    http = RecordingHttp(reactor, Transcript(), insecure=insecure, judged=())
    headers = {} if server_name is None else {"Host": [server_name]}
    try:
        answer = await http.request("GET", url, "/_matrix/key/v2/server", headers=headers)
    except (*NO_ANSWER, CancelledError, ConnectTimeout, TimeoutError) as error:
        hint = "; with --insecure its certificate is not checked" if "certificate" in str(error) else ""
        _stop(f"{url} does not answer: {error}{hint}")
    finally:
        await http.close()
    try:
        published = answer.json["server_name"]
    except (ValueError, TypeError, KeyError):
        published = None
    if not isinstance(published, str):
        _stop(f"{url} does not publish its keys: GET /_matrix/key/v2/server is answered with {answer}")
    if server_name not in (None, published):
        _stop(f"{url} is {published}, and not {server_name}")
    return published


async def _check_reaches_us(suite: Suite) -> None:
    """That the target fetches our keys; ends the program when it does not."""
    peer = suite.peer()
    form = "unstable" if suite.target.unstable else "stable"
    answer = await peer.client.request(suite.target.server_name, "GET", path("event", "$" + "x" * 43, form=form))
    if answer.status != 401:
        return
    if peer.keys_asked:
        _stop(f"the target fetched the keys of {peer.server_name}, and still refuses its requests: {answer}")
    _stop(
        f"the target has not fetched the keys of {peer.server_name}, and refuses its requests: {answer}\n"
        "It must be able to reach the suite's servers: --listen and --host say where they are. It must allow such an "
        "address, and trust their certificate (--certificate, --private-key) or check none."
    )


def _stop(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise SystemExit(2)


def _certificate(certificate: Path | None, private_key: Path | None) -> CertificateOptions | None:
    if certificate is None or private_key is None:
        return None
    key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    first, *chain = map(crypto.X509.from_cryptography, x509.load_pem_x509_certificates(certificate.read_bytes()))
    return CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(key),  # type: ignore[arg-type]
        certificate=first,
        extraCertChain=chain,
    )


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
