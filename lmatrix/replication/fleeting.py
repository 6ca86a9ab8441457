"""Typing and receipts, both ways: told now or never.

Owns: :class:`Fleeting`, which is the rooms' receiver of EDUs and tells the DAG server, and the other way. Nothing of it
is stored; what names a user or an event that the other side does not have is left out. Our own users' are told to LM
servers, remote LM users' to the DAG server, nobody's to where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.devices.edus import (
    READ,
    EduDropped,
    Receipt,
    TypingNotice,
    kind_of,
    read_edu,
    receipt_edu,
    typing_edu,
)
from lmatrix.devices.interfaces import EduDelivery
from lmatrix.errors import LMatrixError
from lmatrix.replication.interfaces import JsonObject, Stage
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import Sides

TYPING_MS: Final = 30_000
"""How long a remote user is said to type, unless it is said again."""

MAX_TYPISTS: Final = 50
"""Users of one DAG room whose typing is told."""


class Fleeting:
    """Carries typing and receipts.

    Args:
        sides: both sides.
        delivery: sends EDUs.
    """

    log = Logger()

    def __init__(self, sides: Sides, delivery: EduDelivery) -> None:
        self._sides = sides
        self._delivery = delivery
        self._typists: dict[str, frozenset[str]] = {}

    # -- LM → DAG --

    async def receive(self, origin: str, edus: Sequence[JsonObject], record: Callable[[Any], None]) -> None:
        """See :class:`~lmatrix.rooms.interfaces.EduReceiver`. Nothing is stored, so that nothing is recorded."""
        for raw in edus:
            try:
                values = read_edu(origin, raw)
            except EduDropped as dropped:
                values = [dropped]
            for value in values:
                outcome = "ignored"
                if isinstance(value, EduDropped):
                    outcome = value.outcome
                elif isinstance(value, TypingNotice | Receipt):
                    outcome = await self._tell_dag(value)
                self._sides.metrics.edus.labels(type=kind_of(raw), outcome=outcome).inc()

    async def _tell_dag(self, value: TypingNotice | Receipt) -> str:
        sides, pair = self._sides, self._sides.pairs.by_lm(value.room_id)
        room = None if pair is None or pair.stage is not Stage.OPEN else await sides.room(pair)
        if pair is None or room is None or room.membership(value.user_id) != "join":
            return "forbidden"
        ghost = sides.names.to_dag(value.user_id)
        try:
            if isinstance(value, TypingNotice):
                await sides.dag.set_typing(pair.dag_room_id, ghost, typing=value.typing, timeout_ms=TYPING_MS)
                return "accepted"
            nid, event_id = pair.nid, value.event_id
            known = await sides.database.read(lambda tx: sides.store.dag_of(tx, nid, [event_id]))
            if value.kind != READ or event_id not in known:
                return "unknown_event"
            await sides.dag.set_read(pair.dag_room_id, ghost, known[event_id])
        except LMatrixError as error:
            self.log.debug("{user_id}: could not be told to the DAG server: {error}", user_id=ghost, error=error)
            return "failed"
        return "accepted"

    # -- DAG → LM --

    def typing_changed(self, dag_room_id: str, user_ids: Sequence[str]) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.typing_changed`."""
        pair = self._open(dag_room_id)
        if pair is None:
            return
        ours = sorted(user_id for user_id in user_ids if not self._sides.names.is_dag_ghost(user_id))[:MAX_TYPISTS]
        named = (self._sides.names.to_lm(user_id) for user_id in ours)
        now = frozenset(user_id for user_id in named if user_id is not None)
        before = self._typists.pop(dag_room_id, frozenset())
        if now:
            self._typists[dag_room_id] = now
        notices = [TypingNotice(pair.lm_room_id, user_id, user_id in now) for user_id in sorted(now | before)]
        self._by_itself(
            self._tell_lm(pair, [(f"typing {one.room_id} {one.user_id}", typing_edu(one)) for one in notices])
        )

    def read_up_to(self, dag_room_id: str, user_id: str, event_id: str, ts: int) -> None:
        """See :meth:`~lmatrix.replication.interfaces.Mirrors.read_up_to`."""
        pair = self._open(dag_room_id)
        named = self._sides.names.to_lm(user_id)
        if pair is not None and named is not None and self._sides.names.is_ours(named):
            self._by_itself(self._tell_receipt(pair, named, event_id, ts))

    async def _tell_receipt(self, pair: Pair, user_id: str, event_id: str, ts: int) -> None:
        sides, nid = self._sides, pair.nid
        known = await sides.database.read(lambda tx: sides.store.lm_of(tx, nid, [event_id]))
        if event_id in known:
            receipt = Receipt(pair.lm_room_id, user_id, READ, known[event_id], ts)
            await self._tell_lm(pair, [(f"receipt {receipt.room_id} {user_id} ", receipt_edu(receipt))])

    async def _tell_lm(self, pair: Pair, edus: Sequence[tuple[str, JsonObject]]) -> None:
        destinations = await self._sides.rooms.destinations(pair.lm_room_id)
        for destination in sorted(destinations):
            for subject, edu in edus:
                self._delivery.offer_edu(destination, subject, edu)

    def _open(self, dag_room_id: str) -> Pair | None:
        pair = self._sides.pairs.by_dag(dag_room_id)
        return pair if pair is not None and pair.stage is Stage.OPEN else None

    def _by_itself(self, work: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(lambda failure: self.log.info("not told: {error}", error=failure.value))
