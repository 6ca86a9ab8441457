"""The interface between lmatrix and a policy, one that comes with it or somebody else's.

Owns: the hooks, each a Protocol of its own, and what a hook may answer. A policy is an object with one or more of
these hooks. A hook answers at once, or with something to be awaited (a coroutine, a Deferred), in which case there is
a time limit. An exception counts as a refusal: a policy that is broken must not let everything through.

Source: I-D "User Privacy" and "Spam Prevention", which leave it to each server what it does about unwanted invites and
rooms.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol, runtime_checkable

import attrs

from lmatrix.rooms.policy import Invite, LocalAction, ProposedEvent

HOOKS: Final = ("check_room", "check_invite", "check_action", "check_event")


@attrs.frozen(slots=True)
class Allow:
    """This policy has nothing against it; the next one is asked."""


@attrs.frozen(slots=True)
class Refuse:
    """It must not happen.

    Attributes:
        reason: a sentence for whoever wanted it, here or on another server. It is cut to a few hundred characters.
    """

    reason: str


Verdict = Allow | Refuse
Answer = Verdict | Awaitable[Verdict]

ALLOW: Final = Allow()


@runtime_checkable
class ChecksRooms(Protocol):
    """Is a room blocked here? Asked often, for every request about a room: it should answer at once."""

    def check_room(self, room_id: str) -> Answer:
        """``Refuse``: nothing is done there for anybody, and our users are led out."""


@runtime_checkable
class ChecksInvites(Protocol):
    """May an invite reach our user?"""

    def check_invite(self, invite: Invite) -> Answer:
        """``Refuse``: the inviter is told so; an invite that came with a room's events is declined."""


@runtime_checkable
class ChecksActions(Protocol):
    """May a local user create a room, join, knock, or invite somebody?"""

    def check_action(self, action: LocalAction) -> Answer:
        """``Refuse``: the user is told so."""


@runtime_checkable
class ChecksEvents(Protocol):
    """May an event enter a room? Asked of local users' events, and, where we are the hub, of other servers'."""

    def check_event(self, event: ProposedEvent) -> Answer:
        """``Refuse``: the event is not sent, or not taken."""
