"""What is remembered of mirrors, as an interface; :mod:`lmatrix.storage.replication` implements it.

Owns: :class:`MirrorStore`, and the shape of its rows. As everywhere, a method takes the transaction first and never
commits. ``nid`` is a mirror's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from lmatrix.rooms.interfaces import PendingInvite

UNSEEN: Final = 2**62
"""Stands for the stream position of what we wrote, until the stream shows it."""


class MirrorRow(Protocol):
    """A mirror as it is stored.

    Attributes:
        stage: a value of :class:`~lmatrix.replication.interfaces.Stage`.
        outward_position: the last position of the LM room's log that was carried over.
        baseline: DAG stream position up to which *state* was carried over all at once; such state is not carried again.
        horizon: the greatest depth that the linearizer gave.
    """

    @property
    def nid(self) -> int: ...
    @property
    def lm_room_id(self) -> str: ...
    @property
    def dag_room_id(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def outward_position(self) -> int: ...
    @property
    def baseline(self) -> int: ...
    @property
    def horizon(self) -> int: ...


class DagEventRow(Protocol):
    """An event of a mirror's DAG room.

    Attributes:
        stream: its stream position.
        waiting: whether it is still to be carried over.
        refused: whether the LM room refused it.
    """

    @property
    def event_id(self) -> str: ...
    @property
    def stream(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def waiting(self) -> bool: ...
    @property
    def refused(self) -> bool: ...


class Lag(Protocol):
    """What waits in one direction.

    Attributes:
        events: how many.
        since_ts: since when the oldest waits, milliseconds since the epoch; ``None`` when nothing does.
    """

    @property
    def events(self) -> int: ...
    @property
    def since_ts(self) -> int | None: ...


class MirrorStore(Protocol):
    """Mirrors, and what has become of the events of their rooms."""

    def stream_position(self, tx: Any) -> int | None:
        """How far the DAG stream has been read; ``None`` before the first time."""

    def set_stream_position(self, tx: Any, position: int) -> None: ...

    def mirrors(self, tx: Any) -> Sequence[MirrorRow]:
        """All of them."""

    def add_mirror(self, tx: Any, lm_room_id: str, dag_room_id: str, stage: str) -> MirrorRow:
        """A new one. When there is one with both rooms, that one, as it is.

        Raises:
            Forbidden: one of the rooms is in another mirror.
        """

    def set_stage(self, tx: Any, nid: int, stage: str, reason: str | None) -> None: ...

    def set_outward(self, tx: Any, nid: int, position: int) -> None: ...

    def set_baseline(self, tx: Any, nid: int, stream: int) -> None: ...

    def dag_events(self, tx: Any, nid: int, event_ids: Sequence[str]) -> Mapping[str, DagEventRow]:
        """Those that are known."""

    def place(self, tx: Any, nid: int, events: Sequence[tuple[str, int, int, bool]], now_ms: int) -> None:
        """The next events of the linearizer's list: (event ID, stream, depth, whether it waits to be carried over).

        For an event that is known because we wrote it, only stream and depth are noted. Raises the horizon."""

    def waiting(self, tx: Any, nid: int, limit: int) -> Sequence[str]:
        """Event IDs that wait, in the list's order."""

    def settle(self, tx: Any, nid: int, event_id: str, *, refused: bool = False) -> None:
        """An event waits no longer."""

    def link(self, tx: Any, nid: int, lm_event_id: str, dag_event_id: str, stream: int | None, now_ms: int) -> None:
        """Two events are the same; the DAG event waits no longer.

        Args:
            stream: the DAG event's, or :data:`UNSEEN`, for one that may be new; ``None`` for one that is known.
        """

    def dag_of(self, tx: Any, nid: int, lm_event_ids: Sequence[str]) -> Mapping[str, str]:
        """LM event ID → DAG event ID, the latest where there are several."""

    def lm_of(self, tx: Any, nid: int, dag_event_ids: Sequence[str]) -> Mapping[str, str]:
        """DAG event ID → LM event ID, likewise."""

    def linked(self, tx: Any, nid: int, lm_event_id: str, dag_event_id: str) -> bool: ...

    def lose(self, tx: Any, nid: int, event_id: str, cause: str) -> None:
        """An event, of either side, could not be carried over; once for each."""

    def losses(self, tx: Any, nid: int) -> Mapping[str, int]:
        """Cause → how many."""

    def inward_lag(self, tx: Any, nid: int) -> Lag: ...

    def outward_lag(self, tx: Any, nid: int) -> Lag:
        """Of the events beyond the outward position; ``since_ts`` is the oldest one's own timestamp."""

    def names(self, tx: Any) -> Mapping[str, str]:
        """Ghost → user, of those that do not spell it out."""

    def add_names(self, tx: Any, names: Mapping[str, str]) -> None: ...

    def pending_invites(self, tx: Any) -> Sequence[PendingInvite]:
        """Every pending invite and knock of local users, the oldest first."""
