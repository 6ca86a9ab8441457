"""What the hub decides about one event, given the room as it is (I-D "Receiving Events/PDUs", "Authorization Rules").

Owns: the pure decisions that a hub's tickets make on a :class:`~lmatrix.rooms.room.RoomDraft`: complete an LPDU of a
participant, make an event of one of our own users, append an invite that its target has signed. Each either appends
exactly one event, or raises and appends nothing. In a room that is held (see :mod:`lmatrix.rooms.recovery`) all of them
raise, and none signs anything: the head may not be the last event that we have signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmatrix.errors import RoomRecovering, WrongServer
from lmatrix.events.auth_events import select_auth_events
from lmatrix.events.auth_rules import authorise
from lmatrix.events.building import build_hub_event, complete_lpdu
from lmatrix.events.candidate import Draft
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.room import RoomDraft


@attrs.frozen(slots=True)
class Sequenced:
    """What became of an event that the hub took.

    Attributes:
        event_id: of the event that is in the room.
        pdu: the event, when this call appended it; ``None`` when it was there already.
        position: its position, likewise.
    """

    event_id: str
    pdu: Pdu | None
    position: int | None


@attrs.frozen(slots=True)
class LocalEvent:
    """An event that one of the hub's own users wants to send.

    Attributes:
        origin_server_ts: milliseconds since the epoch.
    """

    type: str
    sender: str
    content: Mapping[str, Any]
    origin_server_ts: int
    state_key: str | None = None


def take_lpdu(draft: RoomDraft, lpdu: Lpdu, identity: ServerIdentity) -> Sequenced:
    """Complete a verified LPDU as the room's next event.

    Raises:
        WrongServer: it is signed for another hub than the room's.
        EventRejected: the auth rules refuse it.
        EventTooLarge: what the hub must add makes it too large.
        RoomRecovering: the room is held.
    """
    _must_be_hub(draft, identity)
    if lpdu.lpdu_hash is not None:
        known = draft.known_lpdu(lpdu.sender, lpdu.lpdu_hash)
        if known is not None:
            return Sequenced(known, None, None)
    if lpdu.hub_server != identity.server_name:
        raise WrongServer(draft.room.room_id, draft.hub_server)
    pdu = complete(draft, lpdu, identity)
    return _append(draft, pdu)


def complete(draft: RoomDraft, lpdu: Lpdu, identity: ServerIdentity) -> Pdu:
    """The PDU that the hub would make of an LPDU on the draft's head, authorised, but not appended.

    Raises:
        EventRejected: the auth rules refuse it.
        EventTooLarge: what the hub must add makes it too large.
        RoomRecovering: the room is held.
    """
    _must_not_be_held(draft)
    prev_events = draft.prev_events()
    authorise(lpdu, draft.state, prev_events=prev_events)
    return complete_lpdu(
        lpdu,
        auth_events=select_auth_events(lpdu, draft.state),
        prev_events=prev_events,
        server_name=identity.server_name,
        keys=identity.keys,
    )


def take_local(draft: RoomDraft, event: LocalEvent, identity: ServerIdentity) -> Sequenced:
    """Make an event of one of our own users the room's next.

    Raises:
        WrongServer: this server is not the room's hub (any more).
        EventRejected: the auth rules refuse it.
        EventTooLarge, SchemaViolation: the event cannot be sent at all.
        RoomRecovering: the room is held.
    """
    _must_be_hub(draft, identity)
    return _append(draft, make_local(draft, event, identity))


def make_local(draft: RoomDraft, event: LocalEvent, identity: ServerIdentity) -> Pdu:
    """The PDU of one of our own users' events on the draft's head, authorised, but not appended. Raises as above."""
    _must_not_be_held(draft)
    prev_events = draft.prev_events()
    version = draft.version
    hub_server = identity.server_name if version.hub_events_carry_lpdu else None
    candidate = Draft(
        version,
        draft.room.room_id,
        event.type,
        event.sender,
        event.content,
        event.origin_server_ts,
        event.state_key,
        hub_server,
    )
    authorise(candidate, draft.state, prev_events=prev_events)
    return build_hub_event(
        version,
        room_id=draft.room.room_id,
        type=event.type,
        sender=event.sender,
        content=dict(event.content),
        origin_server_ts=event.origin_server_ts,
        hub_server=identity.server_name,
        auth_events=select_auth_events(candidate, draft.state),
        prev_events=prev_events,
        keys=identity.keys,
        state_key=event.state_key,
    )


def take_signed_invite(draft: RoomDraft, offered: Pdu, lpdu: Lpdu | LocalEvent, identity: ServerIdentity) -> Sequenced:
    """Append an invite that its target's server has signed; anew when the room has moved on meanwhile.

    Args:
        offered: the event with the target's signature, made on the head of then.
        lpdu: what it was made from.

    Raises:
        as :func:`take_lpdu`.
    """
    _must_be_hub(draft, identity)
    if offered.prev_events == draft.prev_events():
        authorise(offered, draft.state, prev_events=offered.prev_events)
        return _append(draft, offered)
    return take_lpdu(draft, lpdu, identity) if isinstance(lpdu, Lpdu) else take_local(draft, lpdu, identity)


def _append(draft: RoomDraft, pdu: Pdu) -> Sequenced:
    appended = draft.append(pdu)
    return Sequenced(pdu.event_id, pdu, appended.position)


def _must_be_hub(draft: RoomDraft, identity: ServerIdentity) -> None:
    if draft.head_event_id is not None and draft.hub_server != identity.server_name:
        raise WrongServer(draft.room.room_id, draft.hub_server)
    _must_not_be_held(draft)


def _must_not_be_held(draft: RoomDraft) -> None:
    if draft.room.held:
        raise RoomRecovering(draft.room.room_id)
