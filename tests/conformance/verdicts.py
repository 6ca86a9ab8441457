"""What can become of a case, and how a case says so.

Owns: :class:`Verdict`, the three exceptions by which a case ends otherwise than well, and the ``expect`` functions,
which raise them in words that stand in the report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, TypeVar

from tests.end_to_end.raw_http import Answer

T = TypeVar("T")


class Verdict(Enum):
    """What became of a case, or of the cases of one requirement."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_APPLICABLE = "not applicable"
    NOT_TESTED = "could not be tested"

    @staticmethod
    def of(verdicts: Collection[Verdict]) -> Verdict:
        """One verdict for several: the worst of them counts, and what was tested counts more than what was not."""
        for verdict in (Verdict.FAILED, Verdict.PASSED, Verdict.NOT_TESTED):
            if verdict in verdicts:
                return verdict
        return Verdict.NOT_APPLICABLE


class Failed(Exception):
    """The target does not do what is required."""


class NotApplicable(Exception):
    """The requirement does not concern this target, as it is set up."""


class NotTested(Exception):
    """Something that the case needs is not there."""


def expect(condition: object, otherwise: str) -> None:
    """That a condition is true.

    Raises:
        Failed: it is not; ``otherwise`` says what is wrong.
    """
    if not condition:
        raise Failed(otherwise)


def expect_equal(expected: object, found: object, what: str) -> None:
    """That a value is the expected one."""
    if expected != found:
        raise Failed(f"{what}: {_short(found)} instead of {_short(expected)}")


def expect_answer(answer: Answer, status: int | Collection[int], errcode: str | Collection[str] | None = None) -> Any:
    """That an answer has a status and, where it is an error, an errcode.

    Args:
        status: the right one, or several that are right.
        errcode: likewise; ``None`` where none is asked for.

    Returns:
        the answer's JSON.
    """
    statuses = {status} if isinstance(status, int) else set(status)
    errcodes = None if errcode is None else {errcode} if isinstance(errcode, str) else set(errcode)
    if answer.status not in statuses or (errcodes is not None and answer.errcode not in errcodes):
        wanted = " or ".join(map(str, sorted(statuses)))
        if errcodes is not None:
            wanted += " " + " or ".join(sorted(errcodes))
        raise Failed(f"the answer is {answer.status} {answer.errcode or ''}, and not {wanted}: {_short(answer.body)}")
    try:
        return answer.json
    except ValueError:
        raise Failed(f"the answer is not JSON: {_short(answer.body)}") from None


def expect_error(answer: Answer, what: str) -> None:
    """That an answer is an error of the requester's making (4xx) that has an errcode; which one is not prescribed."""
    expect(400 <= answer.status < 500, f"{what}: {answer.status} instead of an error 4xx: {_short(answer.body)}")
    expect(answer.errcode, f"{what}: an error without an errcode: {_short(answer.body)}")


def expect_fields(value: object, fields: Mapping[str, object], what: str) -> None:
    """That an object has some fields with some values, whatever else it has."""
    expect(isinstance(value, dict), f"{what} is no object: {_short(value)}")
    assert isinstance(value, dict)
    for key, wanted in fields.items():
        expect(key in value, f"{what} has no {key}: {_short(value)}")
        expect_equal(wanted, value[key], f"{key} of {what}")


def only(values: Collection[T], what: str) -> T:
    """The one value that there must be."""
    if len(values) != 1:
        raise Failed(f"{what}: {len(values)} instead of one")
    return next(iter(values))


def _short(value: object) -> str:
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 400 else text[:400] + "…"
