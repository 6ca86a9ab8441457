"""The report of a run, by section of the I-D.

Owns: its text, and the judgement on the whole: :class:`Summary`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from tests.conformance.requirements import Requirement, Section, sections
from tests.conformance.runner import Outcome
from tests.conformance.verdicts import Verdict

_WIDTH = 22


@attrs.frozen(slots=True)
class Result:
    """What a run says about one requirement.

    Attributes:
        requirement: which.
        verdict: of its cases together; ``None`` when no case of it was run.
        outcomes: of its cases.
    """

    requirement: Requirement
    verdict: Verdict | None
    outcomes: tuple[Outcome, ...]


def results(outcomes: Sequence[Outcome]) -> dict[str, Result]:
    """What a run says about each requirement, by its ID."""
    by_requirement: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        for name in outcome.case.requirements:
            by_requirement.setdefault(name, []).append(outcome)
    found: dict[str, Result] = {}
    for section in sections():
        for one in section.requirements:
            its = tuple(by_requirement.get(one.id, ()))
            verdict = Verdict.of([outcome.verdict for outcome in its]) if its else None
            found[one.id] = Result(one, verdict, its)
    return found


def does_conform(outcomes: Sequence[Outcome], *, strict: bool = False) -> bool:
    """Whether no binding requirement failed; ``strict``: nor any other."""
    return not any(
        result.verdict is Verdict.FAILED and (strict or result.requirement.is_binding)
        for result in results(outcomes).values()
    )


def failures(outcomes: Sequence[Outcome], *, strict: bool = False) -> list[str]:
    """The requirements that failed, each with the reasons."""
    return [
        f"{name} ({result.requirement.level}): {'; '.join(_reasons(result))}"
        for name, result in results(outcomes).items()
        if result.verdict is Verdict.FAILED and (strict or result.requirement.is_binding)
    ]


def render(outcomes: Sequence[Outcome], *, everything: bool = False) -> Iterator[str]:
    """The report, line by line.

    Args:
        everything: show what was sent and received for all cases, and not only for those that failed.
    """
    found = results(outcomes)
    for section in sections():
        tested = [found[one.id] for one in section.requirements if found[one.id].outcomes]
        if tested:
            yield ""
            yield f"{section.title}  [{section.id}]"
            for result in tested:
                yield from _result(result)
    details = [one for one in outcomes if everything or one.verdict is Verdict.FAILED]
    if details:
        yield ""
        yield "=" * 100
    for outcome in details:
        yield from _details(outcome)
    yield ""
    yield from _not_tested(outcomes)
    for name, result in found.items():
        if result.verdict is Verdict.FAILED:
            yield f"FAILED: {result.requirement.level} {name}: {result.requirement.text}"
    yield from _summary(found)


def _result(result: Result) -> Iterator[str]:
    assert result.verdict is not None
    one = result.requirement
    yield f"  {result.verdict.value:<{_WIDTH}} {one.level:<10} {one.id.partition('/')[2]}: {one.text}"
    for reason in _reasons(result):
        yield f"  {'':<{_WIDTH}} {'':<10}   {reason}"


def _reasons(result: Result) -> list[str]:
    return [
        f"{one.case.name}: {one.reason}"
        for one in result.outcomes
        if one.reason and (one.verdict is result.verdict or one.verdict is Verdict.FAILED)
    ]


def _details(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield f"{outcome.verdict.value}: {outcome.case.name} ({outcome.seconds:.2f} s)"
    yield f"  {outcome.case.summary}"
    yield f"  proves {', '.join(outcome.case.requirements)}"
    if outcome.reason:
        yield f"  {outcome.reason}"
    for exchange in outcome.exchanges:
        for line in exchange.lines():
            yield f"    {line}"


def _not_tested(outcomes: Sequence[Outcome]) -> Iterator[str]:
    reasons = Counter(one.reason for one in outcomes if one.verdict is Verdict.NOT_TESTED)
    for reason, count in reasons.most_common():
        yield f"{count} {'case' if count == 1 else 'cases'} could not be tested: {reason}"


def _summary(found: Mapping[str, Result]) -> Iterator[str]:
    counts = Counter((result.requirement.is_binding, result.verdict) for result in found.values())
    for binding, title in ((True, "MUST, and flat statements"), (False, "SHOULD")):
        parts = [f"{counts[binding, verdict]} {verdict.value}" for verdict in Verdict if counts[binding, verdict]]
        unseen = counts[binding, None]
        parts += [f"{unseen} not looked at"] if unseen else []
        yield f"{title}: {', '.join(parts)}"


def by_section(outcomes: Sequence[Outcome]) -> Iterator[tuple[Section, Counter[str]]]:
    """How many requirements of each section have which verdict (``"no case"`` for those that no case proves)."""
    found = results(outcomes)
    for section in sections():
        verdicts = [found[one.id].verdict for one in section.requirements]
        yield section, Counter("no case" if verdict is None else verdict.value for verdict in verdicts)
