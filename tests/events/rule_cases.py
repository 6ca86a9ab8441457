"""Tables of auth rule cases, turned into one test for each row.

A test case class lists ``REJECTED`` and ``ALLOWED``; :func:`one_test_for_each` gives it a method for each, so that a
failing row is a failing test with the row's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import EventRejected
from lmatrix.events.auth_rules import authorise
from lmatrix.events.candidate import Draft
from lmatrix.events.state import StateEvent, StateMap

from .builders import HEAD, room


@attrs.frozen
class Case:
    """One event against one state.

    Attributes:
        name: what is tried, as part of a method name.
        event: the event.
        rule: the rule that must reject it; empty when it must be allowed.
        says: a part of the reason that names what matters to the reader.
    """

    name: str
    event: Draft
    state: StateMap = attrs.field(factory=room)
    rule: str = ""
    says: str = ""
    prev_events: Sequence[str] = (HEAD,)
    auth_events: Sequence[StateEvent] | None = None


def rejected(rule: str, name: str, event: Draft, state: StateMap | None = None, **more: Any) -> Case:
    """A case that the rule must reject."""
    return Case(name, event, room() if state is None else state, rule=rule, **more)


def allowed(rule: str, name: str, event: Draft, state: StateMap | None = None, **more: Any) -> Case:
    """A case that must be allowed; ``rule`` says by which rule, for the reader."""
    return Case(f"{rule.replace('.', '_')}_{name}", event, room() if state is None else state, **more)


def one_test_for_each(cases: Sequence[Case]) -> Callable[[type], type]:
    """Class decorator: a test method for each case."""

    def decorate(cls: type) -> type:
        for case in cases:
            kind = f"rejected_by_{case.rule.replace('.', '_').replace('-', '_')}" if case.rule else "allowed_by"
            name = f"test_{kind}_{case.name}"
            if hasattr(cls, name):
                raise AssertionError(f"two cases are called {name}")
            setattr(cls, name, _test(case))
        return cls

    return decorate


def _test(case: Case) -> Callable[[SynchronousTestCase], None]:
    def run(self: SynchronousTestCase) -> None:
        if not case.rule:
            authorise(case.event, case.state, prev_events=case.prev_events, auth_events=case.auth_events)
            return
        error = self.assertRaises(
            EventRejected,
            authorise,
            case.event,
            case.state,
            prev_events=case.prev_events,
            auth_events=case.auth_events,
        )
        self.assertEqual(error.rule, case.rule, error.reason)
        self.assertIn(case.says, error.reason)

    run.__doc__ = f"The rules on {case.name.replace('_', ' ')}."
    return run
