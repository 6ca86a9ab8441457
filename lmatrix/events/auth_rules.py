"""Is this event allowed?

Owns: :func:`authorise`, which asks the rules of the event's room version one after the other. The rules themselves are
data of the room version (see :mod:`~lmatrix.events.room_versions`) and stand in ``common_rules``, ``member_rules``,
``power_level_rules`` and ``hub_rules``.

Rules 1 and 2 (the signatures) are not among them: an event that lacks a required signature is dropped by
:mod:`~lmatrix.events.verification` and never gets here.

Source: I-D "Authorization Rules".
"""

from __future__ import annotations

from collections.abc import Sequence

from lmatrix.events.auth_context import AuthContext, Verdict
from lmatrix.events.candidate import Candidate
from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.state import StateEvent, StateView


def authorise(
    event: Candidate,
    state: StateView,
    *,
    prev_events: Sequence[str],
    auth_events: Sequence[StateEvent] | None = None,
) -> None:
    """Return if the auth rules allow ``event``.

    Args:
        event: an LPDU, a PDU, or a draft that is yet to be built.
        state: the state before it.
        prev_events: IDs of the events that it follows: a PDU's own, or those that it is about to be given.
        auth_events: the state events whose IDs it cites, in its order. ``None`` when the caller selected them from
            ``state``, which rule 4 then holds for by construction.

    Raises:
        EventRejected: a rule refuses it. The reason may be shown to users.
    """
    context = AuthContext(
        event=event,
        state=state,
        create=state.get("m.room.create"),
        prev_events=prev_events,
        auth_events=auth_events,
        power_levels=PowerLevels.of(state),
    )
    for rule in event.room_version.auth_rules:
        if rule(context) is Verdict.ALLOW:
            return
    raise AssertionError(f"the rules of {event.room_version.identifier} end without a verdict")
