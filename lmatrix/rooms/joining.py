"""Joining a room whose hub is another server (I-D "Joins").

Owns: finding the hub, the ``make_join``/``send_join`` handshake, the checking of what the hub answers, and the start
of the room's log here: the state as it was before the join, and the join as the log's first event. Whoever sends us
events of the room meanwhile waits until the join is on disk (see :meth:`Rooms.enter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.logger import Logger

from lmatrix.errors import (
    EventDropped,
    EventRejected,
    LMatrixError,
    NotFound,
    PeerMisbehaved,
    PeerUnreachable,
    StorageFailed,
    UnknownKey,
)
from lmatrix.events.auth_rules import authorise
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.state import StateEvent, StateMap
from lmatrix.rooms.asking import Asker, version_of_room
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import (
    SEGMENT_STRIDE,
    AppendedEvent,
    Database,
    JsonObject,
    Peers,
    RoomAppend,
    RoomStore,
    Standing,
)
from lmatrix.rooms.registry import LoadedRoom, Rooms


@attrs.frozen(slots=True)
class _Snapshot:
    """What a hub answered to ``send_join``, verified."""

    state: Sequence[Pdu]
    join: Pdu


class Joiner:
    """Joins rooms of other hubs on behalf of our own users.

    Args:
        identity: who signs.
        rooms: where the room will be.
        checker: verifies what the hub answers.
        database, store: where the log starts.
        asker, peers: the way to hubs.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        checker: EventChecker,
        database: Database,
        store: RoomStore,
        asker: Asker,
        peers: Peers,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._checker = checker
        self._database = database
        self._store = store
        self._peers = peers
        self._asker = asker

    async def join(
        self, user_id: str, room_id: str, candidates: Sequence[str], extra_content: JsonObject
    ) -> tuple[LoadedRoom, int | None]:
        """Join through the first of the candidate servers that lets us.

        Args:
            candidates: server names that may be, or know, the hub; tried in order.
            extra_content: content of the join besides ``membership``.

        Returns:
            the room, and the stream position of the join; ``None`` when another user's join made this server a
            participant while this one waited: the caller then sends an ordinary event.

        Raises:
            NotFound: there is no candidate.
            PeerError: the last candidate's failure, when none works.
            UnsupportedRoomVersion: the room has a version that we do not know.
        """
        with await self._rooms.enter(room_id):
            present = await self._rooms.loaded(room_id)
            if present is not None and present.room.is_participating:
                return present, None
            failure: LMatrixError = NotFound(f"no server is known that could let {user_id} into {room_id}")
            for candidate in candidates:
                if candidate == self._identity.server_name:
                    continue
                try:
                    return await self._join_through(candidate, user_id, room_id, present, extra_content)
                except LMatrixError as error:
                    self.log.info(
                        "{room_id}: {user_id} could not join through {candidate}: {error}",
                        room_id=room_id,
                        user_id=user_id,
                        candidate=candidate,
                        error=error,
                    )
                    failure = error
            raise failure

    async def _join_through(
        self, server: str, user_id: str, room_id: str, present: LoadedRoom | None, extra_content: JsonObject
    ) -> tuple[LoadedRoom, int]:
        content = {**extra_content, "membership": "join"}
        asked = await self._asker.ask(server, "join", room_id, user_id, content)
        hub, lpdu = asked.hub, asked.lpdu
        self._rooms.expect_events(room_id, hub)
        try:
            answer = await self._peers.send_membership(hub, "join", asked.version, lpdu)
            version = version_of_room(asked, _objects_of(answer.get("state")))
            snapshot = await self._check_answer(hub, version, lpdu, answer)
            first = SEGMENT_STRIDE
            if present is not None:
                first = (present.room.head_position // SEGMENT_STRIDE + 1) * SEGMENT_STRIDE
            try:
                [stream] = await self._database.write(lambda tx: self._start_log(tx, room_id, version, first, snapshot))
                loaded = await self._rooms.reload(room_id)
            except StorageFailed as error:
                # That is no proof that it is not on disk, and memory must agree with the disk in any case.
                loaded, stream = await self._after_all(room_id, snapshot.join, error)
        finally:
            self._rooms.expect_events(room_id, None)
        self.log.info("{room_id}: {user_id} joined; the hub is {hub}", room_id=room_id, user_id=user_id, hub=hub)
        return loaded, stream

    async def _after_all(self, room_id: str, join: Pdu, error: StorageFailed) -> tuple[LoadedRoom, int]:
        """The room and the join's stream position, if they are on disk; else raises the error."""
        try:
            loaded = await self._rooms.reload(room_id)
        except NotFound:
            raise error from None
        stored = await self._database.read(lambda tx: self._store.event(tx, join.event_id))
        if loaded.room.head_event_id != join.event_id or stored is None or stored.stream is None:
            raise error
        return loaded, stored.stream

    async def _check_answer(self, hub: str, version: RoomVersion, lpdu: Lpdu, answer: JsonObject) -> _Snapshot:
        """Verify a ``send_join`` answer.

        Raises:
            PeerMisbehaved: it does not hold together.
            PeerUnreachable: the keys of a server whose events are in it cannot be had.
        """
        state_raws, chain_raws, event = answer.get("state"), answer.get("auth_chain"), answer.get("event")
        if not isinstance(state_raws, list) or not isinstance(chain_raws, list) or not isinstance(event, dict):
            raise PeerMisbehaved(hub, f"{hub} answered send_join without state, auth_chain and event")
        join = (await self._verified([event], version, lpdu.room_id))[:1]
        if not join or join[0].lpdu_hash != lpdu.lpdu_hash or join[0].sender != lpdu.sender:
            raise PeerMisbehaved(hub, f"{hub} answered send_join with another event than our join")
        state = await self._verified(state_raws, version, lpdu.room_id)
        chain = await self._verified(chain_raws, version, lpdu.room_id)
        allowed = self._allowed(version, [*chain, *state])
        # Prototypes answer with the whole timeline, superseded state included: the last for each key counts.
        latest: dict[tuple[str, str], Pdu] = {}
        for pdu in state:
            if pdu.state_key is not None and pdu.event_id in allowed:
                latest.pop((pdu.type, pdu.state_key), None)
                latest[pdu.type, pdu.state_key] = pdu
        before = StateMap(StateEvent.from_pdu(pdu) for pdu in latest.values())
        create = before.get("m.room.create")
        if create is None or create.content.get("room_version") != version.identifier:
            raise PeerMisbehaved(
                hub, f"{hub} answered send_join without a create event of version {version.identifier}"
            )
        if version.hub_server(before) != hub:
            raise PeerMisbehaved(hub, f"{hub} let us join a room whose hub is {version.hub_server(before)}")
        try:
            authorise(join[0], before, prev_events=join[0].prev_events)
        except EventRejected as error:
            raise PeerMisbehaved(hub, f"{hub} let us join against the rules of the room: {error}") from error
        return _Snapshot(tuple(latest.values()), join[0])

    async def _verified(self, raws: Sequence[Any], version: RoomVersion, room_id: str) -> list[Pdu]:
        parsed = self._checker.parse_pdus((raw for raw in raws if isinstance(raw, dict)), version)
        checked = [one.event for one in await self._checker.check([pdu for pdu in parsed if pdu.room_id == room_id])]
        for event in checked:
            if isinstance(event, UnknownKey):
                # Without it our state would be another than the hub's, and what the hub allows by it a breach of rules.
                raise PeerUnreachable(event.server, "without its keys the room cannot be verified")
        return [event for event in checked if not isinstance(event, EventDropped)]

    def _allowed(self, version: RoomVersion, pdus: Sequence[Pdu]) -> set[str]:
        """Those events that their own auth events allow, which must be allowed themselves."""
        by_id = {pdu.event_id: pdu for pdu in pdus}
        allowed: dict[str, StateEvent] = {}
        for pdu in _auth_order(by_id):
            auth_events = [allowed[event_id] for event_id in pdu.auth_events if event_id in allowed]
            if len(auth_events) != len(pdu.auth_events):
                self.log.warn("{event_id}: its auth events are missing or refused", event_id=pdu.event_id)
                continue
            try:
                # The I-D selects no join rules for a knock, so that it cannot be judged by its auth events alone.
                if not (pdu.type == "m.room.member" and pdu.content.get("membership") == "knock"):
                    authorise(pdu, StateMap(auth_events), prev_events=pdu.prev_events, auth_events=auth_events)
            except EventRejected as error:
                self.log.warn(
                    "{event_id} breaks rule {rule}: {error}", event_id=pdu.event_id, rule=error.rule, error=error
                )
                continue
            if pdu.state_key is not None:
                allowed[pdu.event_id] = StateEvent.from_pdu(pdu)
        return set(allowed)

    def _start_log(self, tx: Any, room_id: str, version: RoomVersion, first: int, snapshot: _Snapshot) -> Sequence[int]:
        self._store.insert_room(tx, room_id, version.identifier, first)
        self._store.put_state_snapshot(tx, room_id, first - 1, snapshot.state)
        join = AppendedEvent(first, snapshot.join, Standing.ACCEPTED, snapshot.join.lpdu_hash)
        return self._store.append(tx, RoomAppend(room_id, (join,)))


def _objects_of(raw: object) -> Sequence[JsonObject]:
    return [one for one in raw if isinstance(one, dict)] if isinstance(raw, list) else []


def _auth_order(by_id: dict[str, Pdu]) -> list[Pdu]:
    """Events after their auth events; without recursion, since a hub decides how deep the chain is."""
    ordered: list[Pdu] = []
    done: set[str] = set()
    for start in by_id.values():
        stack = [(start, False)]
        while stack:
            pdu, expanded = stack.pop()
            if expanded:
                ordered.append(pdu)
                continue
            if pdu.event_id in done:
                continue
            done.add(pdu.event_id)
            stack.append((pdu, True))
            stack.extend((by_id[auth_id], False) for auth_id in pdu.auth_events if auth_id in by_id)
    return ordered
