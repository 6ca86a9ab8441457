"""Who hears of a commit: other servers, local users, those who wait for an echo.

Owns: the fan-out after, and never before, a batch is on disk. Each listener only takes note, and works by itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.ids import server_of
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Delivery, LocalAudience, MembershipWatcher
from lmatrix.rooms.inviting import Inviter
from lmatrix.rooms.leading_out import LeadingOut
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.resending import Resender
from lmatrix.rooms.sequencer import Commit
from lmatrix.rooms.stating import HeadSpeaker
from lmatrix.rooms.transfer import HubTransfer


class Announcer:
    """Tells everybody concerned of each commit.

    Args:
        delivery: wakes other servers' queues.
        audience: wakes local users' long polls.
        watcher: told who came and went.
        metrics: ``events_accepted``.
    """

    log = Logger()

    def __init__(
        self, delivery: Delivery, audience: LocalAudience, watcher: MembershipWatcher, metrics: Metrics
    ) -> None:
        self._delivery = delivery
        self._audience = audience
        self._watcher = watcher
        self._metrics = metrics
        self._inviter: Inviter | None = None
        self._outbox: Outbox | None = None
        self._resender: Resender | None = None
        self._transfer: HubTransfer | None = None
        self._leading_out: LeadingOut | None = None
        self._speaker: HeadSpeaker | None = None

    def attach(
        self,
        inviter: Inviter,
        outbox: Outbox,
        resender: Resender,
        transfer: HubTransfer,
        leading_out: LeadingOut,
        speaker: HeadSpeaker,
    ) -> None:
        """Complete the circle: these themselves need the rooms, whose commits are announced here."""
        self._inviter = inviter
        self._outbox = outbox
        self._resender = resender
        self._transfer = transfer
        self._leading_out = leading_out
        self._speaker = speaker

    def committed(self, commit: Commit) -> None:
        """A room's batch is on disk."""
        room = commit.room
        role = "hub" if room.is_hub else "participant"
        self._metrics.events_accepted.labels(role=role).inc(len(commit.draft.events))
        if commit.draft.was_hub or room.is_hub:
            self._delivery.room_advanced(room.room_id, commit.draft.destinations(), commit.draft.growth())
            if self._inviter is not None:
                self._inviter.offer_committed(commit)
        if self._speaker is not None:
            self._speaker.committed(room)
        if self._outbox is not None:
            self._outbox.echoed(commit.draft)
        if commit.streams:
            last = max(commit.streams)
            self._audience.stream_advanced(last, room.room_id)
            # An event that brings a user into the room finds nobody listening to the room for them yet.
            members = {
                appended.pdu.state_key
                for appended in commit.draft.events
                if appended.pdu.type == "m.room.member" and appended.pdu.state_key is not None
            }
            ours = sorted(user_id for user_id in members if server_of(user_id) == room.server_name)
            if ours:
                self._audience.stream_advanced(last, room.room_id, ours)
        if self._resender is not None and commit.draft.hub_server != commit.draft.hub_before:
            self._by_itself(self._resender.hub_changed(room.room_id), room.room_id)
        draft = commit.draft
        if draft.joins or draft.leaves:
            self._watcher.memberships_changed(room.room_id, draft.joins, draft.leaves, draft.new_servers)
        if self._leading_out is not None:
            self._leading_out.committed(commit)
        if self._transfer is not None and room.is_hub and room.joined_per_server[room.server_name] == 0:
            self._by_itself(self._transfer.deserted(room.room_id, just_now=draft.own_users_left), room.room_id)

    def _by_itself(self, work: Coroutine[Any, Any, None], room_id: str) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self.log.failure(
                "{room_id}: what follows a commit failed", failure=failure, room_id=room_id
            )
        )
