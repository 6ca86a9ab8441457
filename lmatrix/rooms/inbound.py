"""What other servers send with ``PUT /send`` (I-D "Sending Events").

Owns: a transaction as a whole — its bounds, its being carried out once, its answer — and the sorting of its events:
which room, which role, LPDU or PDU. What a role does with its events is the role's. The rooms of a transaction do not
wait for one another, and what is wrong with one event or room changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.canonical_json import encode
from lmatrix.errors import (
    BadRequest,
    EventDropped,
    Forbidden,
    LMatrixError,
    RoomRecovering,
    UnknownKey,
    UnsupportedRoomVersion,
    WrongServer,
)
from lmatrix.events.forms import Lpdu, Pdu, is_lpdu, peek_room_id
from lmatrix.events.hashing import event_id_of
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, RoomVersion, room_version
from lmatrix.metrics import Metrics
from lmatrix.rooms.following import LATER, Fate, Followed
from lmatrix.rooms.head_statements import HEAD
from lmatrix.rooms.hearing import HeadListener
from lmatrix.rooms.hub import Hub, LpduAnswer
from lmatrix.rooms.interfaces import EduReceiver, JsonObject
from lmatrix.rooms.invitations import Invitations
from lmatrix.rooms.participant import Participant
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.room import Room
from lmatrix.rooms.sequencing import Sequenced
from lmatrix.rooms.transactions import Recorder, Transactions

MAX_PDUS = 50
MAX_EDUS = 100
WRONG_SERVER = "M_WRONG_SERVER"
TRY_LATER = "org.lmatrix.try_later"
"""Our addition to an entry of ``failed_pdus``: nothing is wrong with the event, as far as can be told; it is to be sent
again.
"""

ACCEPTED = "org.lmatrix.accepted"
"""Our addition to the answer: the LPDU's event ID → event ID of the PDU made from it."""


@attrs.define(eq=False, slots=True)
class _Answer:
    failed: dict[str, JsonObject] = attrs.field(factory=dict)
    accepted: dict[str, str] = attrs.field(factory=dict)

    def canonical(self) -> bytes:
        answer: JsonObject = {"failed_pdus": self.failed}
        if self.accepted:
            answer[ACCEPTED] = self.accepted
        return encode(answer)


@attrs.define(eq=False, slots=True)
class _Group:
    """The events of a transaction for one room."""

    loaded: LoadedRoom
    lpdus: list[Lpdu] = attrs.field(factory=list)
    pdus: list[Pdu] = attrs.field(factory=list)
    source: str = ""


