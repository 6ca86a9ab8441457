"""What the operator of this server allows, beside the rules of the rooms (I-D "User Privacy", "Spam Prevention").

Owns: the questions that the rooms ask (:class:`Policies`), the values that they ask about, and :class:`NoPolicies`,
which allows everything. Who answers them is :mod:`lmatrix.policies`' business.

What is asked where:

* *is the room blocked*: before anything is done for another server or a local user in a room, but for leaving it;
* *may this invite reach our user*: when a hub or one of our users invites a local user, and when such an invite comes
  with a room's events (then it is declined);
* *may this local user do this*: before a local user creates a room, joins one, knocks, or invites somebody;
* *may this event be sent*: before a local user's event is sent, and before the hub takes another server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import attrs

from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.ids import server_of

JsonObject = dict[str, Any]


@attrs.frozen(slots=True, kw_only=True)
class Invite:
    """An invite for one of our users.

    Attributes:
        inviter: user ID.
        invitee: user ID, ours.
        room_id: the room.
        hub_server: the server that vouches for it: the room's hub.
        content: of the ``m.room.member`` event.
        stripped_state: what the hub says of the room, unverified; empty when the invite did not come with it.
    """

    inviter: str
    invitee: str
    room_id: str
    hub_server: str
    content: Mapping[str, Any]
    stripped_state: Sequence[JsonObject] = ()

    @property
    def inviter_server(self) -> str:
        """The inviter's server."""
        return server_of(self.inviter)

    @classmethod
    def of(cls, event: Pdu | Lpdu, hub_server: str, stripped_state: Sequence[JsonObject] = ()) -> Invite:
        """The invite that an event is."""
        return cls(
            inviter=event.sender,
            invitee=event.state_key or "",
            room_id=event.room_id,
            hub_server=hub_server,
            content=event.content,
            stripped_state=stripped_state,
        )


def is_invite(event: Pdu | Lpdu) -> bool:
    """Whether an event invites somebody."""
    return event.type == "m.room.member" and event.content.get("membership") == "invite"


class Kind(Enum):
    """What a local user wants to do."""

    CREATE = "create"
    JOIN = "join"
    KNOCK = "knock"
    INVITE = "invite"


@attrs.frozen(slots=True, kw_only=True)
class LocalAction:
    """Something that one of our users wants to do.

    Attributes:
        user_id: who.
        kind: what.
        room_id: where; ``None`` for a room that is not there yet.
        target: whom an invite is for; ``None`` otherwise.
    """

    user_id: str
    kind: Kind
    room_id: str | None = None
    target: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class ProposedEvent:
    """An event that is to enter a room: one of our users', or, in a room whose hub we are, another server's.

    Attributes:
        room_id, type, sender, state_key, content: the event's; ``state_key`` is ``None`` for a message.
        origin: the server that it comes from; ours for a local user's.
    """

    room_id: str
    type: str
    sender: str
    state_key: str | None
    content: Mapping[str, Any]
    origin: str

    @classmethod
    def of(cls, lpdu: Lpdu, origin: str) -> ProposedEvent:
        """An LPDU that came from another server."""
        return cls(
            room_id=lpdu.room_id,
            type=lpdu.type,
            sender=lpdu.sender,
            state_key=lpdu.state_key,
            content=lpdu.content,
            origin=origin,
        )


class Policies(Protocol):
    """What the rooms ask. Every method raises :class:`~lmatrix.errors.Forbidden` with a reason for a refusal,
    and :class:`~lmatrix.errors.Undecided` when there was no answer.
    """

    @property
    def blocks_rooms(self) -> bool:
        """Whether any room can be blocked at all."""

    @property
    def checks_events(self) -> bool:
        """Whether any event, other than an invite for one of our users, can be refused at all."""

    async def check_room(self, room_id: str) -> None:
        """Whether anything at all may be done in a room, but for leaving it."""

    async def check_invite(self, invite: Invite) -> None:
        """Whether an invite may reach our user."""

    async def check_action(self, action: LocalAction) -> None:
        """Whether a local user may do something."""

    async def check_event(self, event: ProposedEvent) -> None:
        """Whether an event may enter a room, as far as that is ours to say."""


class NoPolicies:
    """Everything is allowed."""

    blocks_rooms = False
    checks_events = False

    async def check_room(self, room_id: str) -> None:
        """Allowed."""

    async def check_invite(self, invite: Invite) -> None:
        """Allowed."""

    async def check_action(self, action: LocalAction) -> None:
        """Allowed."""

    async def check_event(self, event: ProposedEvent) -> None:
        """Allowed."""
