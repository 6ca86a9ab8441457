"""Who hears of a commit: other servers, local users, those who wait for an echo.

Owns: the fan-out after, and never before, a batch is on disk. Each listener only takes note, and works by itself.
"""

from __future__ import annotations

from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Delivery, LocalAudience
from lmatrix.rooms.inviting import Inviter
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.sequencer import Commit


class Announcer:
    """Tells everybody concerned of each commit.

    Args:
        delivery: wakes other servers' queues.
        audience: wakes local users' long polls.
        metrics: ``events_accepted``.
    """

    def __init__(self, delivery: Delivery, audience: LocalAudience, metrics: Metrics) -> None:
        self._delivery = delivery
        self._audience = audience
        self._metrics = metrics
        self._inviter: Inviter | None = None
        self._outbox: Outbox | None = None

    def attach(self, inviter: Inviter, outbox: Outbox) -> None:
        """Complete the circle: these themselves need the rooms, whose commits are announced here."""
        self._inviter = inviter
        self._outbox = outbox

    def committed(self, commit: Commit) -> None:
        """A room's batch is on disk."""
        room = commit.room
        role = "hub" if room.is_hub else "participant"
        self._metrics.events_accepted.labels(role=role).inc(len(commit.draft.events))
        if room.is_hub:
            self._delivery.room_advanced(room.room_id, commit.draft.destinations())
            if self._inviter is not None:
                self._inviter.offer_committed(commit)
        elif self._outbox is not None:
            self._outbox.echoed(commit.draft)
        if commit.streams:
            self._audience.stream_advanced(max(commit.streams), room.room_id)
