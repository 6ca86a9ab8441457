"""Moving a room to another hub, the current hub's side (PROTOCOL notes "Hub transfer").

Owns: the offer of a room to a candidate and the appending of what the candidate signs. The first offer is made while
the room goes on, since the candidate may have to fetch and check a long history; if the head has moved when it
answers, the sequencer is held for a second, short offer. However an offer ends — answered, refused, timed out — the
sequencer resumes, and a signature that was collected in vain is worthless: it names the head that it follows.

A room has one hub at any moment, because only an event that the current hub appends can make another server the hub.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.errors import (
    BadRequest,
    EventDropped,
    Forbidden,
    LMatrixError,
    NotFound,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    WrongServer,
)
from lmatrix.events.forms import Lpdu
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.power_levels import PowerLevels
from lmatrix.ids import server_of
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import JsonObject, Peers
from lmatrix.rooms.policy import Policies
from lmatrix.rooms.registry import LoadedRoom, Rooms
from lmatrix.rooms.room import Room, RoomDraft
from lmatrix.rooms.sequencing import Sequenced, take_lpdu

VALIDITY_MS = 30_000
"""For how long an offer stands; the auth rules allow twice that, which leaves room for clocks that differ."""

OFFERS = 3
"""How often a candidate is offered a room before the sequencer is held, at most."""

DESERTED_SECONDS = 300.0
"""How soon after a vain attempt a room without users of ours is offered again."""

MAX_DESERTED = 10_000
"""Rooms of which it is remembered when they were offered in vain."""

HELD_SECONDS = 15.0
"""How long the sequencer waits for a candidate that has the whole room already."""


class HubTransfer:
    """Gives rooms away.

    Args:
        identity: who we are.
        rooms: where the rooms are.
        checker: verifies what the candidate signed.
        peers: the way to candidates.
        policies: may block a room.
        clock: for validity and patience.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        rooms: Rooms,
        checker: EventChecker,
        peers: Peers,
        policies: Policies,
        clock: IReactorTime,
    ) -> None:
        self._identity = identity
        self._rooms = rooms
        self._checker = checker
        self._peers = peers
        self._policies = policies
        self._clock = clock
        self._moving: dict[str, str] = {}
        self._tried: dict[str, float] = {}

    async def transfer(self, room_id: str, candidate: str) -> str:
        """Make another server the hub; returns the event ID of the ``m.room.hub`` event, once it is on disk.

        Args:
            candidate: a server with a joined user in the room.

        Raises:
            NotFound, WrongServer: the room is not known here, or has another hub.
            BadRequest: the room's version has no hub transfer, or the candidate cannot be the hub.
            PeerError: the candidate refuses, does not answer in time, or answers nonsense.
            EventRejected: what it signed does not move the room.
            StorageFailed: it could not be stored, and the room has not moved.
        """
        loaded = await self._rooms.loaded(room_id)
        if loaded is None:
            raise NotFound(f"this server does not know the room {room_id}")
        self._check_candidate(loaded.room, candidate)
        if room_id in self._moving:
            raise BadRequest(f"{room_id} is being moved already")
        self._moving[room_id] = candidate
        try:
            return await self._move(loaded, candidate)
        finally:
            del self._moving[room_id]

    async def requested(self, origin: str, room_id: str, user_id: str) -> str:
        """A participant asks to become the hub, for a user of its own who has the power to send ``m.room.hub``.

        Raises:
            Forbidden: the user is not the origin's, not joined, or has not the power.
            as :meth:`transfer` otherwise.
        """
        await self._policies.check_room(room_id)
        room = await self._rooms.load(room_id)
        if room is None:
            raise NotFound(f"this server does not know the room {room_id}")
        if not room.is_hub:
            raise WrongServer(room_id, room.hub_server)
        if server_of(user_id) != origin:
            raise Forbidden(f"{user_id} is not a user of {origin}")
        self.check_power(room, user_id)
        return await self.transfer(room_id, origin)

    def check_power(self, room: Room, user_id: str) -> None:
        """Raises :class:`Forbidden` unless the user may move the room."""
        levels = PowerLevels.of(room.state)
        needed = levels.level_for_event(HUB_EVENT, is_state=True)
        if room.membership(user_id) != "join":
            raise Forbidden(f"{user_id} is not in the room")
        if levels.user_level(user_id) < needed:
            raise Forbidden(f"{user_id} has power level {levels.user_level(user_id)}; {HUB_EVENT} needs {needed}")

    def takes_over(self, room_id: str, server: str) -> bool:
        """Whether a server is being offered the room at this moment: then it may see all of it."""
        return self._moving.get(room_id) == server

    def candidates(self, room: Room) -> list[str]:
        """Servers that could be the hub, those of the most powerful users first."""
        levels = PowerLevels.of(room.state)
        best: dict[str, int] = {}
        for member in room.state.members():
            server = server_of(member.state_key)
            if member.content.get("membership") == "join" and server != self._identity.server_name:
                best[server] = max(best.get(server, -(2**53)), levels.user_level(member.state_key))
        return sorted(best, key=lambda server: (-best[server], server))

    async def deserted(self, room_id: str, *, just_now: bool) -> None:
        """Something has happened in a room whose hub we are, and where we have no users: move it to whoever takes it.

        Failures are logged; the room stays with us, and it is tried again when something happens in it later.

        Args:
            just_now: whether our last user has just left; then it is tried at once, however short ago it was before.
        """
        now, tried = self._clock.seconds(), self._tried.pop(room_id, None)
        if room_id in self._moving or (not just_now and tried is not None and 0 <= now - tried < DESERTED_SECONDS):
            if tried is not None:
                self._tried[room_id] = tried
            return
        self._tried[room_id] = now
        while len(self._tried) > MAX_DESERTED:
            del self._tried[next(iter(self._tried))]
        if await self._give_away(room_id):
            self._tried.pop(room_id, None)

    async def _give_away(self, room_id: str) -> bool:
        room = await self._rooms.load(room_id)
        if room is None or not room.is_hub or not room.version.hub_is_state:
            return True
        for candidate in self.candidates(room):
            try:
                await self.transfer(room_id, candidate)
            except LMatrixError as error:
                self.log.info(
                    "{room_id}: {candidate} does not take the room: {error}",
                    room_id=room_id,
                    candidate=candidate,
                    error=error,
                )
            else:
                return True
        return False

    def _check_candidate(self, room: Room, candidate: str) -> None:
        if not room.is_hub:
            raise WrongServer(room.room_id, room.hub_server)
        if not room.version.hub_is_state:
            raise BadRequest(f"rooms of version {room.version.identifier} cannot change their hub")
        if candidate == self._identity.server_name:
            raise BadRequest(f"{candidate} is the hub already")
        if room.joined_per_server[candidate] == 0:
            raise BadRequest(f"{candidate} has no user in {room.room_id}")

    async def _move(self, loaded: LoadedRoom, candidate: str) -> str:
        room = loaded.room
        head, lpdu = await self._first_offer(room, candidate)
        await loaded.sequencer.hold()
        try:
            self._check_candidate(room, candidate)
            if room.head_event_id != head or self._expired(lpdu):
                lpdu = await self._in_time(candidate, self._offer(room, candidate))
            moved = await loaded.sequencer.decide_held(lambda draft: self._take(draft, lpdu, candidate))
        finally:
            loaded.sequencer.release()
        self.log.info("{room_id}: the hub is {candidate} now", room_id=room.room_id, candidate=candidate)
        return moved.event_id

    async def _first_offer(self, room: Room, candidate: str) -> tuple[str | None, Lpdu]:
        """The head that was offered, and what the candidate signed.

        A candidate that has needed longer than an offer stands to make itself whole refuses, and has done the work: it
        is asked again.
        """
        for _ in range(OFFERS - 1):
            head, began = room.head_event_id, self._clock.seconds()
            try:
                return head, await self._offer(room, candidate)
            except PeerRefused as error:
                if self._clock.seconds() - began < VALIDITY_MS / 1000:
                    raise
                self.log.info(
                    "{room_id}: {candidate} was too late, and is asked again: {error}",
                    room_id=room.room_id,
                    candidate=candidate,
                    error=error,
                )
        head = room.head_event_id
        return head, await self._offer(room, candidate)

    def _take(self, draft: RoomDraft, lpdu: Lpdu, candidate: str) -> Sequenced:
        if self._expired(lpdu):
            raise PeerMisbehaved(candidate, f"{candidate} signed too late")
        return take_lpdu(draft, lpdu, self._identity)

    def _expired(self, lpdu: Lpdu) -> bool:
        valid_until = lpdu.content.get("valid_until_ts")
        return type(valid_until) is not int or valid_until < self._now_ms()

    async def _offer(self, room: Room, candidate: str) -> Lpdu:
        """Offer the room on its present head; the candidate's LPDU, verified."""
        offer: JsonObject = {
            "room_id": room.room_id,
            "room_version": room.version.identifier,
            "head": room.head_event_id,
            "valid_until_ts": self._now_ms() + VALIDITY_MS,
        }
        self.log.info("{room_id}: offered to {candidate}", room_id=room.room_id, candidate=candidate)
        answer = await self._peers.offer_hub(candidate, offer)
        try:
            lpdu = Lpdu.parse(answer, room.version)
        except EventDropped as error:
            reason = f"{candidate} answered the offer with a malformed event: {error}"
            raise PeerMisbehaved(candidate, reason) from error
        content = lpdu.content
        if (
            lpdu.room_id != room.room_id
            or lpdu.type != HUB_EVENT
            or lpdu.state_key != ""
            or lpdu.sender_server != candidate
            or content.get("valid_until_ts") != offer["valid_until_ts"]
            or content.get("head") != offer["head"]
        ):
            raise PeerMisbehaved(candidate, f"{candidate} answered the offer with something else")
        verified = (await self._checker.check([lpdu]))[0].event
        if isinstance(verified, EventDropped):
            raise PeerMisbehaved(candidate, f"{candidate} answered the offer with a bad signature: {verified}")
        return verified

    async def _in_time(self, candidate: str, offering: Coroutine[Any, Any, Lpdu]) -> Lpdu:
        running = Deferred.fromCoroutine(offering)
        late = PeerUnreachable(candidate, f"no answer to the offer within {HELD_SECONDS:.0f} seconds")

        def cancelled(_: object, __: float) -> Lpdu:
            raise late

        running.addTimeout(HELD_SECONDS, self._clock, onTimeoutCancel=cancelled)
        return await running

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)
