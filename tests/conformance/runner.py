"""Running the cases, one after the other.

Owns: :func:`run`, and :class:`Outcome`, what became of one case.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as ConnectTimeout

from tests.conformance.exchanges import Exchange
from tests.conformance.registry import Case
from tests.conformance.stage import Stage
from tests.conformance.suite import Suite
from tests.conformance.verdicts import Failed, NotApplicable, NotTested, Verdict
from tests.end_to_end.raw_http import NO_ANSWER
from tests.end_to_end.signing_client import Refused


@attrs.frozen(slots=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: which.
        verdict: what became of it.
        reason: why, when it did not pass.
        exchanges: what was sent and received.
        seconds: how long it took.
    """

    case: Case
    verdict: Verdict
    reason: str
    exchanges: Sequence[Exchange]
    seconds: float


async def run(
    suite: Suite, cases: Sequence[Case], told: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Run cases.

    Args:
        told: is told of each as soon as it has ended.
    """
    outcomes: list[Outcome] = []
    for case in cases:
        mark, began = suite.transcript.mark(), suite.reactor.seconds()
        verdict, reason = await _play(suite, case)
        seconds = suite.reactor.seconds() - began
        outcome = Outcome(case, verdict, reason, suite.transcript.since(mark), seconds)
        outcomes.append(outcome)
        told(outcome)
    return outcomes


async def _play(suite: Suite, case: Case) -> tuple[Verdict, str]:
    playing = Deferred.fromCoroutine(_played(suite, case)).addTimeout(case.seconds, suite.reactor)
    try:
        await playing
    except Failed as failed:
        return Verdict.FAILED, str(failed)
    except NotApplicable as because:
        return Verdict.NOT_APPLICABLE, str(because)
    except NotTested as because:
        return Verdict.NOT_TESTED, str(because)
    except Refused as refused:
        return Verdict.FAILED, f"a request that must succeed did not: {refused}"
    except (*NO_ANSWER, CancelledError, ConnectTimeout, TimeoutError) as error:
        return Verdict.FAILED, f"no answer: {type(error).__name__} {error}"
    except Exception as error:
        # An answer that is shaped so badly that the case cannot read it: whose fault it is, a person has to see.
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        return Verdict.FAILED, f"an answer was not as expected: {reason}"
    return Verdict.PASSED, ""


async def _played(suite: Suite, case: Case) -> None:
    await case.play(Stage(suite))
