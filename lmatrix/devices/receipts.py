"""How far local users have read (Client-Server API v1.11, "Receipts", "Fully read markers").

Owns: :class:`Receipts`. Invariants: a receipt is on disk when it is answered; a private one never leaves this server,
and is shown to nobody else; other servers are told of the others at best effort, the newest in place of the older.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.devices.edus import READ, Receipt, receipt_edu
from lmatrix.devices.interfaces import EduDelivery, ReceiptStore, RoomServers, SharingStore, SyncWaker
from lmatrix.errors import BadRequest, Forbidden, NotFound
from lmatrix.rooms.interfaces import Database, RoomStore

READ_PRIVATE: Final = "m.read.private"
FULLY_READ: Final = "m.fully_read"
KINDS: Final = frozenset({READ, READ_PRIVATE, FULLY_READ})


@attrs.frozen(slots=True)
class Mark:
    """How far a user has read.

    Attributes:
        kind: one of :data:`KINDS`.
        event_id: the last event that was read.
        thread_id: see :class:`~lmatrix.devices.edus.Receipt`.
    """

    kind: str
    event_id: str
    thread_id: str | None = None


class Receipts:
    """Takes local users' receipts.

    Args:
        database, store, room_store, sharing: what is known.
        rooms, delivery: towards other servers.
        waker: towards local clients.
        clock: the time of a receipt.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: ReceiptStore,
        room_store: RoomStore,
        sharing: SharingStore,
        rooms: RoomServers,
        delivery: EduDelivery,
        waker: SyncWaker,
        clock: IReactorTime,
    ) -> None:
        self._database = database
        self._store = store
        self._room_store = room_store
        self._sharing = sharing
        self._rooms = rooms
        self._delivery = delivery
        self._waker = waker
        self._clock = clock

    async def mark(self, room_id: str, user_id: str, marks: Sequence[Mark]) -> None:
        """Note how far a user has read. What is behind an earlier receipt changes nothing.

        Raises:
            BadRequest: a kind that there is not.
            Forbidden: the user is not in the room.
            NotFound: there is no such event in the room.
        """
        if any(mark.kind not in KINDS for mark in marks):
            raise BadRequest("a receipt is one of " + ", ".join(sorted(KINDS)))
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> tuple[list[Receipt], int | None, int | None]:
            if not self._sharing.is_joined(tx, room_id, user_id):
                raise Forbidden(f"{user_id} is not in {room_id}")
            news: list[Receipt] = []
            in_room = own = None
            for mark in marks:
                event = self._room_store.event(tx, mark.event_id)
                if event is None or event.room_id != room_id:
                    raise NotFound(f"there is no event {mark.event_id} in {room_id}")
                if mark.kind == FULLY_READ:
                    own = self._store.put_account_data(tx, user_id, room_id, FULLY_READ, {"event_id": mark.event_id})
                    continue
                receipt = Receipt(room_id, user_id, mark.kind, mark.event_id, now_ms, mark.thread_id)
                stream = self._store.put(tx, receipt)
                if stream is None:
                    continue
                news.append(receipt)
                if mark.kind == READ:
                    in_room = stream
                else:
                    own = stream
            return news, in_room, own

        news, in_room, own = await self._database.write(work)
        if in_room is not None:
            self._waker.stream_advanced(in_room, room_id)
        if own is not None:
            self._waker.users_advanced(own, [user_id])
        for receipt in news:
            if receipt.kind == READ:
                await self._tell(receipt)

    async def _tell(self, receipt: Receipt) -> None:
        edu = receipt_edu(receipt)
        subject = f"receipt {receipt.room_id} {receipt.user_id} {receipt.thread_id or ''}"
        for destination in await self._rooms.destinations(receipt.room_id):
            self._delivery.offer_edu(destination, subject, edu)