class TransactionReceiver:
    """Takes transactions from other servers.

    Args:
        rooms, hub, participant, invitations: where events go.
        heads: where head statements go.
        edus: where all other EDUs go.
        transactions: carries each out once.
        policies: may block a room.
        metrics: ``events_refused``.
    """

    log = Logger()

    def __init__(
        self,
        rooms: Rooms,
        hub: Hub,
        participant: Participant,
        invitations: Invitations,
        heads: HeadListener,
        edus: EduReceiver,
        transactions: Transactions,
        policies: Policies,
        metrics: Metrics,
    ) -> None:
        self._rooms = rooms
        self._hub = hub
        self._participant = participant
        self._invitations = invitations
        self._heads = heads
        self._edus = edus
        self._transactions = transactions
        self._policies = policies
        self._metrics = metrics

    async def receive(self, origin: str, transaction_id: str, body: JsonObject, raw: bytes | None = None) -> bytes:
        """Carry out a transaction; the answer's canonical JSON, once everything accepted is on disk.

        Args:
            origin: the authenticated sender.
            body: ``{"pdus": [...], "edus": [...]}``.
            raw: the same as it came, when it is at hand.

        Raises:
            BadRequest: too many PDUs or EDUs, or not lists of objects; nothing was looked at.
            TransactionInFlight: the origin has another transaction in flight.
            StorageFailed, Overloaded: trying the same again later makes sense; events accepted meanwhile are not
                doubled.
        """
        pdus = _objects(body, "pdus", MAX_PDUS)
        edus = _objects(body, "edus", MAX_EDUS)

        async def work(recorder: Recorder) -> bytes:
            return await self._carry_out(origin, pdus, edus, recorder)

        return await self._transactions.once(origin, "send", transaction_id, body, work, exclusive=True, raw=raw)

    async def _carry_out(
        self, origin: str, pdus: Sequence[JsonObject], edus: Sequence[JsonObject], recorder: Recorder
    ) -> bytes:
        statements = [edu for edu in edus if edu.get("type") == HEAD]
        edus = [edu for edu in edus if edu.get("type") != HEAD]
        answer = _Answer()
        groups: dict[str, _Group] = {}
        for raw in pdus:
            await self._sort(origin, raw, groups, answer)
        # With one room the answer is written in the same commit as the events; with more it follows them. With EDUs it
        # is written in the same commit as theirs, which comes last: unlike events, not all of them are recognised when
        # they come again.
        record = recorder if len(groups) == 1 and len(edus) == 0 else None
        results = await DeferredList(
            [Deferred.fromCoroutine(self._take(group, answer, record)) for group in groups.values()],
            consumeErrors=True,
        )
        for _, result in results:
            if isinstance(result, Failure):
                result.raiseException()
        canonical = answer.canonical()
        for edu in statements:
            # After the events that came with it.
            self._heads.heard(origin, edu.get("content"))
        if edus:
            await self._edus.receive(origin, edus, lambda tx: recorder.record(tx, canonical))
        return canonical

    async def _sort(self, origin: str, raw: JsonObject, groups: dict[str, _Group], answer: _Answer) -> None:
        try:
            room_id = peek_room_id(raw)
        except EventDropped as error:
            answer.failed[_best_effort_id(raw)] = {"error": str(error)}
            return
        group = groups.get(room_id)
        if group is None:
            loaded = await self._load(origin, room_id)
            why_not = await self._why_not(room_id, loaded)
            if loaded is None or why_not is not None:
                if not await self._about_an_invite(origin, room_id, raw):
                    version = None if loaded is None else loaded.room.version
                    answer.failed[_best_effort_id(raw, version)] = {
                        "error": why_not or f"this server does not know the room {room_id}"
                    }
                return
            group = _Group(loaded, source=origin)
        room = group.loaded.room
        try:
            if is_lpdu(raw):
                lpdu = Lpdu.parse(raw, room.version)
                if room.is_hub:
                    group.lpdus.append(lpdu)
                elif lpdu.hub_server != room.hub_server:
                    answer.failed[lpdu.event_id] = _failure(WrongServer(room_id, room.hub_server))
                else:
                    self._drop(origin, room_id, "an LPDU, but this server is not the hub")
            elif room.is_hub or not (origin == room.hub_server or _claims_hub(origin, raw, room)):
                self._drop(origin, room_id, "a PDU, but only from the room's hub are PDUs taken")
            elif not room.is_participating:
                if not await self._about_an_invite(origin, room_id, raw):
                    self._drop(origin, room_id, "a PDU of a room that this server has left")
            else:
                group.pdus.append(Pdu.parse(raw, room.version))
        except EventDropped as error:
            self._metrics.events_refused.labels(outcome="dropped", reason="schema").inc()
            self.log.warn("{origin}: dropped a malformed event: {error}", origin=origin, error=error)
            if room.is_hub:
                answer.failed[_best_effort_id(raw, room.version)] = {"error": str(error)}
        if group.lpdus or group.pdus:
            groups[room_id] = group

    async def _why_not(self, room_id: str, loaded: LoadedRoom | None) -> str | None:
        """The reason why nothing is taken for a room that is blocked.

        While our users are still being led out of a room whose hub is elsewhere, its events are taken: their leaving is
        among them.
        """
        if loaded is not None and loaded.room.is_participating and not loaded.room.is_hub:
            return None
        try:
            await self._policies.check_room(room_id)
        except Forbidden as blocked:
            return str(blocked)
        return None

    async def _load(self, origin: str, room_id: str) -> LoadedRoom | None:
        await self._rooms.expected(room_id, origin)
        try:
            return await self._rooms.loaded(room_id)
        except UnsupportedRoomVersion:
            return None

    async def _about_an_invite(self, origin: str, room_id: str, raw: JsonObject) -> bool:
        if is_lpdu(raw):
            return False
        return await self._invitations.member_event_arrived(origin, room_id, raw)

    async def _take(self, group: _Group, answer: _Answer, recorder: Recorder | None) -> None:
        if group.lpdus:

            def answered(tx: Any, answers: list[LpduAnswer]) -> None:
                if recorder is not None:
                    recorder.record(tx, _with_lpdus(answer, answers).canonical())

            placed = recorder.placed if recorder is not None and not group.pdus else None
            done = await self._hub.take_lpdus(group.loaded, group.lpdus, group.source, answered, placed)
            _with_lpdus(answer, done, into=answer)
        if group.pdus:

            def followed(tx: Any, fates: list[Followed]) -> None:
                if recorder is not None:
                    recorder.record(tx, _with_fates(answer, fates).canonical())

            fates = await self._participant.take_pdus(group.loaded, group.pdus, group.source, followed)
            _with_fates(answer, fates, into=answer)

    def _drop(self, origin: str, room_id: str, why: str) -> None:
        self._metrics.events_refused.labels(outcome="dropped", reason="role").inc()
        self.log.info("{room_id}: dropped from {origin}: {why}", room_id=room_id, origin=origin, why=why)


