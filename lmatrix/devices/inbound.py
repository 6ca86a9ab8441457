"""EDUs of other servers (I-D "Ephemeral Data Units").

Owns: :class:`EduInbound`, which implements :class:`~lmatrix.rooms.interfaces.EduReceiver`: what becomes of each EDU, in
one database transaction for all EDUs of a transaction, together with the record that it was carried out. So what came
in them is kept when it is answered, and not taken twice when it is repeated.

Invariants: who says something of a room must be in it, and who says something of its devices must share a room with one
of our users; what is wrong with one EDU is counted and logged for whoever looks closely, and is no concern of the
others, nor of their sender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lmatrix.devices.edus import (
    DeviceListUpdate,
    EduDropped,
    EduValue,
    Receipt,
    ToDeviceMessage,
    TypingNotice,
    kind_of,
    read_edu,
    signed_objects,
)
from lmatrix.devices.inbox import DeviceInbox
from lmatrix.devices.interfaces import DeviceStore, ReceiptStore, SharingStore, SyncWaker
from lmatrix.devices.typing_notices import TypingNotices
from lmatrix.metrics import Metrics
from lmatrix.rooms.interfaces import Database, JsonObject

CHECKED_AT_ONCE = 50
"""Signed objects that are checked before the reactor has its turn."""


@attrs.define(slots=True)
class _News:
    """Whom to tell, after the commit, of what."""

    users: dict[str, int] = attrs.field(factory=dict)
    rooms: dict[str, int] = attrs.field(factory=dict)
    typing: list[TypingNotice] = attrs.field(factory=list)
    outcomes: list[tuple[str, EduDropped | None]] = attrs.field(factory=list)


class EduInbound:
    """Takes EDUs.

    Args:
        server_name: ours.
        database: where everything is.
        inbox: takes messages for devices.
        devices, receipts, sharing: where the rest goes, and who may say it.
        typing: who is typing.
        waker: wakes local clients.
        clock: the time.
        metrics: ``edus``.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        inbox: DeviceInbox,
        devices: DeviceStore,
        receipts: ReceiptStore,
        sharing: SharingStore,
        typing: TypingNotices,
        waker: SyncWaker,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._inbox = inbox
        self._devices = devices
        self._receipts = receipts
        self._sharing = sharing
        self._typing = typing
        self._waker = waker
        self._clock = clock
        self._metrics = metrics

    async def receive(self, origin: str, edus: Sequence[JsonObject], record: Callable[[Any], None]) -> None:
        """Take the EDUs of a transaction; see :class:`~lmatrix.rooms.interfaces.EduReceiver`."""
        values = await self._read(origin, edus)
        if not values:
            return
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> _News:
            news = _News()
            for kind, value in values:
                try:
                    self._take(tx, value, now_ms, news)
                except EduDropped as dropped:
                    news.outcomes.append((kind, dropped))
                else:
                    news.outcomes.append((kind, None))
            record(tx)
            return news

        self._tell(origin, await self._database.write(work))

    async def _read(self, origin: str, edus: Sequence[JsonObject]) -> list[tuple[str, EduValue]]:
        """What is in the EDUs, each with its kind."""
        values: list[tuple[str, EduValue]] = []
        checked = 0
        for raw in edus:
            kind = kind_of(raw)
            for value in _parts(origin, raw):
                if isinstance(value, EduDropped):
                    self._count(origin, kind, value)
                else:
                    values.append((kind, value))
            checked += signed_objects(raw)
            if checked >= CHECKED_AT_ONCE:
                # Signatures cost: others have their turn.
                await deferLater(self._clock, 0)
                checked = 0
        return values

    def _take(self, tx: Any, value: EduValue, now_ms: int, news: _News) -> None:
        """Take one thing. Raises :class:`EduDropped`."""
        if isinstance(value, ToDeviceMessage):
            news.users[value.target] = self._inbox.take(tx, value, now_ms)
        elif isinstance(value, DeviceListUpdate):
            self._update_devices(tx, value, news)
        elif not self._sharing.is_joined(tx, value.room_id, value.user_id):
            raise EduDropped("forbidden", f"{value.user_id} is not in {value.room_id}")
        elif isinstance(value, TypingNotice):
            news.typing.append(value)
        else:
            self._take_receipt(tx, value, news)

    def _update_devices(self, tx: Any, update: DeviceListUpdate, news: _News) -> None:
        if not self._sharing.shares_with_server(tx, update.user_id, self._server_name):
            raise EduDropped("forbidden", f"{update.user_id} shares no room with anybody here")
        changed = [self._devices.put_object(tx, device) for device in update.changed]
        removed = self._devices.remove_objects(tx, update.user_id, update.removed)
        if removed or any(changed):
            stream = self._devices.list_changed(tx, update.user_id)
            news.rooms.update((room_id, stream) for room_id in self._sharing.joined_rooms(tx, update.user_id))

    def _take_receipt(self, tx: Any, receipt: Receipt, news: _News) -> None:
        stream = self._receipts.put(tx, receipt)
        if stream is not None:
            news.rooms[receipt.room_id] = stream

    def _tell(self, origin: str, news: _News) -> None:
        for kind, dropped in news.outcomes:
            if dropped is None:
                self._metrics.edus.labels(type=kind, outcome="accepted").inc()
            else:
                self._count(origin, kind, dropped)
        for user_id, stream in news.users.items():
            self._waker.users_advanced(stream, [user_id])
        for room_id, stream in news.rooms.items():
            self._waker.stream_advanced(stream, room_id)
        for notice in news.typing:
            self._typing.heard(notice)

    def _count(self, origin: str, kind: str, dropped: EduDropped) -> None:
        self._metrics.edus.labels(type=kind, outcome=dropped.outcome).inc()
        self.log.debug("{origin}: dropped an EDU ({kind}): {reason}", origin=origin, kind=kind, reason=dropped)


def _parts(origin: str, raw: JsonObject) -> Iterable[EduValue | EduDropped]:
    try:
        return read_edu(origin, raw)
    except EduDropped as dropped:
        return (dropped,)
