"""Mirrors: linearized rooms paired with rooms of a DAG-capable server.

Owns: :class:`SqlMirrorStore`, which implements the store of :mod:`lmatrix.replication.store`. Invariants: a room of
either side is in one mirror at most; a place in the linearizer's list is given out once; two events are linked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from lmatrix.errors import Forbidden
from lmatrix.rooms.interfaces import PendingInvite
from lmatrix.storage.engine import Row, Transaction
from lmatrix.storage.invites import every_pending_invite
from lmatrix.storage.rows import insert_rows, select_in

_COLUMNS = "mirror_nid, lm_room_id, dag_room_id, stage, reason, outward_position, baseline, horizon"


@attrs.frozen(slots=True)
class StoredMirror:
    """A mirror. See :class:`lmatrix.replication.store.MirrorRow`."""

    nid: int
    lm_room_id: str
    dag_room_id: str
    stage: str
    reason: str | None
    outward_position: int
    baseline: int
    horizon: int


@attrs.frozen(slots=True)
class StoredDagEvent:
    """See :class:`lmatrix.replication.store.DagEventRow`."""

    event_id: str
    stream: int
    depth: int
    waiting: bool
    refused: bool


@attrs.frozen(slots=True)
class StoredLag:
    """See :class:`lmatrix.replication.store.Lag`."""

    events: int
    since_ts: int | None


class SqlMirrorStore:
    """See :class:`lmatrix.replication.store.MirrorStore`."""

    def stream_position(self, tx: Transaction) -> int | None:
        """How far the DAG stream has been read."""
        row = tx.row("SELECT position FROM mirror_stream WHERE only_row = 1")
        return None if row is None else int(row[0])

    def set_stream_position(self, tx: Transaction, position: int) -> None:
        """Note how far it has been read."""
        tx.execute(
            "INSERT INTO mirror_stream (only_row, position) VALUES (1, ?)"
            " ON CONFLICT (only_row) DO UPDATE SET position = excluded.position",
            (position,),
        )

    def mirrors(self, tx: Transaction) -> list[StoredMirror]:
        """All of them, the oldest first."""
        return [StoredMirror(*row) for row in tx.rows(f"SELECT {_COLUMNS} FROM mirrors ORDER BY mirror_nid")]  # noqa: S608

    def add_mirror(self, tx: Transaction, lm_room_id: str, dag_room_id: str, stage: str) -> StoredMirror:
        """A new one, or the one that there is. Raises :class:`Forbidden` when one of the rooms has another mirror."""
        tx.execute(
            "INSERT INTO mirrors (lm_room_id, dag_room_id, stage, outward_position, baseline, next_place, horizon)"
            " VALUES (?, ?, ?, 0, 0, 1, 0) ON CONFLICT DO NOTHING",
            (lm_room_id, dag_room_id, stage),
        )
        row = tx.row(
            f"SELECT {_COLUMNS} FROM mirrors WHERE lm_room_id = ? AND dag_room_id = ?",  # noqa: S608
            (lm_room_id, dag_room_id),
        )
        if row is None:
            raise Forbidden(f"{lm_room_id} or {dag_room_id} is in another mirror")
        return StoredMirror(*row)

    def set_stage(self, tx: Transaction, nid: int, stage: str, reason: str | None) -> None:
        """How far it has come."""
        tx.execute("UPDATE mirrors SET stage = ?, reason = ? WHERE mirror_nid = ?", (stage, reason, nid))

    def set_outward(self, tx: Transaction, nid: int, position: int) -> None:
        """Everything up to this position of the log was carried over."""
        tx.execute("UPDATE mirrors SET outward_position = ? WHERE mirror_nid = ?", (position, nid))

    def set_baseline(self, tx: Transaction, nid: int, stream: int) -> None:
        """All state up to this position of the stream was carried over."""
        tx.execute("UPDATE mirrors SET baseline = ? WHERE mirror_nid = ?", (stream, nid))

    def dag_events(self, tx: Transaction, nid: int, event_ids: Sequence[str]) -> dict[str, StoredDagEvent]:
        """Those that are known, by event ID."""
        rows = select_in(
            tx,
            "SELECT event_id, stream, depth, waiting, refused FROM mirror_dag_events"
            " WHERE mirror_nid = ? AND event_id IN {in}",
            (nid,),
            event_ids,
        )
        return {
            event_id: StoredDagEvent(event_id, stream, depth, bool(waiting), bool(refused))
            for event_id, stream, depth, waiting, refused in rows
        }

    def place(self, tx: Transaction, nid: int, events: Sequence[tuple[str, int, int, bool]], now_ms: int) -> None:
        """The next events of the list: (event ID, stream, depth, whether it waits)."""
        deepest = max((depth for _, _, depth, _ in events), default=0)
        [(first,)] = tx.rows(
            "UPDATE mirrors SET next_place = next_place + ?, horizon = CASE WHEN horizon < ? THEN ? ELSE horizon END"
            " WHERE mirror_nid = ? RETURNING next_place",
            (len(events), deepest, deepest, nid),
        )
        rows: list[Row] = [
            (nid, event_id, stream, depth, first - len(events) + number, int(waits), 0, now_ms)
            for number, (event_id, stream, depth, waits) in enumerate(events)
        ]
        insert_rows(
            tx,
            "INSERT INTO mirror_dag_events"
            " (mirror_nid, event_id, stream, depth, place, waiting, refused, arrived_ts) VALUES",
            rows,
            "ON CONFLICT (mirror_nid, event_id) DO UPDATE SET stream = excluded.stream, depth = excluded.depth",
        )

    def waiting(self, tx: Transaction, nid: int, limit: int) -> list[str]:
        """Event IDs that wait, in the list's order."""
        rows = tx.rows(
            "SELECT event_id FROM mirror_dag_events WHERE mirror_nid = ? AND waiting = 1 ORDER BY place LIMIT ?",
            (nid, limit),
        )
        return [event_id for (event_id,) in rows]

    def settle(self, tx: Transaction, nid: int, event_id: str, *, refused: bool = False) -> None:
        """An event waits no longer."""
        tx.execute(
            "UPDATE mirror_dag_events SET waiting = 0, refused = ? WHERE mirror_nid = ? AND event_id = ?",
            (int(refused), nid, event_id),
        )

    def link(
        self, tx: Transaction, nid: int, lm_event_id: str, dag_event_id: str, stream: int | None, now_ms: int
    ) -> None:
        """Two events are the same."""
        tx.execute(
            "INSERT INTO mirror_links (mirror_nid, lm_event_id, dag_event_id) VALUES (?, ?, ?)"
            " ON CONFLICT (mirror_nid, lm_event_id, dag_event_id) DO NOTHING",
            (nid, lm_event_id, dag_event_id),
        )
        if stream is None:
            self.settle(tx, nid, dag_event_id)
            return
        tx.execute(
            "INSERT INTO mirror_dag_events"
            " (mirror_nid, event_id, stream, depth, place, waiting, refused, arrived_ts)"
            " VALUES (?, ?, ?, 0, NULL, 0, 0, ?)"
            " ON CONFLICT (mirror_nid, event_id) DO UPDATE SET waiting = 0, refused = 0",
            (nid, dag_event_id, stream, now_ms),
        )

    def dag_of(self, tx: Transaction, nid: int, lm_event_ids: Sequence[str]) -> dict[str, str]:
        """LM event ID → DAG event ID, the latest link of each."""
        return self._counterparts(tx, nid, "lm_event_id", "dag_event_id", lm_event_ids)

    def lm_of(self, tx: Transaction, nid: int, dag_event_ids: Sequence[str]) -> dict[str, str]:
        """DAG event ID → LM event ID, the latest link of each."""
        return self._counterparts(tx, nid, "dag_event_id", "lm_event_id", dag_event_ids)

    def _counterparts(
        self, tx: Transaction, nid: int, given: str, wanted: str, event_ids: Sequence[str]
    ) -> dict[str, str]:
        rows = select_in(
            tx,
            f"SELECT link_nid, {given}, {wanted} FROM mirror_links WHERE mirror_nid = ? AND {given} IN {{in}}",  # noqa: S608
            (nid,),
            event_ids,
        )
        return {known: counterpart for _, known, counterpart in sorted(rows)}

    def linked(self, tx: Transaction, nid: int, lm_event_id: str, dag_event_id: str) -> bool:
        """Whether two events are the same."""
        row = tx.row(
            "SELECT 1 FROM mirror_links WHERE mirror_nid = ? AND lm_event_id = ? AND dag_event_id = ?",
            (nid, lm_event_id, dag_event_id),
        )
        return row is not None

    def lose(self, tx: Transaction, nid: int, event_id: str, cause: str) -> None:
        """An event could not be carried over."""
        tx.execute(
            "INSERT INTO mirror_losses (mirror_nid, event_id, cause) VALUES (?, ?, ?)"
            " ON CONFLICT (mirror_nid, event_id) DO NOTHING",
            (nid, event_id, cause),
        )

    def losses(self, tx: Transaction, nid: int) -> dict[str, int]:
        """Cause → how many."""
        rows = tx.rows(
            "SELECT cause, COUNT(*) FROM mirror_losses WHERE mirror_nid = ? GROUP BY cause ORDER BY cause", (nid,)
        )
        return {cause: int(count) for cause, count in rows}

    def inward_lag(self, tx: Transaction, nid: int) -> StoredLag:
        """What waits to be carried to the LM room."""
        [(count, since)] = tx.rows(
            "SELECT COUNT(*), MIN(arrived_ts) FROM mirror_dag_events WHERE mirror_nid = ? AND waiting = 1", (nid,)
        )
        return StoredLag(int(count), since)

    def outward_lag(self, tx: Transaction, nid: int) -> StoredLag:
        """What waits to be carried to the DAG room. Our own users' events are not carried, and still counted here."""
        [(count, since)] = tx.rows(
            "SELECT COUNT(*), MIN(e.origin_server_ts) FROM mirrors AS m"
            " JOIN rooms AS r ON r.room_id = m.lm_room_id"
            " JOIN events AS e ON e.room_nid = r.room_nid AND e.position > m.outward_position"
            " AND e.position <= r.head_position WHERE m.mirror_nid = ?",
            (nid,),
        )
        return StoredLag(int(count), since)

    def names(self, tx: Transaction) -> dict[str, str]:
        """Ghost → user."""
        rows = tx.rows("SELECT ghost, user_id FROM mirror_names")
        return {str(ghost): str(user_id) for ghost, user_id in rows}

    def add_names(self, tx: Transaction, names: Mapping[str, str]) -> None:
        """Remember ghosts."""
        insert_rows(
            tx,
            "INSERT INTO mirror_names (ghost, user_id) VALUES",
            list(names.items()),
            "ON CONFLICT (ghost) DO NOTHING",
        )

    def pending_invites(self, tx: Transaction) -> list[PendingInvite]:
        """Every pending invite and knock, the oldest first."""
        return every_pending_invite(tx)
