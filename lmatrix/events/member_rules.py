"""Auth rule 5: membership events.

Owns: who may join, invite, leave, kick, ban, unban and knock.

Source: I-D "Auth Rules Algorithm", rule 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier
from lmatrix.events.auth_context import AuthContext, Verdict, reject

DEFAULT_JOIN_RULE: Final = "invite"


def member_rule(context: AuthContext) -> Verdict:
    """Rule 5. Every membership event is either allowed or rejected here."""
    event = context.event
    if event.type != "m.room.member":
        return Verdict.GO_ON
    # 5.1
    if event.state_key is None or "membership" not in event.content:
        raise reject("5.1", "a membership event needs a state_key and a membership")
    try:
        # The I-D's "m.room.member" leaves it to these rules that the state key is a user ID.
        target = ids.user_id(event.state_key)
    except InvalidIdentifier as error:
        raise reject("5.1", f"the state_key of a membership event must be a user ID: {error.reason}") from error
    membership = event.content["membership"]
    decide = _BY_MEMBERSHIP.get(membership) if isinstance(membership, str) else None
    # 5.7
    if decide is None:
        raise reject("5.7", "the membership is unknown")
    decide(context, target)
    return Verdict.ALLOW


def join_rule_of(context: AuthContext) -> object:
    """The room's join rule: any JSON value, since nothing checks it; ``invite`` when unset."""
    event = context.state.get("m.room.join_rules")
    return DEFAULT_JOIN_RULE if event is None else event.content.get("join_rule", DEFAULT_JOIN_RULE)


def _join(context: AuthContext, target: str) -> None:
    sender = context.event.sender
    create = context.create
    # 5.2.1
    if create is not None and target == create.sender and list(context.prev_events) == [create.event_id]:
        return
    # 5.2.2
    if sender != target:
        raise reject("5.2.2", f"{sender} cannot join for {target}")
    current = context.membership_of(target)
    # 5.2.3
    if current == "ban":
        raise reject("5.2.3", f"{target} is banned")
    join_rule = join_rule_of(context)
    # 5.2.4
    if join_rule in ("invite", "knock") and current in ("invite", "join"):
        return
    # 5.2.5
    if join_rule == "public":
        return
    # 5.2.6
    raise reject("5.2.6", f"{target} is not invited to this room")


def _invite(context: AuthContext, target: str) -> None:
    sender = context.event.sender
    # 5.3.1
    _sender_must_be_joined(context, "5.3.1")
    # 5.3.2
    current = context.membership_of(target)
    if current == "join":
        raise reject("5.3.2", f"{target} is already in the room")
    if current == "ban":
        raise reject("5.3.2", f"{target} is banned")
    # 5.3.3
    level, needed = context.sender_level(), context.power_levels.level_for("invite")
    if level >= needed:
        return
    # 5.3.4
    raise reject("5.3.4", f"{sender} has power level {level}; inviting needs {needed}")


def _leave(context: AuthContext, target: str) -> None:
    sender = context.event.sender
    current = context.membership_of(target)
    # 5.4.1
    if sender == target:
        if current in ("knock", "join", "invite"):
            return
        raise reject("5.4.1", f"{target} is {'banned' if current == 'ban' else 'not in this room'}")
    # 5.4.2
    _sender_must_be_joined(context, "5.4.2")
    levels = context.power_levels
    level = context.sender_level()
    # 5.4.3
    if current == "ban" and level < levels.level_for("ban"):
        raise reject("5.4.3", f"{sender} has power level {level}; lifting a ban needs {levels.level_for('ban')}")
    # 5.4.4
    needed, targets_level = levels.level_for("kick"), levels.user_level(target)
    if level >= needed and targets_level < level:
        return
    # 5.4.5
    raise reject("5.4.5", _outranked(sender, level, "kicking", needed, target, targets_level))


def _ban(context: AuthContext, target: str) -> None:
    sender = context.event.sender
    # 5.5.1
    _sender_must_be_joined(context, "5.5.1")
    # 5.5.2
    level = context.sender_level()
    needed, targets_level = context.power_levels.level_for("ban"), context.power_levels.user_level(target)
    if level >= needed and targets_level < level:
        return
    # 5.5.3
    raise reject("5.5.3", _outranked(sender, level, "banning", needed, target, targets_level))


def _knock(context: AuthContext, target: str) -> None:
    sender = context.event.sender
    # 5.6.1
    if join_rule_of(context) != "knock":
        raise reject("5.6.1", "this room does not take knocks")
    # 5.6.2
    if sender != target:
        raise reject("5.6.2", f"{sender} cannot knock for {target}")
    # 5.6.3
    current = context.membership_of(target)
    if current not in ("ban", "join"):
        return
    # 5.6.4
    raise reject("5.6.4", f"{target} is {'banned' if current == 'ban' else 'already in the room'}")


def _sender_must_be_joined(context: AuthContext, rule: str) -> None:
    if context.membership_of(context.event.sender) != "join":
        raise reject(rule, f"{context.event.sender} is not in the room")


def _outranked(sender: str, level: int, action: str, needed: int, target: str, targets_level: int) -> str:
    if level < needed:
        return f"{sender} has power level {level}; {action} needs {needed}"
    return f"{sender} has power level {level}; {action} {target} needs more than {targets_level}"


_BY_MEMBERSHIP: Final[Mapping[str, Callable[[AuthContext, str], None]]] = {
    "join": _join,
    "invite": _invite,
    "leave": _leave,
    "ban": _ban,
    "knock": _knock,
}
