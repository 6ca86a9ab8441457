"""Checking events before they queue: schema, signatures, hashes (I-D "Receiving Events/PDUs", 1 to 3).

Owns: fetching the keys that a set of events needs, all at once, and verifying them. Nothing here waits for a room:
events of many transactions are checked side by side, those of different servers in turn, and what does not verify never
reaches a sequencer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.errors import BadSignature, EventDropped, SchemaViolation, UnknownKey
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.room_versions import RoomVersion
from lmatrix.events.signatures import KnownKey, keys_wanted
from lmatrix.events.verification import Verified, verify
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import JsonObject, Keyring
from lmatrix.rooms.turns import Turns

E = TypeVar("E", Lpdu, Pdu)

MAX_AHEAD_MS = 24 * 60 * 60 * 1000
"""How far an LPDU may be dated after our own clock. What we sign as the hub bears its sender's time, and nobody would
believe our signature on an event that is dated after our key's end: so there must be a bound that a key can outlive.
"""

RECENT_S = 60.0
"""How long ago a server may have told its keys, for an LPDU that is signed with none of them to be refused for good."""

EVENTS_IN_A_TURN = 10
"""How many events are verified, all together, before the reactor gets a turn: about two milliseconds. What comes in
must not keep waiting what goes out, since as much as comes in has to go out.
"""


@attrs.frozen(slots=True)
class Checked(Generic[E]):
    """An event as it came, and what the checks made of it.

    Attributes:
        received: the event as it was received; its event ID is what the sender knows it by.
        event: the verified event (the redacted copy, when a hash did not match), or why it is dropped.
    """

    received: E
    event: E | EventDropped


class EventChecker:
    """Verifies events.

    Args:
        keyring: where keys come from.
        clock: to give the reactor its turn in long runs.
        metrics: ``events_refused``, ``queue_length``.
    """

    log = Logger()

    def __init__(self, keyring: Keyring, clock: IReactorTime, metrics: Metrics) -> None:
        self._keyring = keyring
        self._clock = clock
        self._metrics = metrics
        self._turns = Turns(EVENTS_IN_A_TURN, clock=clock, metrics=metrics, name="checks")

    async def check(self, events: Sequence[E], source: str = "") -> list[Checked[E]]:
        """Verify signatures and hashes, and of LPDUs that they are not dated too far ahead. Never raises for what an
        event holds.

        Args:
            source: the server for which it is done: these take turns.
        """
        began = self._clock.seconds()
        keys = await self._keyring.keys_for(_all_wanted(events))
        checked: list[Checked[E]] = []
        for number, event in enumerate(events):
            if number % EVENTS_IN_A_TURN == 0:
                await self._turns.take(source, min(EVENTS_IN_A_TURN, len(events) - number))
            try:
                self._check_time(event)
                verified = self._verified(event, keys, began)
            except EventDropped as error:
                self._metrics.events_refused.labels(outcome="dropped", reason="signature").inc()
                self.log.warn(
                    "{room_id}: dropped {event_id} by {sender}: {error}",
                    room_id=event.room_id,
                    event_id=event.event_id,
                    sender=event.sender,
                    error=error,
                )
                checked.append(Checked(event, error))
            else:
                if verified.redacted:
                    self._metrics.events_refused.labels(outcome="redacted", reason="hash").inc()
                    self.log.warn(
                        "{room_id}: {event_id} by {sender} does not match its hashes and is redacted",
                        room_id=event.room_id,
                        event_id=event.event_id,
                        sender=event.sender,
                    )
                checked.append(Checked(event, verified.event))
        return checked

    def _verified(self, event: E, keys: Mapping[str, Mapping[str, KnownKey]], began: float) -> Verified[E]:
        try:
            return verify(event, keys)
        except UnknownKey as error:
            # What a server sends itself is signed with keys that it has published. What others pass on may be signed
            # with a key that is younger than the server's last answer.
            since = began - RECENT_S if isinstance(event, Lpdu) else began
            if self._keyring.has_spoken(error.server, since):
                raise BadSignature(error.server, "it does not list any of the keys that were used") from None
            raise

    def _check_time(self, event: Lpdu | Pdu) -> None:
        # What is in a room's order is dated as it is: only who puts it there has a say.
        if isinstance(event, Lpdu) and event.origin_server_ts > self._clock.seconds() * 1000 + MAX_AHEAD_MS:
            raise SchemaViolation("origin_server_ts", "is more than a day ahead of this server's clock")

    async def verified(self, events: Sequence[E]) -> list[E]:
        """Only those that verify."""
        return [checked.event for checked in await self.check(events) if not isinstance(checked.event, EventDropped)]

    def parse_pdus(self, raws: Iterable[JsonObject], version: RoomVersion) -> list[Pdu]:
        """Those that are well-formed PDUs of the room version; the others are logged and left out."""
        pdus = []
        for raw in raws:
            try:
                pdus.append(Pdu.parse(raw, version))
            except EventDropped as error:
                self._metrics.events_refused.labels(outcome="dropped", reason="schema").inc()
                self.log.warn("dropped a malformed PDU: {error}", error=error)
        return pdus


def _all_wanted(events: Sequence[Lpdu] | Sequence[Pdu]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for event in events:
        for server, key_ids in keys_wanted(event).items():
            wanted.setdefault(server, set()).update(key_ids)
    return wanted
