"""All policies of a server, asked one after the other.

Owns: :class:`Panel`, which implements :class:`lmatrix.rooms.policy.Policies`.

Invariants: the first refusal is the answer; a policy that raises, takes too long or answers nonsense has refused, and
the log says why; what it says to others is bounded; where there is no policy for a question, asking costs nothing. A
panel can be given other policies while it is in use: what is being asked is finished with the old ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import Forbidden, Undecided
from lmatrix.metrics import Metrics
from lmatrix.policies.plugin import (
    Allow,
    Answer,
    ChecksActions,
    ChecksEvents,
    ChecksInvites,
    ChecksRooms,
    Refuse,
    Verdict,
)
from lmatrix.rooms.policy import Invite, LocalAction, ProposedEvent

T = TypeVar("T")

TIME_LIMIT_S = 5.0
"""How long one policy may take over one answer."""

MAX_REASON = 300
"""Characters of a reason that reaches others."""

NO_ANSWER = "A policy of this server could not be asked. Try again later."


class Panel:
    """The policies of a server.

    Args:
        policies: objects with one or more of the hooks of :mod:`lmatrix.policies.plugin`; asked in this order.
        clock: the time limit.
        metrics: ``policy_refusals``.
    """

    log = Logger()

    def __init__(self, policies: Sequence[object], *, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.replace(policies)

    def replace(self, policies: Sequence[object]) -> None:
        """From now on ask these."""
        self._rooms = [policy for policy in policies if isinstance(policy, ChecksRooms)]
        self._invites = [policy for policy in policies if isinstance(policy, ChecksInvites)]
        self._actions = [policy for policy in policies if isinstance(policy, ChecksActions)]
        self._events = [policy for policy in policies if isinstance(policy, ChecksEvents)]

    @property
    def blocks_rooms(self) -> bool:
        """Whether there is any policy that may block a room."""
        return bool(self._rooms)

    @property
    def checks_events(self) -> bool:
        """Whether there is any policy that may refuse an event."""
        return bool(self._events)

    async def check_room(self, room_id: str) -> None:
        """See :class:`lmatrix.rooms.policy.Policies`."""
        for policy in self._rooms:
            await self._ask("room", policy.check_room, room_id)

    async def check_invite(self, invite: Invite) -> None:
        """See :class:`lmatrix.rooms.policy.Policies`."""
        for policy in self._invites:
            await self._ask("invite", policy.check_invite, invite)

    async def check_action(self, action: LocalAction) -> None:
        """See :class:`lmatrix.rooms.policy.Policies`."""
        for policy in self._actions:
            await self._ask("action", policy.check_action, action)

    async def check_event(self, event: ProposedEvent) -> None:
        """See :class:`lmatrix.rooms.policy.Policies`."""
        for policy in self._events:
            await self._ask("event", policy.check_event, event)

    async def _ask(self, hook: str, ask: Callable[[T], Answer], subject: T) -> None:
        try:
            answer = ask(subject)
            verdict: Verdict = answer if isinstance(answer, Allow | Refuse) else await self._in_time(answer)
            if not isinstance(verdict, Allow | Refuse):
                raise TypeError(f"a policy answers with Allow or Refuse, not with {type(verdict).__name__}")
        except Exception:
            self.log.failure("a policy failed, which counts as a refusal: {policy}", policy=_name_of(ask))
            self._metrics.policy_refusals.labels(hook=hook, why="failed").inc()
            raise Undecided(NO_ANSWER) from None
        if isinstance(verdict, Refuse):
            self._metrics.policy_refusals.labels(hook=hook, why="refused").inc()
            raise Forbidden(_bounded(verdict.reason))

    def _in_time(self, answer: Awaitable[Verdict]) -> Deferred[Verdict]:
        """The answer, or a failure once the time is up, whatever the policy makes of being cancelled."""
        outcome: Deferred[Verdict] = Deferred()
        asking = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))

        def late() -> None:
            outcome.errback(TimeoutError(f"no answer within {TIME_LIMIT_S:g} seconds"))
            asking.cancel()

        timer = self._clock.callLater(TIME_LIMIT_S, late)

        def answered(result: Any) -> None:
            if not timer.active():
                return  # too late: whatever it says now, it has been counted as a refusal
            timer.cancel()
            if isinstance(result, Failure):
                outcome.errback(result)
            else:
                outcome.callback(result)

        asking.addBoth(answered)
        return outcome


async def _awaited(answer: Awaitable[Verdict]) -> Verdict:
    return await answer


def _bounded(reason: object) -> str:
    text = reason if isinstance(reason, str) and reason.strip() else "A policy of this server does not allow this."
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def _name_of(ask: Callable[..., object]) -> str:
    owner = getattr(ask, "__self__", ask)
    kind = type(owner)
    return f"{kind.__module__}.{kind.__qualname__}.{getattr(ask, '__name__', '?')}"
