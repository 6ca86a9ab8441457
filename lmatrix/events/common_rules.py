"""The auth rules that concern every event: 3, 4, 6, 7, 8 and 10.

Owns: the rule for ``m.room.create``, the check of the cited auth events, and the rules on the sender's membership,
power level and state key. Rule 5 is in :mod:`~lmatrix.events.member_rules`, rule 9 in
:mod:`~lmatrix.events.power_level_rules`.

Source: I-D "Auth Rules Algorithm".
"""

from __future__ import annotations

from lmatrix import ids
from lmatrix.events.auth_context import AuthContext, Verdict, reject
from lmatrix.events.auth_events import auth_event_keys


def create_rule(context: AuthContext) -> Verdict:
    """Rule 3, with what the I-D's "m.room.create" leaves to the auth rules."""
    event = context.event
    if event.type != "m.room.create":
        return Verdict.GO_ON
    # 3.1
    if context.prev_events:
        raise reject("3.1", "m.room.create must be the room's first event")
    if context.auth_events:
        raise reject("3.1", "m.room.create has no auth events")
    if event.state_key != "":
        raise reject("3.1", "the state_key of m.room.create must be empty")
    # 3.2
    if ids.server_of(event.room_id) != event.sender_server:
        raise reject("3.2", f"{event.sender} cannot create a room of {ids.server_of(event.room_id)}")
    # 3.3
    if event.content.get("room_version") != event.room_version.identifier:
        raise reject("3.3", f"the room_version of m.room.create must be {event.room_version.identifier}")
    # 3.4
    return Verdict.ALLOW


def auth_events_rule(context: AuthContext) -> Verdict:
    """Rule 4. Auth events that were selected from the state by our own hand can only fail the last part."""
    if context.auth_events is not None:
        _check_cited(context)
    # 4.3, for the state itself: no room, no event.
    if context.create is None:
        raise reject("4.3", "the room has no m.room.create")
    return Verdict.GO_ON


def _check_cited(context: AuthContext) -> None:
    event = context.event
    allowed = auth_event_keys(
        event.room_version, event.type, event.sender, event.state_key, event.content, event.hub_server
    )
    seen: set[tuple[str, str]] = set()
    for cited in context.auth_events or ():
        pair = (cited.type, cited.state_key)
        # 4.1
        if pair in seen:
            raise reject("4.1", f"two auth events for {cited.type}")
        seen.add(pair)
        # 4.2
        if pair not in allowed:
            raise reject("4.2", f"{cited.type} is no auth event of this event")
    # 4.3
    if ("m.room.create", "") not in seen:
        raise reject("4.3", "m.room.create is missing among the auth events")


def sender_joined_rule(context: AuthContext) -> Verdict:
    """Rule 6."""
    if context.membership_of(context.event.sender) != "join":
        raise reject("6", f"{context.event.sender} is not in the room")
    return Verdict.GO_ON


def required_level_rule(context: AuthContext) -> Verdict:
    """Rule 7."""
    event = context.event
    needed = context.power_levels.level_for_event(event.type, event.state_key is not None)
    level = context.sender_level()
    if needed > level:
        raise reject("7", f"{event.sender} has power level {level}; {event.type} needs {needed}")
    return Verdict.GO_ON


def owned_state_rule(context: AuthContext) -> Verdict:
    """Rule 8."""
    event = context.event
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        raise reject("8", f"only {event.state_key} may send this state")
    return Verdict.GO_ON


def otherwise_allow(context: AuthContext) -> Verdict:
    """Rule 10."""
    return Verdict.ALLOW
