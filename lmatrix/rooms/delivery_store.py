"""What is remembered of other servers as destinations, and where: the values and the store's interface.

Owns: :class:`DestinationState`, :class:`OwedRoom` and the protocol :class:`DeliveryStore` between the delivery (which
sends) and the storage (which keeps).

Invariants: what is owed to a destination is never copied. It is the range of positions after its cursor in each room,
within the spans during which it takes part (see :class:`~lmatrix.rooms.interfaces.ServerSpan`). A cursor only moves
forwards, and only over what the destination has answered ``200 OK`` for. Only EDUs, which are in no log, have an
outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import attrs

from lmatrix.rooms.interfaces import JsonObject, StoredEvent


@attrs.frozen(slots=True)
class DestinationState:
    """What is kept of a destination besides its cursors. Every field is at its default for one that was never in
    trouble.

    Attributes:
        retry_at_ms: milliseconds since the epoch before which it is not tried again; ``None`` when it is not backing
            off.
        failing_since_ms: when the first of its failures in a row happened; ``None`` when the last request succeeded.
        interval_ms: the current length of its back-off; 0 when there is none.
        last_success_ms: when a transaction last succeeded after trouble; ``None`` when that was never.
        path_form: the form of path that it is known to understand (``"stable"`` or ``"unstable"``); ``None``: not
            known.
        bare_get_signature: whether it wants requests without a body signed without ``content`` (Matrix's way) and not
            with ``content: {}`` (the I-D's).
    """

    retry_at_ms: int | None = None
    failing_since_ms: int | None = None
    interval_ms: int = 0
    last_success_ms: int | None = None
    path_form: str | None = None
    bare_get_signature: bool = False


class OwedRoom(NamedTuple):
    """A room in which a destination is owed something.

    Attributes:
        cursor: position up to which it has everything.
        until: position after which it is owed nothing more; ``None`` while it takes part.
    """

    room_id: str
    cursor: int
    until: int | None


class DeliveryStore(Protocol):
    """Cursors, back-off and the EDU outbox. A method takes the transaction first and never commits."""

    def owed_rooms(self, tx: Any, destination: str) -> Sequence[tuple[str, int, int | None]]:
        """Rooms with log beyond the destination's cursor, within its spans; see :class:`OwedRoom`."""

    def owed_events(self, tx: Any, destination: str, room_id: str, limit: int, after: int = 0) -> Sequence[StoredEvent]:
        """What it is owed in the room: ascending, after its cursor and after the position ``after``, within its
        spans.
        """

    def advance(self, tx: Any, destination: str, room_id: str, position: int) -> None:
        """Move its cursor in the room forward to ``position``; a lower one changes nothing."""

    def all_owing(self, tx: Any) -> Sequence[str]:
        """Every destination that is owed an event or an EDU."""

    def lag(self, tx: Any, destination: str) -> int:
        """How many events it is owed, over all rooms."""

    def destination(self, tx: Any, name: str) -> DestinationState | None:
        """What is kept of it; ``None`` when nothing ever was."""

    def put_destination(self, tx: Any, name: str, state: DestinationState) -> None:
        """Replace what is kept of it."""

    def add_edu(self, tx: Any, destination: str, edu: JsonObject, subject: str | None = None) -> None:
        """Put an EDU in its outbox, in place of the one that waits there under the same subject."""

    def edus_waiting(self, tx: Any, destination: str) -> int:
        """How many are in its outbox."""

    def edus(self, tx: Any, destination: str, limit: int) -> Sequence[tuple[int, JsonObject]]:
        """The oldest EDUs in its outbox, with the number of each."""

    def remove_edus(self, tx: Any, edu_ids: Sequence[int]) -> None:
        """Take EDUs out, by number."""