def _with_lpdus(answer: _Answer, answers: Sequence[LpduAnswer], into: _Answer | None = None) -> _Answer:
    result = into or _Answer(dict(answer.failed), dict(answer.accepted))
    for one in answers:
        if isinstance(one.outcome, Sequenced):
            result.accepted[one.lpdu.event_id] = one.outcome.event_id
        else:
            result.failed[one.lpdu.event_id] = _failure(one.outcome)
    return result


def _with_fates(answer: _Answer, fates: Sequence[Followed], into: _Answer | None = None) -> _Answer:
    result = into or _Answer(dict(answer.failed), dict(answer.accepted))
    for one in fates:
        if one.fate in LATER:
            result.failed[one.pdu.event_id] = {"error": one.reason, "errcode": TRY_LATER}
        elif one.fate not in (Fate.APPENDED, Fate.HELD, Fate.FOREIGN):
            result.failed[one.pdu.event_id] = {"error": one.reason}
    return result


def _claims_hub(origin: str, raw: JsonObject, room: Room) -> bool:
    """Whether the origin says that it is the hub: where hubs change, it may have become it before we hear of that.

    What it sends is appended only if it follows the event that makes it so, or is that event itself, which bears the
    former hub's signature.
    """
    if not room.version.hub_is_state:
        return False
    if raw.get("hub_server") == origin:
        return True
    return raw.get("type") == HUB_EVENT and str(raw.get("sender")).partition(":")[2] == origin


def _failure(error: LMatrixError) -> JsonObject:
    """An entry of ``failed_pdus``. For an LPDU that another hub should get, it says which."""
    failure: JsonObject = {"error": str(error)}
    if isinstance(error, UnknownKey | RoomRecovering):
        failure["errcode"] = TRY_LATER
    if isinstance(error, WrongServer):
        failure["errcode"] = WRONG_SERVER
        if error.hub_server is not None:
            failure["hub_server"] = error.hub_server
    return failure


def _objects(body: Mapping[str, Any], key: str, limit: int) -> list[JsonObject]:
    value = body.get(key, [] if key == "edus" else None)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{key} must be a list of objects")
    if len(value) > limit:
        raise BadRequest(f"{key} has {len(value)} entries; {limit} are allowed")
    return value


def _best_effort_id(raw: JsonObject, version: RoomVersion | None = None) -> str:
    """An event ID for an event that does not parse, so that its sender can tell which one failed."""
    if not isinstance(raw.get("type"), str) or not isinstance(raw.get("content"), dict):
        return "$unknown"
    version = version or room_version(DEFAULT_ROOM_VERSION)
    return event_id_of({key: raw[key] for key in raw if key not in ("event_id", "age_ts")}, version.redaction)
