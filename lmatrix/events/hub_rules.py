"""I.1's own auth rules: one hub at a time, and how a room passes to the next.

Owns: the rule that refuses another hub's events, and the rule for ``m.room.hub``. They are data of the room version
I.1; a version that lacks them lets ``m.room.hub`` be an event like any other.

Source: protocol notes, "Hub transfer (I.1)".
"""

from __future__ import annotations

from typing import Final

from lmatrix.events.auth_context import AuthContext, Verdict, reject
from lmatrix.events.hub import HUB_EVENT, latest_hub

OTHER_HUB: Final = "other-hub"
HUB_TRANSFER: Final = "hub-transfer"

MAX_TRANSFER_VALIDITY_MS: Final = 60_000
"""For how long after its ``origin_server_ts`` a hub transfer may be signed to stand, in milliseconds."""


def other_hub_rule(context: AuthContext) -> Verdict:
    """An event with a ``hub_server`` other than the current hub is rejected. Comes right after rule 4."""
    named = context.event.hub_server
    if named is not None:
        hub = latest_hub(context.state)
        if named != hub:
            raise reject(OTHER_HUB, f"the hub of this room is {hub}, not {named}")
    return Verdict.GO_ON


def hub_transfer_rule(context: AuthContext) -> Verdict:
    """A joined user's ``m.room.hub`` moves the room to the user's server, if it says so for here and now.

    Comes between rule 6 and rule 7, so that it needs no power level: what it needs is the signature of the current hub.
    """
    event = context.event
    if event.type != HUB_EVENT or event.state_key != "":
        return Verdict.GO_ON
    hub = latest_hub(context.state)
    previous_hub = event.content.get("previous_hub")
    if previous_hub != hub or event.hub_server != hub:
        raise reject(HUB_TRANSFER, f"a hub transfer must name {hub}, the current hub, as previous_hub and hub_server")
    if list(context.prev_events) != [event.content.get("head")]:
        raise reject(HUB_TRANSFER, "a hub transfer must follow the head that it names, and nothing else")
    valid_until = event.content.get("valid_until_ts")
    if type(valid_until) is not int:
        raise reject(HUB_TRANSFER, "valid_until_ts must be an integer")
    if event.origin_server_ts > valid_until:
        raise reject(HUB_TRANSFER, "this hub transfer is no longer valid")
    if valid_until - event.origin_server_ts > MAX_TRANSFER_VALIDITY_MS:
        raise reject(HUB_TRANSFER, f"a hub transfer may be valid for {MAX_TRANSFER_VALIDITY_MS} ms at most")
    return Verdict.ALLOW
