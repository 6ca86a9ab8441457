"""An answer to ``/sync``, from one database snapshot.

Owns: :class:`SyncReader`. Invariants: an answer covers exactly the stream positions after the client's token and up to
the one that its ``next_batch`` names, which is the last one committed when the snapshot was taken: nothing is skipped
and nothing is told twice. There is one writer, and it gives stream positions out in the order of its commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.client_events import LogEvent, stripped_event
from lmatrix.client_api.filters import SyncFilter
from lmatrix.client_api.interfaces import AccountStore, TimelineStore, UserRoom
from lmatrix.client_api.rendering import Renderer
from lmatrix.client_api.sync.beside import Beside, BesideReader, acknowledged_by, typing_news
from lmatrix.client_api.sync.room_news import RoomBeside, RoomNews, Span
from lmatrix.client_api.tokens import StreamToken
from lmatrix.devices.typing_notices import NOBODY_TYPES, TypingSnapshot
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.interfaces import InviteStore, JsonObject, PendingInvite, RoomStore, Standing, StoredEvent


@attrs.frozen(slots=True)
class SyncQuestion:
    """What a client asks.

    Attributes:
        since: its token; ``None`` for a first sync.
        wanted: its filter.
        full_state: whether it wants whole states.
        now_ms: milliseconds since the epoch.
        typing: who is typing.
    """

    requester: Requester
    since: StreamToken | None
    wanted: SyncFilter
    full_state: bool
    now_ms: int
    typing: TypingSnapshot = NOBODY_TYPES


@attrs.frozen(slots=True)
class SyncAnswer:
    """What it is told.

    Attributes:
        body: the answer.
        stream: up to where it tells everything.
        rooms: the rooms whose events concern the user.
        has_news: whether there is anything in it.
        acknowledged: stream position up to which the device has its messages, when any of these are still kept.
    """

    body: JsonObject = attrs.field(repr=False)
    stream: int
    rooms: frozenset[str]
    has_news: bool
    acknowledged: int | None


@attrs.frozen(slots=True)
class SyncReader:
    """Reads answers.

    Attributes:
        store, timeline, invites, accounts: what to read.
        beside: reads what is beside the rooms' logs.
    """

    store: RoomStore
    timeline: TimelineStore
    invites: InviteStore
    accounts: AccountStore
    beside: BesideReader

    def read(self, tx: Any, question: SyncQuestion) -> SyncAnswer:
        """The answer as of this snapshot."""
        user_id = question.requester.user_id
        up_to = self.timeline.max_stream(tx)
        # A token from the future was given out by a database that has been put back since: begin anew.
        since = None if question.since is None or question.since.stream > up_to else question.since
        span = Span(None if since is None else since.stream, up_to, question.full_state)
        renderer = Renderer(self.store, self.accounts, question.requester, question.now_ms, with_room_id=False)
        news = RoomNews(tx, self.store, self.timeline, renderer, user_id, span, question.wanted)
        rooms = self.timeline.rooms_of_user(tx, user_id)
        joined = frozenset(room.room_id for room in rooms if room.membership == "join")
        beside = self.beside.read(tx, question.requester, since, up_to, rooms, question.now_ms)
        typing, told_typing = typing_news(question.typing, since, joined)
        of_rooms = self.beside.of_rooms(tx, user_id, span, rooms, question.wanted, typing)
        sections: dict[str, JsonObject] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        for room in self._concerned(tx, rooms, span, of_rooms):
            if question.wanted.wants_room(room.room_id):
                self._add(sections, news, room, span, of_rooms.get(room.room_id))
        self._add_invites(tx, sections, rooms, span, question)
        self._add_ended_invites(tx, sections, span, question, renderer)
        return SyncAnswer(
            body=_body(StreamToken(up_to, beside.messages_up_to, told_typing), sections, beside),
            stream=up_to,
            rooms=joined,
            has_news=any(sections.values()) or beside.is_news,
            acknowledged=acknowledged_by(since) if since is not None and beside.acknowledged else None,
        )

    def _concerned(
        self, tx: Any, rooms: Sequence[UserRoom], span: Span, of_rooms: Mapping[str, RoomBeside]
    ) -> list[UserRoom]:
        """The rooms that may have something to tell: those in which anything has happened."""
        if span.since is None:
            return list(rooms)
        changed = set(self.timeline.changes_since(tx, [room.room_id for room in rooms], span.since, span.up_to))
        changed.update(of_rooms)
        return [room for room in rooms if room.room_id in changed or (span.full_state and room.membership == "join")]

    def _add(
        self,
        sections: dict[str, JsonObject],
        news: RoomNews,
        room: UserRoom,
        span: Span,
        beside: RoomBeside | None,
    ) -> None:
        if room.membership == "join":
            entry = news.joined(room, beside)
            if entry is not None:
                sections["join"][room.room_id] = entry
        elif room.membership in ("invite", "knock"):
            if room.stream is not None and (span.since is None or room.stream > span.since):
                sections[room.membership][room.room_id] = {f"{room.membership}_state": news.invited(room)}
        else:
            entry = news.left(room)
            if entry is not None:
                sections["leave"][room.room_id] = entry

    def _add_invites(
        self,
        tx: Any,
        sections: dict[str, JsonObject],
        rooms: Sequence[UserRoom],
        span: Span,
        question: SyncQuestion,
    ) -> None:
        """Invites and knocks for rooms that this server is not in."""
        joined = {room.room_id for room in rooms if room.membership == "join"}
        for invite in self.invites.for_user(tx, question.requester.user_id):
            if invite.room_id in joined or not question.wanted.wants_room(invite.room_id):
                continue
            if span.since is None or invite.stream > span.since:
                membership, events = _pending(invite)
                sections["leave"].pop(invite.room_id, None)
                sections[membership][invite.room_id] = {f"{membership}_state": {"events": events}}

    def _add_ended_invites(
        self,
        tx: Any,
        sections: dict[str, JsonObject],
        span: Span,
        question: SyncQuestion,
        renderer: Renderer,
    ) -> None:
        """Invites for rooms that this server is not in, that came to nothing."""
        if span.since is None:
            return
        for ended in self.timeline.ended_invites(tx, question.requester.user_id, span.since, span.up_to):
            if not question.wanted.wants_room(ended.room_id):
                continue
            if any(ended.room_id in section for section in sections.values()):
                continue  # the log tells more
            event = _outside_event(ended.room_id, ended.room_version, ended.canonical)
            sections["leave"][ended.room_id] = {
                "timeline": {
                    "events": renderer.state(tx, [event]),
                    "limited": False,
                    "prev_batch": str(StreamToken(ended.stream)),
                },
                "state": {"events": []},
                "account_data": {"events": []},
            }


def _pending(invite: PendingInvite) -> tuple[str, list[JsonObject]]:
    """``("invite", events)``, or the same for a knock: the stripped state that came along, and the member event."""
    own = _outside_event(invite.room_id, invite.room_version, invite.canonical)
    membership = "knock" if own.content.get("membership") == "knock" else "invite"
    others = [
        event
        for event in invite.stripped_state
        if (event.get("type"), event.get("state_key")) != (own.type, own.state_key)
    ]
    return membership, [*others, stripped_event(own)]


def _outside_event(room_id: str, version: str, canonical: bytes) -> LogEvent:
    """An event of a room that this server has no log of."""
    event_id = Pdu.from_canonical(canonical, room_version(version)).event_id
    return LogEvent.of(StoredEvent(room_id, 0, event_id, None, canonical, Standing.ACCEPTED, None))


def _body(next_batch: StreamToken, sections: dict[str, JsonObject], beside: Beside) -> JsonObject:
    return {
        "next_batch": str(next_batch),
        "rooms": sections,
        "account_data": {"events": []},
        "presence": {"events": []},
        "to_device": {"events": list(beside.messages)},
        "device_lists": {"changed": list(beside.lists.changed), "left": list(beside.lists.left)},
        "device_one_time_keys_count": dict(beside.key_counts),
        "device_unused_fallback_key_types": list(beside.unused_last_resort),
    }
