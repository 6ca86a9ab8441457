"""The cases: functions that know which requirements they prove.

Owns: :func:`case`, which marks one, and :func:`all_cases`, which finds them in the modules of :mod:`.cases`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING

import attrs

from tests.conformance.requirements import requirements

if TYPE_CHECKING:
    from tests.conformance.stage import Stage

Play = Callable[["Stage"], Awaitable[None]]


@attrs.frozen(slots=True)
class Case:
    """One case.

    Attributes:
        name: module and function: ``"transactions.at_most_50_pdus"``.
        requirements: the IDs of what it proves.
        play: the function.
        seconds: how long it may take.
        last: whether it looks at the whole run, and so comes after all others.
    """

    name: str
    requirements: tuple[str, ...]
    play: Play
    seconds: float = 30.0
    last: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.play.__doc__ or "").strip().partition("\n")[0]


_cases: list[Case] = []


def case(*proves: str, seconds: float = 30.0, last: bool = False) -> Callable[[Play], Play]:
    """Mark a function as a case that proves some requirements.

    Raises:
        ValueError: there is no such requirement.
    """
    unknown = [one for one in proves if one not in requirements()]
    if unknown or not proves:
        raise ValueError(f"no such requirements: {unknown}")

    def mark(play: Play) -> Play:
        module = play.__module__.rpartition(".")[2]
        _cases.append(Case(f"{module}.{play.__name__}", proves, play, seconds, last))
        return play

    return mark


@cache
def all_cases() -> tuple[Case, ...]:
    """All cases in the order of the requirements that they prove; those that look at the whole run come last."""
    from tests.conformance import cases

    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    order = {one: place for place, one in enumerate(requirements())}
    return tuple(sorted(_cases, key=lambda one: (one.last, min(order[name] for name in one.requirements))))
