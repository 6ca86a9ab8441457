"""Both rooms say the same.

Owns: finding the state in which the two rooms of a mirror differ although nothing is on its way, and putting one of
them right. Who prevails:

* state that was changed on both sides at once: each side has the other's change after its own. The LM room's order is
  the one order, so that the LM room prevails;
* what the LM room refused, or never got, is not in the room: the LM room prevails;
* state that the DAG server's state resolution has undone after it had been carried over: the DAG room prevails, unless
  the LM room refuses it.

The two kinds are told apart by the stream of the DAG server: in the first, what the DAG room says now was accepted
*after* the counterpart of what the LM room says; in the last, before.

Invariants: a correction is linked with what it corrects to, so that the two sides then count as equal; one pair of
differing events is corrected once, so that a room that cannot be put right does not make us write for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

from twisted.logger import Logger

from lmatrix.errors import LMatrixError, SendFailed
from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.state import StateEvent
from lmatrix.replication.comparing import Compared, DagWords, dag_key, keys_of
from lmatrix.replication.content import Unmappable
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.intake import Intake
from lmatrix.replication.interfaces import SOURCE, DagEvent, DagRefused, DagRoom, DagUnavailable, JsonObject, Stage
from lmatrix.replication.pairs import Key, Pair
from lmatrix.replication.sides import DEVICE, INWARD, OUTWARD, Sides, correction_of
from lmatrix.replication.store import UNSEEN
from lmatrix.replication.translation import MEMBER, POWER_LEVELS, Translated
from lmatrix.replication.worker import is_passing
from lmatrix.rooms.local_users import ClientTransaction
from lmatrix.rooms.room import Room

REMEMBERED: Final = 10_000
"""Corrections that are remembered, so that none is made twice."""

_NOT_THERE: Final = "The other side does not have this user in the room."


class Agreement:
    """Puts differing state right.

    Args:
        sides: both sides.
        intake: is asked whether anything is on its way.
        writer: writes on the DAG side.
    """

    log = Logger()

    def __init__(self, sides: Sides, intake: Intake, writer: DagWriter) -> None:
        self._sides = sides
        self._intake = intake
        self._writer = writer
        self._words = DagWords(sides)
        self._tried: OrderedDict[tuple[int, Key, str, str], None] = OrderedDict()

    async def reach(self, pair: Pair) -> None:
        """Compare what may differ, when nothing is on its way, and put it right. Raises what is_passing."""
        if pair.dirty == set() or pair.stage is not Stage.OPEN or not pair.recognised:
            return
        await pair.lock.acquire()
        try:
            await self._reach(pair)
        finally:
            pair.lock.release()

    async def _reach(self, pair: Pair) -> None:
        room = await self._sides.room(pair)
        if room is None or pair.outward_position < room.head_position:
            return  # the outward direction comes first, and we are called again after it
        await self._intake.read_to_end()
        if await self._sides.database.read(lambda tx: self._sides.store.waiting(tx, pair.nid, 1)):
            return  # so does the inward direction
        dirty, pair.dirty = pair.dirty, set()
        try:
            wanted = None if dirty is None else [dag_key(key, self._sides.names) for key in dirty]
            dag_room = await self._sides.dag.room(pair.dag_room_id, wanted)
            if dag_room is None:
                return
            keys = keys_of(room, dag_room, self._sides.names) if dirty is None else dirty
            if dirty is None:
                pair.state_size = len(keys)
            for key in sorted(keys, key=_importance):
                await self._one(pair, room, dag_room, key)
        except BaseException as error:
            if dirty is None:
                pair.touch_all()
            else:
                pair.touch(*dirty)
            if isinstance(error, DagUnavailable):
                pair.doubtful = True
            raise

    async def _one(self, pair: Pair, room: Room, dag_room: DagRoom, key: Key) -> None:
        compared = await self._words.compare(pair, room, dag_room, key)
        if compared is None or compared.equal:
            return
        lm, dag = compared.lm, compared.dag
        if lm is not None and lm.position > pair.outward_position:
            pair.touch(key)  # the outward direction will come to it
            return
        prevails = await self._prevailing(pair, room, compared)
        if prevails is None:
            return
        attempt = (pair.nid, key, "" if lm is None else lm.event_id, "" if dag is None else dag.event_id)
        if attempt in self._tried:
            return
        self.log.info(
            "{room_id}: {type} {state_key} differs; {side} prevails",
            room_id=pair.lm_room_id,
            type=key[0],
            state_key=key[1],
            side=prevails,
        )
        try:
            if prevails == INWARD and dag is not None:
                await self._correct_lm(pair, room, compared, dag)
            else:
                await self._correct_dag(pair, room, dag_room, compared)
        except (DagRefused, Unmappable) as error:
            self.log.warn(
                "{room_id}: {type} {state_key} cannot be put right: {error}",
                room_id=pair.dag_room_id,
                type=key[0],
                state_key=key[1],
                error=error,
            )
            self._sides.metrics.mirror_losses.labels(direction=OUTWARD, cause="correction").inc()
        self._tried[attempt] = None
        if len(self._tried) > REMEMBERED:
            self._tried.popitem(last=False)

    async def _prevailing(self, pair: Pair, room: Room, compared: Compared) -> str | None:
        """Which direction the correction goes; ``None``: nothing is to be done (now)."""
        sides, lm, dag = self._sides, compared.lm, compared.dag
        if dag is None:
            return OUTWARD
        nid, dag_id = pair.nid, dag.event_id
        lm_id = "" if lm is None else lm.event_id

        def look(tx: Any) -> Any:
            counterpart = sides.store.lm_of(tx, nid, [dag_id]).get(dag_id)
            back = sides.store.dag_of(tx, nid, [lm_id]).get(lm_id)
            rows = sides.store.dag_events(tx, nid, [dag_id, *([back] if back else [])])
            known = counterpart is None or sides.room_store.event(tx, counterpart) is not None
            return counterpart, known, rows.get(dag_id), back, rows.get(back or "")

        counterpart, known, dag_row, back, back_row = await sides.database.read(look)
        refused = dag_row is not None and dag_row.refused
        ours = sides.names.is_dag_ghost(dag.sender) or sides.names.is_bot(dag.sender)
        if lm is None:
            # What the LM room never had is only taken back where it was refused there: the DAG side has its own
            # defaults.
            return OUTWARD if refused else None
        if not known:
            pair.touch(compared.key)  # the hub has taken it, and it has not arrived here yet
            return None
        if counterpart is None or refused or back is None:
            if counterpart is None and not ours and dag_row is None:
                return None  # the stream has not shown it yet; or it is from before the mirror, and cannot be said
            # Where our users are is what the DAG side says; an earlier correction may have been for nothing.
            own = compared.key[0] == MEMBER and sides.names.is_ours(compared.key[1]) and sides.names.is_ours(lm.sender)
            return INWARD if own and back is None and not refused else OUTWARD
        # What the stream has never shown us is from before the mirror.
        dag_stream = 0 if dag_row is None else dag_row.stream
        back_stream = 0 if back_row is None else back_row.stream
        if UNSEEN in (dag_stream, back_stream):
            pair.touch(compared.key)
            return None
        return OUTWARD if dag_stream > back_stream else INWARD

    # -- The DAG room follows --

    async def _correct_dag(self, pair: Pair, room: Room, dag_room: DagRoom, compared: Compared) -> None:
        lm, dag, (event_type, state_key) = compared.lm, compared.dag, compared.key
        if event_type == MEMBER:
            written = await self._correct_membership(pair, room, compared)
        else:
            content = {} if lm is None else await self._words.in_dag_words(pair, dag_room, lm)
            reference = f"{'' if lm is None else lm.event_id}{'' if dag is None else dag.event_id}"
            source = correction_of("" if lm is None else lm.event_id, pair.lm_room_id)
            what = Translated(
                event_type, dag_key((event_type, state_key), self._sides.names)[1], {**content, SOURCE: source}
            )
            await self._sides.dag.ensure_ghost(self._sides.dag.bot, None)
            written = await self._writer.write(pair, self._sides.dag.bot, what, _short(reference), None)
        if written is not None and lm is not None:
            await self._link(pair, lm.event_id, written, UNSEEN)
        if written is not None:
            self._sides.metrics.mirror_corrections.labels(direction=OUTWARD).inc()

    async def _link(self, pair: Pair, lm_event_id: str, dag_event_id: str, stream: int | None) -> None:
        store, now_ms = self._sides.store, self._sides.now_ms()
        await self._sides.database.write(lambda tx: store.link(tx, pair.nid, lm_event_id, dag_event_id, stream, now_ms))

    async def _correct_membership(self, pair: Pair, room: Room, compared: Compared) -> str | None:
        target_lm, lm = compared.key[1], compared.lm
        target = self._sides.names.to_dag(target_lm)
        wished = room.membership(target_lm)
        present = "leave" if compared.dag is None else str(compared.dag.content.get("membership"))
        reference = _short(
            f"{'' if lm is None else lm.event_id}{present}{compared.dag.event_id if compared.dag else ''}"
        )
        if self._sides.names.is_dag_ghost(target):
            await self._sides.prepared(target, room, target_lm)
            return await self._move_ghost(pair, target, wished, present, lm, reference)
        return await self._move_ours(pair, target_lm, target, wished, present, lm, reference)

    async def _move_ghost(
        self, pair: Pair, ghost: str, wished: str, present: str, lm: StateEvent | None, reference: str
    ) -> str | None:
        bot = self._sides.dag.bot
        content = self._member_content(pair, lm)
        if wished == "join":
            what = Translated(MEMBER, ghost, {**content, "membership": "join"})
            return await self._writer.write(pair, ghost, what, reference, None)
        if wished == "leave" and present in ("join", "invite", "knock"):
            return await self._writer.set_membership(pair, ghost, ghost, "leave", content, reference)
        if wished in ("leave", "ban", "invite") and wished != present:
            if wished == "invite" and present == "join":
                await self._writer.set_membership(pair, ghost, ghost, "leave", content, f"l{reference}")
            return await self._writer.set_membership(pair, bot, ghost, wished, content, reference)
        return None

    async def _move_ours(
        self, pair: Pair, user_lm: str, user: str, wished: str, present: str, lm: StateEvent | None, reference: str
    ) -> str | None:
        bot = self._sides.dag.bot
        content = self._member_content(pair, lm)
        content.setdefault("reason", _NOT_THERE)
        if wished == "join":
            if present == "join":
                return None  # a name or avatar of our own user, which is what the DAG side says it is
            # Nobody can be made to join: who is not in the DAG room is not in the LM room.
            try:
                await self._sides.local_users.leave(user_lm, pair.lm_room_id, None)
            except SendFailed as error:
                self.log.info("{user_id} leaves later, or not: {error}", user_id=user_lm, error=error)
            except LMatrixError as error:
                if is_passing(error):
                    raise
                self.log.warn("{user_id} could not leave: {error}", user_id=user_lm, error=error)
            self._sides.metrics.mirror_corrections.labels(direction=INWARD).inc()
            return None
        if wished == "leave" and present in ("leave", ""):
            return None
        if wished == "invite" and present == "join":
            await self._writer.remove(pair, user, _NOT_THERE, f"l{reference}")
        if wished in ("leave", "ban", "invite"):
            return await self._writer.set_membership(pair, bot, user, wished, content, reference)
        return None

    def _member_content(self, pair: Pair, lm: StateEvent | None) -> JsonObject:
        if lm is None:
            return {}
        kept = {key: lm.content[key] for key in ("displayname", "avatar_url", "reason") if key in lm.content}
        return {**kept, SOURCE: correction_of(lm.event_id, pair.lm_room_id)}

    # -- The LM room follows --

    async def _correct_lm(self, pair: Pair, room: Room, compared: Compared, dag: DagEvent) -> None:
        event_type, state_key = compared.key
        content = {**(compared.said or {}), SOURCE: correction_of(dag.event_id, pair.dag_room_id)}
        reference = f"{dag.event_id}{'' if compared.lm is None else compared.lm.event_id}"
        for sender in self._senders(room, dag, state_key):
            try:
                lm_event_id = await self._sides.local_users.send(
                    pair.lm_room_id,
                    sender,
                    event_type,
                    content,
                    state_key=state_key,
                    transaction=ClientTransaction(sender, DEVICE, reference),
                )
            except LMatrixError as error:
                if is_passing(error):
                    raise
                self.log.info("{sender} cannot put {type} right: {error}", sender=sender, type=event_type, error=error)
                continue
            await self._link(pair, lm_event_id, dag.event_id, None)
            self._sides.metrics.mirror_corrections.labels(direction=INWARD).inc()
            return
        # The LM room does not take it: then the DAG room follows after all.
        whole = await self._sides.dag.room(
            pair.dag_room_id, [(POWER_LEVELS, ""), dag_key(compared.key, self._sides.names)]
        )
        if whole is not None:
            await self._correct_dag(pair, room, whole, compared)

    def _senders(self, room: Room, dag: DagEvent, state_key: str) -> Iterable[str]:
        """Whoever sent it, if it was one of ours; and whoever of ours has the most power."""
        names = self._sides.names
        first = names.to_lm(dag.sender)
        if first is not None and names.is_ours(first):
            yield first
        levels = PowerLevels.of(room.state)
        joined = [
            member.state_key
            for member in room.state.members()
            if names.is_ours(member.state_key) and room.membership(member.state_key) == "join"
        ]
        if joined:
            strongest = max(joined, key=lambda user_id: (levels.user_level(user_id), user_id))
            if strongest != first:
                yield strongest


def _importance(key: Key) -> tuple[int, Key]:
    """Power levels first, since others follow from them; members last, since there are many."""
    return (0 if key[0] == POWER_LEVELS else 2 if key[0] == MEMBER else 1), key


def _short(reference: str) -> str:
    """What identifies two events, short enough for a transaction ID."""
    return reference if len(reference) <= 60 else reference[:30] + reference[-30:]
