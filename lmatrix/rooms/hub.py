"""The hub's role: putting what comes in into the room's order.

Owns: the way of an LPDU from its arrival to the answer. Signatures and hashes are checked before the room's sequencer
is entered, for many LPDUs at once; inside it only the pure decisions of :mod:`lmatrix.rooms.sequencing` run. That LPDUs
which memory does not know are new is a premise of theirs, which the commit looks into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.logger import Logger

from lmatrix.errors import EventDropped, EventRejected, Forbidden, LMatrixError, RoomRecovering, WrongServer
from lmatrix.events.forms import Lpdu
from lmatrix.events.hub import HUB_EVENT
from lmatrix.events.state import StateView
from lmatrix.metrics import Metrics
from lmatrix.rooms.checks import Checked, EventChecker
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, RoomStore
from lmatrix.rooms.policy import Invite, Policies, ProposedEvent, is_invite
from lmatrix.rooms.registry import LoadedRoom
from lmatrix.rooms.room import RoomDraft
from lmatrix.rooms.sequencing import LocalEvent, Sequenced, take_local, take_lpdu


@attrs.frozen(slots=True)
class LpduAnswer:
    """What the hub answers for one LPDU.

    Attributes:
        lpdu: as it was received; its event ID is what the sender knows it by.
        outcome: the event made from it, or why there is none.
    """

    lpdu: Lpdu
    outcome: Sequenced | LMatrixError


class Hub:
    """Takes events for the rooms whose hub this server is.

    Args:
        identity: who signs.
        checker: verifies LPDUs before they queue.
        database, store: for the look-up of duplicates.
        policies: may refuse events, and invites for our own users.
        metrics: ``events_refused``.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        checker: EventChecker,
        database: Database,
        store: RoomStore,
        policies: Policies,
        metrics: Metrics,
    ) -> None:
        self._identity = identity
        self._checker = checker
        self._database = database
        self._store = store
        self._policies = policies
        self._metrics = metrics

    async def take_lpdus(
        self,
        loaded: LoadedRoom,
        lpdus: Sequence[Lpdu],
        origin: str,
        beside: Callable[[Any, list[LpduAnswer]], None] | None = None,
        placed: Callable[[], None] | None = None,
    ) -> list[LpduAnswer]:
        """Append LPDUs in the given order; each is accepted or refused for itself.

        Args:
            loaded: the room.
            lpdus: well-formed LPDUs of that room, not yet verified.
            origin: the server that sent them; origins take turns.
            beside: writes the answer in the same database transaction as the events.
            placed: called when they have been queued: what is queued later comes after them.

        Returns:
            one answer for each LPDU, in order, once it is on disk.

        Raises:
            StorageFailed, Overloaded: none was taken; trying again later makes sense.
        """
        reign = _hub_event(loaded.room.state)
        checked = await self._checker.check(lpdus, origin)
        newness = _Newness(self._store, loaded.room.room_id)
        refused: Mapping[int, Forbidden] = {}
        if any(self._may_be_refused(one) for one in checked):
            # Nobody is asked about what is in the room already.
            newness.learn(await self._accepted_before(loaded, checked))
            refused = await self._refused(checked, newness.known, origin)

        def decide(draft: RoomDraft) -> list[LpduAnswer]:
            # When the room has moved away and come back meanwhile, these may have been signed anew for the hub in
            # between, and be in the room already under other hashes. Their senders know.
            void = _hub_event(draft.state) != reign
            newness.assume(checked, draft)
            return [
                LpduAnswer(one.received, self._decide(draft, one, newness, refused.get(number), void=void))
                for number, one in enumerate(checked)
            ]

        sequencing = loaded.sequencer.submit(decide, events=len(lpdus), source=origin, beside=beside, premise=newness)
        if placed is not None:
            placed()
        answers = await sequencing
        for answer in answers:
            self._report(loaded.room.room_id, answer)
        return answers

    async def take_local(
        self,
        loaded: LoadedRoom,
        events: Sequence[LocalEvent],
        beside: Callable[[Any, list[Sequenced]], None] | None = None,
    ) -> list[Sequenced]:
        """Append events of our own users, all of them or none.

        Raises:
            EventRejected, EventTooLarge, SchemaViolation, WrongServer: for the first that cannot be sent.
            StorageFailed, Overloaded: none was taken.
        """

        def decide(draft: RoomDraft) -> list[Sequenced]:
            return [take_local(draft, event, self._identity) for event in events]

        return await loaded.sequencer.submit(decide, events=len(events), beside=beside)

    def _decide(
        self, draft: RoomDraft, one: Checked[Lpdu], newness: _Newness, refused: Forbidden | None, *, void: bool
    ) -> Sequenced | LMatrixError:
        if isinstance(one.event, EventDropped):
            return one.event
        key = _key(one.event)
        before = newness.known.get(key) or draft.known_lpdu(*key)
        if before is not None:
            return Sequenced(before, None, None)
        if refused is not None:
            return refused
        if void:
            return WrongServer(draft.room.room_id, draft.hub_server)
        if draft.version.hub_is_state and one.event.type == HUB_EVENT and one.event.state_key == "":
            # By the auth rules our signature is all that it takes. We give it to whom we have offered the room.
            return Forbidden("a hub gives its room away only in answer to an offer of its own")
        try:
            return take_lpdu(draft, one.event, self._identity)
        except RoomRecovering as error:
            if draft.version.enforces_chain:
                return error
            # Servers of the older version would take an entry in failed_pdus for a refusal.
            raise
        except LMatrixError as error:
            return error

    def _may_be_refused(self, one: Checked[Lpdu]) -> bool:
        """Whether there is a policy that has a say about it."""
        if isinstance(one.event, EventDropped):
            return False
        return self._policies.checks_events or self._is_invite_for_us(one.event)

    def _is_invite_for_us(self, event: Lpdu) -> bool:
        return is_invite(event) and event.state_key is not None and self._identity.owns(event.state_key)

    async def _refused(
        self, checked: Sequence[Checked[Lpdu]], known: Mapping[tuple[str, str], str], origin: str
    ) -> Mapping[int, Forbidden]:
        """Those that a policy refuses, by their number; what is in the room already is past that."""
        refused: dict[int, Forbidden] = {}
        for number, one in enumerate(checked):
            if isinstance(one.event, EventDropped) or _key(one.event) in known:
                continue
            try:
                await self._policies.check_event(ProposedEvent.of(one.event, origin))
                if self._is_invite_for_us(one.event):
                    await self._policies.check_invite(Invite.of(one.event, self._identity.server_name))
            except Forbidden as error:
                refused[number] = error
        return refused

    async def _accepted_before(
        self, loaded: LoadedRoom, checked: Sequence[Checked[Lpdu]]
    ) -> Mapping[tuple[str, str], str]:
        keys = [_key(one.event) for one in checked if not isinstance(one.event, EventDropped)]
        if not keys:
            return {}
        room_id = loaded.room.room_id
        return await self._database.read(lambda tx: self._store.accepted_lpdus(tx, room_id, keys))

    def _report(self, room_id: str, answer: LpduAnswer) -> None:
        error = answer.outcome
        if not isinstance(error, LMatrixError) or isinstance(error, EventDropped):
            return  # accepted, or dropped and reported as such by the checker
        outcome, reason = "failed", type(error).__name__
        if isinstance(error, EventRejected):
            outcome, reason = "rejected", error.rule
        self._metrics.events_refused.labels(outcome=outcome, reason=reason).inc()
        self.log.info(
            "{room_id}: {outcome} {type} by {sender} ({rule}): {error}",
            room_id=room_id,
            outcome=outcome,
            type=answer.lpdu.type,
            sender=answer.lpdu.sender,
            rule=reason,
            error=error,
        )


