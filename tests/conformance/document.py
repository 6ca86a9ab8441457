"""``docs/conformance.rst``: each requirement with what proves it, made from the tables.

Owns: its text. A test compares the file with it, so that neither can drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.conformance.registry import Case, all_cases
from tests.conformance.requirements import Requirement, Section, sections

_HEAD = """\
Conformance
===========

What the Internet-Draft ``draft-ralston-mimi-linearized-matrix`` asks for, section by section, and what proves that
lmatrix does it. Each MUST, MUST NOT, SHOULD and SHOULD NOT of the text has a line here, in words of our own (after
"MUST NOT" stands what must not be); so has what the text states flatly about the behaviour of a server (``says``),
which binds like a MUST. What is only allowed (MAY) asks for nothing, and has no line. The last sections are of what
the I-D leaves to Matrix: the queries of the Server-Server API v1.11 that other Matrix software makes.

A proof is a case of the conformance suite (``module.function`` below ``tests/conformance/cases/``), which speaks raw
signed HTTP to a running server and can be pointed at any implementation::

    tox -e conformance -- --target https://chat.example.org:8448 --client https://chat.example.org \\
        --listen 0.0.0.0:8449 --host suite.example.org

It makes accounts, rooms and many bad requests, and leaves them behind: a test installation is the place for it.

* ``--client`` is the target's Client-Server API. Without one a quarter of the suite can be run, and with a public
  ``--room`` on the target about half of it.
* The suite has servers of its own, which the target must be able to reach: they listen where ``--listen`` says (and on
  the ports after it), and are called what ``--host`` says. For a target on the same machine, ``localhost`` and free
  ports do.
* Those servers' certificate is one that nobody trusts. So the target must not check certificates, or ``--certificate``
  and ``--private-key`` give the suite one that it trusts.
* ``--insecure`` is for a target whose own certificate is not to be checked.

A server of lmatrix on the same machine, from ``lmatrix generate-config --development`` (README), is tested with
``--target https://localhost:18481 --client http://localhost:18482 --insecure``.

The report goes section by section; then come, for every case that failed, the requests and answers; at the end stands
what could not be tested and why, and what failed. The exit status is 0 when nothing that binds failed (``--strict``:
nothing at all), 1 when something did, and 2 when there was nothing to be tested.

Or, where nothing can be seen from outside, a proof is a module of lmatrix's own tests. *Not a server's*:
somebody else has to fulfil it. *Open*: it is a server's, and nothing proves it yet.

This page is made from the suite's tables; after a change, make it anew::

    python -m tests.conformance --write-document docs/conformance.rst
"""


def document() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def proofs() -> Mapping[str, Sequence[Case]]:
    """The cases of each requirement that has any."""
    found: dict[str, list[Case]] = {}
    for case in all_cases():
        for name in case.requirements:
            found.setdefault(name, []).append(case)
    return found


def kind(requirement: Requirement, cases: Sequence[Case]) -> str:
    """``"case"``, ``"tests"``, ``"other"`` or ``"open"``; ``""`` when nothing is said about it."""
    if cases:
        return "case"
    return next((name for name in ("tests", "other", "open") if getattr(requirement, name)), "")


def _lines() -> Iterator[str]:
    cases = proofs()
    yield _HEAD
    yield from _counts(cases)
    for section in sections():
        yield from _section(section, cases)


def _counts(cases: Mapping[str, Sequence[Case]]) -> Iterator[str]:
    every = [one for section in sections() for one in section.requirements]
    counts = Counter((one.level, kind(one, cases.get(one.id, ()))) for one in every)
    kinds = {"case": "proved by cases", "tests": "proved by tests", "other": "not a server's", "open": "open"}
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield ""
    yield from _row(["", *kinds.values(), "all"])
    for level in ("MUST", "MUST NOT", "says", "SHOULD", "SHOULD NOT"):
        numbers = [counts[level, one] for one in kinds]
        yield from _row([level, *map(str, numbers), str(sum(numbers))])
    yield ""


def _section(section: Section, cases: Mapping[str, Sequence[Case]]) -> Iterator[str]:
    yield ""
    yield section.title
    yield "-" * len(section.title)
    yield ""
    yield ".. list-table::"
    yield "   :widths: 16 10 44 30"
    yield "   :header-rows: 1"
    yield ""
    yield from _row(["name", "", "what is asked for", "proof"])
    for one in section.requirements:
        yield from _row([f"``{one.id}``", one.level, one.text, _proof(one, cases.get(one.id, ()))])


def _proof(requirement: Requirement, cases: Sequence[Case]) -> str:
    proved = [f"``{case.name}``" for case in cases] + [f"``{module}``" for module in requirement.tests]
    if proved:
        return ", ".join(proved)
    return f"*Not a server's*: {requirement.other}" if requirement.other else f"*Open*: {requirement.open}"


def _row(cells: Sequence[str]) -> Iterator[str]:
    for place, cell in enumerate(cells):
        yield f"   {'*' if place == 0 else ' '} - {cell}".rstrip()
