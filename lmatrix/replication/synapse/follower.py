"""What happens in Synapse, told to the mirrors.

Owns: the wake-ups. Synapse calls one function whenever any of its streams grows; here it is found out which of them
did, and what there is to tell. Events are not read here: the mirrors read them from the place they have reached. Typing
and receipts are told from now on, never what was before the start.

Invariant: nothing here holds Synapse up; one look at a time, and another one when there was a call meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.replication.synapse.internals import Internals

PAGE = 100
"""Changes that are looked at in one go."""


class Listener(Protocol):
    """See :class:`lmatrix.replication.interfaces.Mirrors`."""

    def stream_advanced(self) -> None: ...

    def typing_changed(self, dag_room_id: str, user_ids: Sequence[str]) -> None: ...

    def read_up_to(self, dag_room_id: str, user_id: str, event_id: str, ts: int) -> None: ...


class Follower:
    """Follows Synapse's streams.

    Args:
        internals: the way into Synapse.
        listener: whom to tell.
        reactor: for the turn after this one.
    """

    log = Logger()

    def __init__(self, internals: Internals, listener: Listener, reactor: Any) -> None:
        self._internals = internals
        self._listener = listener
        self._reactor = reactor
        self._events = self._typing = self._receipts = 0
        self._running = False
        self._planned = False
        self._stopped = False

    def start(self) -> None:
        """Begin to follow."""
        self._events = self._internals.stream_position()
        self._typing = self._internals.typing_position()
        self._receipts = self._internals.receipt_position()
        self._internals.when_something_is_new(self._woken)
        self._listener.stream_advanced()

    def stop(self) -> None:
        """Tell nothing any more."""
        self._stopped = True

    def _woken(self) -> None:
        if not (self._planned or self._stopped):
            self._planned = True
            self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        self._planned = False
        if self._stopped:
            return
        position = self._internals.stream_position()
        if position != self._events:
            self._events = position
            self._listener.stream_advanced()
        if self._running or not self._behind():
            return
        self._running = True
        looking = Deferred.fromCoroutine(self._tell())
        looking.addErrback(
            lambda failure: self.log.failure("who types and who has read could not be told", failure=failure)
        )
        looking.addBoth(self._looked)

    def _looked(self, _: object) -> None:
        self._running = False
        if self._behind():
            self._woken()

    def _behind(self) -> bool:
        """Whether there are typing notices or receipts to be told."""
        return self._internals.typing_position() != self._typing or self._internals.receipt_position() != self._receipts

    async def _tell(self) -> None:
        # Moved on first: what cannot be told is not told twice.
        before, self._typing = self._typing, self._internals.typing_position()
        for room_id, user_ids in await self._internals.typing_changes(before, self._typing, PAGE):
            self._listener.typing_changed(room_id, user_ids)
        end = self._internals.receipt_position()
        before, self._receipts = self._receipts, end
        while before < end and not self._stopped:
            before, receipts = await self._internals.receipts(before, end, PAGE)
            for room_id, receipt_type, user_id, event_id, content in receipts:
                ts = content.get("ts")
                if receipt_type == "m.read" and isinstance(ts, int):
                    self._listener.read_up_to(room_id, user_id, event_id, ts)
