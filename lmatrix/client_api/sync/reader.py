"""An answer to ``/sync``, from one database snapshot.

Owns: :class:`SyncReader`. Invariants: an answer covers exactly the stream positions after the client's token and up to
the one that its ``next_batch`` names, which is the last one committed when the snapshot was taken: nothing is skipped
and nothing is told twice. There is one writer, and it gives stream positions out in the order of its commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.client_events import LogEvent, stripped_event
from lmatrix.client_api.filters import SyncFilter
from lmatrix.client_api.interfaces import AccountStore, TimelineStore, UserRoom
from lmatrix.client_api.rendering import Renderer
from lmatrix.client_api.sync.room_news import RoomNews, Span
from lmatrix.client_api.tokens import StreamToken
from lmatrix.events.forms import Pdu
from lmatrix.events.room_versions import room_version
from lmatrix.rooms.interfaces import InviteStore, JsonObject, PendingInvite, RoomStore, Standing, StoredEvent


@attrs.frozen(slots=True)
class SyncQuestion:
    """What a client asks.

    Attributes:
        since: stream position of its token; ``None`` for a first sync.
        wanted: its filter.
        full_state: whether it wants whole states.
        now_ms: milliseconds since the epoch.
    """

    requester: Requester
    since: int | None
    wanted: SyncFilter
    full_state: bool
    now_ms: int


@attrs.frozen(slots=True)
class SyncAnswer:
    """What it is told.

    Attributes:
        body: the answer.
        stream: up to where it tells everything.
        rooms: the rooms whose events concern the user.
        has_news: whether there is anything in it.
    """

    body: JsonObject = attrs.field(repr=False)
    stream: int
    rooms: frozenset[str]
    has_news: bool


@attrs.frozen(slots=True)
class SyncReader:
    """Reads answers.

    Attributes:
        store, timeline, invites, accounts: what to read.
    """

    store: RoomStore
    timeline: TimelineStore
    invites: InviteStore
    accounts: AccountStore

    def read(self, tx: Any, question: SyncQuestion) -> SyncAnswer:
        """The answer as of this snapshot."""
        user_id = question.requester.user_id
        up_to = self.timeline.max_stream(tx)
        # A token from the future was given out by a database that has been put back since: begin anew.
        since = None if question.since is None or question.since > up_to else question.since
        span = Span(since, up_to, question.full_state)
        renderer = Renderer(self.store, self.accounts, question.requester, question.now_ms, with_room_id=False)
        news = RoomNews(tx, self.store, self.timeline, renderer, user_id, span, question.wanted)
        rooms = self.timeline.rooms_of_user(tx, user_id)
        sections: dict[str, JsonObject] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        for room in self._concerned(tx, rooms, span):
            if question.wanted.wants_room(room.room_id):
                self._add(sections, news, room, span)
        self._add_invites(tx, sections, rooms, span, question)
        self._add_ended_invites(tx, sections, span, question, renderer)
        return SyncAnswer(
            body=_body(StreamToken(up_to), sections),
            stream=up_to,
            rooms=frozenset(room.room_id for room in rooms if room.membership == "join"),
            has_news=any(sections.values()),
        )

    def _concerned(self, tx: Any, rooms: Sequence[UserRoom], span: Span) -> list[UserRoom]:
        """The rooms that may have something to tell: those in which anything has happened."""
        if span.since is None:
            return list(rooms)
        changed = set(self.timeline.changes_since(tx, [room.room_id for room in rooms], span.since, span.up_to))
        return [room for room in rooms if room.room_id in changed or (span.full_state and room.membership == "join")]

    def _add(self, sections: dict[str, JsonObject], news: RoomNews, room: UserRoom, span: Span) -> None:
        if room.membership == "join":
            entry = news.joined(room)
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


def _body(next_batch: StreamToken, sections: dict[str, JsonObject]) -> JsonObject:
    return {
        "next_batch": str(next_batch),
        "rooms": sections,
        "account_data": {"events": []},
        "presence": {"events": []},
        "to_device": {"events": []},
        "device_lists": {"changed": [], "left": []},
        "device_one_time_keys_count": {},
    }