class _Newness:
    """The premise that LPDUs which memory does not know were not accepted before.

    Args:
        store: where that can be seen.
        room_id: their room.

    Attributes:
        known: event ID by (sender, LPDU hash) for those of which the disk has said otherwise.
    """

    def __init__(self, store: RoomStore, room_id: str) -> None:
        self._store = store
        self._room_id = room_id
        self.known: dict[tuple[str, str], str] = {}
        self._assumed: list[tuple[str, str]] = []

    def assume(self, checked: Sequence[Checked[Lpdu]], draft: RoomDraft) -> None:
        """These are being decided: what memory does not know of them is taken for new."""
        keys = (_key(one.event) for one in checked if not isinstance(one.event, EventDropped))
        self._assumed = [key for key in keys if key not in self.known and draft.known_lpdu(*key) is None]

    def contradiction(self, tx: Any) -> Mapping[tuple[str, str], str] | None:
        """See :class:`~lmatrix.rooms.sequencer.Premise`."""
        if not self._assumed:
            return None
        return self._store.accepted_lpdus(tx, self._room_id, self._assumed) or None

    def learn(self, contradiction: Mapping[tuple[str, str], str]) -> None:
        """See :class:`~lmatrix.rooms.sequencer.Premise`."""
        self.known.update(contradiction)


def _hub_event(state: StateView) -> str | None:
    """The event that made the present hub the hub, where there is one."""
    event = state.get(HUB_EVENT)
    return None if event is None else event.event_id


def _key(lpdu: Lpdu) -> tuple[str, str]:
    return lpdu.sender, lpdu.lpdu_hash or ""
