"""The LPDUs of our own users, from signing until the hub has answered.

Owns: the durable list of pending LPDUs, and who waits for which. An LPDU is on disk before it is sent; it leaves the
list when the hub refused it, when the hub named the event that it became, or when that event arrives, whichever comes
first. The echo may overtake the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lmatrix.errors import Overloaded, SendFailed
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.rooms.interfaces import (
    ClientTransactionStore,
    Database,
    Delivery,
    PendingLpdu,
    PendingLpduStore,
)
from lmatrix.rooms.room import RoomDraft

MAX_PENDING = 10_000
"""LPDUs that may wait for one hub; then its rooms take nothing more from our users until it answers."""

RETRY_AFTER_MS = 60_000

PATIENCE_SECONDS = 30.0
"""How long a local user's request waits for the hub; the LPDU stays pending beyond it."""


class Outbox:
    """Sends LPDUs to hubs, and tells what became of them.

    Args:
        database, store, client_transactions: where pending LPDUs and what became of clients' transactions are kept.
        delivery: carries them to the hub.
        clock: for patience.
        server_name: this server's name.
    """

    log = Logger()

    def __init__(
        self,
        database: Database,
        store: PendingLpduStore,
        client_transactions: ClientTransactionStore,
        delivery: Delivery,
        clock: IReactorTime,
        server_name: str,
    ) -> None:
        self._database = database
        self._store = store
        self._client_transactions = client_transactions
        self._delivery = delivery
        self._clock = clock
        self._server_name = server_name
        self._stored: Callable[[str, str], None] = lambda room_id, hub_server: None
        self._takes_part: Callable[[str], Awaitable[bool]] | None = None
        self._expected: dict[str, _Expected] = {}
        self._ids: dict[tuple[str, str, str], str] = {}

    def attach(self, stored: Callable[[str, str], None], takes_part: Callable[[str], Awaitable[bool]]) -> None:
        """Complete the circle.

        Args:
            stored: told, with room ID and hub, that another LPDU is on disk.
            takes_part: whether this server has a user in a room.
        """
        self._stored = stored
        self._takes_part = takes_part

    async def send(self, lpdu: Lpdu, hub_server: str, client_transaction: tuple[str, str, str] | None) -> str:
        """Send an LPDU and wait for what becomes of it.

        Args:
            lpdu: signed for ``hub_server``.
            client_transaction: ``(user_id, device_id, txn_id)`` that it came from.

        Returns:
            the event ID of the event that the hub made from it.

        Raises:
            SendFailed: the hub refused it, or has not answered yet (then it is still pending, and will be sent).
            StorageFailed: it could not be stored. If it is on disk all the same, it is pending, and will be sent.
            Overloaded: too many wait for that hub; it is not pending.
        """
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> None:
            if self._store.has_so_many(tx, hub_server, MAX_PENDING):
                raise Overloaded(RETRY_AFTER_MS, f"too much waits for {hub_server}, which does not answer")
            self._store.add(tx, lpdu, hub_server)
            if client_transaction is not None:
                user_id, device_id, txn_id = client_transaction
                self._client_transactions.put_client_transaction(
                    tx, user_id, device_id, lpdu.room_id, txn_id, lpdu.event_id, now_ms
                )

        answer = self.expect(lpdu.event_id, (lpdu.room_id, lpdu.sender, lpdu.lpdu_hash or ""), hub_server)
        try:
            await self._database.write(work)
        except BaseException as error:
            self._resolve(lpdu.event_id, error)
            answer.addErrback(lambda _: None)  # the caller gets the storage's error instead
            raise
        finally:
            # Also after an error: it is no proof that the LPDU is not on disk, and nobody else would look for it there.
            self._may_be_pending(lpdu.room_id, hub_server)
        return await answer

    def expect(self, lpdu_event_id: str, key: tuple[str, str, str], hub_server: str) -> Deferred[str]:
        """Wait for an LPDU that is pending already.

        Args:
            key: its room ID, sender and LPDU hash.
        """
        waiter: Deferred[str] = Deferred()
        self._expected.setdefault(lpdu_event_id, _Expected(key, [])).waiters.append(waiter)
        self._ids[key] = lpdu_event_id

        def impatient() -> None:
            if not waiter.called:
                self._leave(waiter)
                waiter.errback(
                    SendFailed(
                        f"the room's hub {hub_server} has not answered yet; it will be sent later", refused=False
                    )
                )

        timer: IDelayedCall = self._clock.callLater(PATIENCE_SECONDS, impatient)

        def done(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        return waiter.addBoth(done)

    def pending(self, tx: Any, reference: str) -> PendingLpdu | None:
        """The pending LPDU that a client transaction's reference stands for; ``None`` when it is an event's ID.

        To be asked in the transaction that the reference was read in: it stands for something else afterwards.
        """
        return self._store.get(tx, reference)

    async def outcome_of(self, pending: PendingLpdu) -> str:
        """Wait for the event that a pending LPDU becomes; its ID.

        Raises:
            SendFailed: as :meth:`send`.
        """
        self._may_be_pending(pending.room_id, pending.hub_server)
        key = (pending.room_id, pending.sender, pending.lpdu_hash)
        return await self.expect(pending.lpdu_event_id, key, pending.hub_server)

    async def hub_answered(
        self,
        hub_server: str,
        lpdus: Sequence[PendingLpdu],
        failed: Mapping[str, str],
        accepted: Mapping[str, str],
        misdirected: Mapping[str, str],
    ) -> None:
        """What a hub answered for a transaction of LPDUs (called by the delivery).

        Raises:
            StorageFailed: the outcome could not be stored; the LPDUs are still pending.
        """
        ids = [lpdu.lpdu_event_id for lpdu in lpdus]
        refused = {lpdu_id: failed[lpdu_id] for lpdu_id in ids if lpdu_id in failed}
        refused |= await self._hopeless([lpdu for lpdu in lpdus if lpdu.lpdu_event_id in misdirected], misdirected)
        taken = {lpdu_id: accepted[lpdu_id] for lpdu_id in ids if lpdu_id in accepted and lpdu_id not in refused}
        if not refused and not taken:
            return

        def work(tx: Any) -> None:
            self._store.settle(tx, [*refused, *taken])
            for lpdu_id in refused:
                self._client_transactions.resolve_client_transaction(tx, lpdu_id, None)
            for lpdu_id, event_id in taken.items():
                self._client_transactions.resolve_client_transaction(tx, lpdu_id, event_id)

        await self._database.write(work)
        for lpdu_id, reason in refused.items():
            self.log.info("{hub} refused {lpdu_id}: {reason}", hub=hub_server, lpdu_id=lpdu_id, reason=reason)
            self._resolve(lpdu_id, SendFailed(reason, refused=True))
        for lpdu_id, event_id in taken.items():
            self._resolve(lpdu_id, event_id)

    async def _hopeless(self, misdirected: Sequence[PendingLpdu], reasons: Mapping[str, str]) -> dict[str, str]:
        """Of LPDUs that did not reach a hub those that never will, with the reason.

        Who has no user in a room any more hears of no change of its hub. Nobody has put what is still pending into the
        order, or we would have it: we were sent everything up to our last user's leaving, and nobody takes it after
        that.
        """
        if self._takes_part is None:
            return {}
        gone = {room_id for room_id in {lpdu.room_id for lpdu in misdirected} if not await self._takes_part(room_id)}
        return {lpdu.lpdu_event_id: reasons[lpdu.lpdu_event_id] for lpdu in misdirected if lpdu.room_id in gone}

    async def replace(self, anew: Sequence[tuple[PendingLpdu, Lpdu]], hub_server: str) -> None:
        """The same events, signed for another hub: they take the places of the pending ones, in this order, also for
        those who wait. All in one commit, so that they stay in order.

        Raises:
            StorageFailed: the old ones are still pending.
        """

        def work(tx: Any) -> list[tuple[PendingLpdu, Lpdu]]:
            # What became of the others is known by now.
            still = [(old, new) for old, new in anew if self._store.get(tx, old.lpdu_event_id) is not None]
            self._store.settle(tx, [old.lpdu_event_id for old, _ in still])
            for old, new in still:
                self._store.add(tx, new, hub_server)
                self._client_transactions.resolve_client_transaction(tx, old.lpdu_event_id, new.event_id)
            return still

        for old, new in await self._database.write(work):
            expected = self._expected.pop(old.lpdu_event_id, None)
            if expected is not None:
                key = (new.room_id, new.sender, new.lpdu_hash or "")
                self._ids.pop(expected.key, None)
                self._expected[new.event_id] = _Expected(key, expected.waiters)
                self._ids[key] = new.event_id
        self._delivery.lpdus_pending(hub_server)

    def settle_one(self, tx: Any, lpdu_event_id: str, event_id: str) -> None:
        """In a database transaction: this LPDU became that event."""
        self._store.settle(tx, [lpdu_event_id])
        self._client_transactions.resolve_client_transaction(tx, lpdu_event_id, event_id)

    def resolved(self, lpdu_event_id: str, event_id: str) -> None:
        """After its commit: whoever waits for the LPDU hears of it."""
        self._resolve(lpdu_event_id, event_id)

    def settle_echoes(self, tx: Any, pdus: Iterable[Pdu]) -> None:
        """In the database transaction that appends them: those of our own LPDUs that these events came from are
        settled.
        """
        for pdu in pdus:
            if pdu.lpdu_hash is None or pdu.sender_server != self._server_name:
                continue
            pending = self._store.by_hash(tx, pdu.room_id, pdu.sender, pdu.lpdu_hash)
            if pending is not None:
                self._store.settle(tx, [pending.lpdu_event_id])
                self._client_transactions.resolve_client_transaction(tx, pending.lpdu_event_id, pdu.event_id)

    def echoed(self, draft: RoomDraft) -> None:
        """After the commit of those events: whoever waits for one hears of it."""
        for appended in draft.events:
            pdu = appended.pdu
            if pdu.lpdu_hash is None or pdu.sender_server != self._server_name:
                continue
            lpdu_id = self._ids.get((pdu.room_id, pdu.sender, pdu.lpdu_hash))
            if lpdu_id is not None:
                self._resolve(lpdu_id, pdu.event_id)

    def _may_be_pending(self, room_id: str, hub_server: str) -> None:
        """Have it looked for what is to be sent to this hub."""
        self._delivery.lpdus_pending(hub_server)
        self._stored(room_id, hub_server)

    def _resolve(self, lpdu_event_id: str, outcome: str | BaseException) -> None:
        for waiter in self._forget(lpdu_event_id):
            if isinstance(outcome, str):
                waiter.callback(outcome)
            else:
                waiter.errback(outcome)

    def _leave(self, waiter: Deferred[str]) -> None:
        """Somebody waits no longer. The LPDU may have been signed anew since, and have another event ID."""
        for lpdu_event_id, expected in list(self._expected.items()):
            if waiter in expected.waiters:
                expected.waiters.remove(waiter)
                if not expected.waiters:
                    self._forget(lpdu_event_id)
                return

    def _forget(self, lpdu_event_id: str) -> list[Deferred[str]]:
        expected = self._expected.pop(lpdu_event_id, None)
        if expected is None:
            return []
        self._ids.pop(expected.key, None)
        return expected.waiters


@attrs.frozen(slots=True, eq=False)
class _Expected:
    """Those who wait for an LPDU, and its room ID, sender and LPDU hash."""

    key: tuple[str, str, str]
    waiters: list[Deferred[str]]
