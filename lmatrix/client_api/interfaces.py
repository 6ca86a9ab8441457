"""What the client API needs of its neighbours, as interfaces.

Owns: the protocols of the stores that only the client API reads and writes (accounts, and a user's view of the logs),
and of the rooms' facade. The stores themselves are in :mod:`lmatrix.storage`, the facade is
:class:`lmatrix.rooms.local_users.LocalUsers`; neither is imported here. As everywhere, a store method takes the
transaction first and never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from lmatrix.devices.edus import Receipt
from lmatrix.events.creation import RoomPlan
from lmatrix.rooms.interfaces import StoredEvent
from lmatrix.rooms.local_users import ClientTransaction


class UserRoom(Protocol):
    """One row of :meth:`TimelineStore.rooms_of_user`.

    Attributes:
        membership: the user's current membership.
        position: of the member event in the room's log (of the snapshot that brought it, when the log has no such
            event).
        stream: of the member event; ``None`` when it is not a live event of the log.
    """

    @property
    def room_id(self) -> str: ...
    @property
    def membership(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> int | None: ...


class EndedInvite(Protocol):
    """One row of :meth:`TimelineStore.ended_invites`.

    Attributes:
        canonical: the membership event that ended it, canonical JSON.
        stream: where the end stands in the stream.
    """

    @property
    def room_id(self) -> str: ...
    @property
    def room_version(self) -> str: ...
    @property
    def canonical(self) -> bytes: ...
    @property
    def stream(self) -> int: ...


class Page(Protocol):
    """What :meth:`TimelineStore.events_page` finds.

    Attributes:
        events: in the direction that was asked for.
        end: token position after the last of them, in that direction.
        more: whether there are more that way, without crossing a hole in the log.
    """

    @property
    def events(self) -> Sequence[StoredEvent]: ...
    @property
    def end(self) -> int: ...
    @property
    def more(self) -> bool: ...


class TimelineStore(Protocol):
    """The logs as one user's client reads them.

    A *token position* lies between events: ``p`` stands after the event at ``p`` and before the one at ``p + 1``.
    """

    def max_stream(self, tx: Any) -> int:
        """The last position of the stream; 0 when there is none."""

    def rooms_of_user(self, tx: Any, user_id: str) -> Sequence[UserRoom]:
        """Every room with a membership of the user, whatever it is, but for those that the user forgot."""

    def user_in_room(self, tx: Any, room_id: str, user_id: str) -> UserRoom | None:
        """The user's membership in one room, forgotten or not."""

    def forget_room(self, tx: Any, user_id: str, room_id: str) -> None:
        """Leave the room out of :meth:`rooms_of_user` until the user's membership changes."""

    def changes_since(self, tx: Any, room_ids: Sequence[str], since: int, up_to: int) -> Sequence[str]:
        """Those of the rooms that have a live event at a stream position ``since < s <= up_to``."""

    def position_at(self, tx: Any, room_id: str, stream: int) -> int:
        """Position of the room's last live event at or below a stream position; 0 when there is none."""

    def events_page(self, tx: Any, room_id: str, position: int, direction: str, limit: int) -> Page:
        """Accepted events from a token position on, towards the past (``"b"``) or the present (``"f"``)."""

    def state_at(self, tx: Any, room_id: str, position: int) -> Sequence[StoredEvent]:
        """State at a token position, in the room's order."""

    def state_between(self, tx: Any, room_id: str, after: int, up_to: int) -> Sequence[StoredEvent]:
        """State that changed at positions ``after < p <= up_to``, with its value at ``up_to``."""

    def members(self, tx: Any, room_id: str, position: int | None = None) -> Sequence[StoredEvent]:
        """Member events, whatever the membership: now, or at a token position."""

    def member_counts(self, tx: Any, room_id: str) -> tuple[int, int]:
        """How many are joined and how many invited, now."""

    def ended_invites(self, tx: Any, user_id: str, since: int, up_to: int) -> Sequence[EndedInvite]:
        """Invites of a user that came to nothing at stream positions ``since < s <= up_to``."""


class MessageStore(Protocol):
    """Messages that wait for a device."""

    def page(
        self, tx: Any, user_id: str, device_id: str, after: int, up_to: int, limit: int
    ) -> Sequence[tuple[int, bytes]]:
        """``(stream, canonical JSON)`` at stream positions ``after < s <= up_to``, ascending."""

    def has_up_to(self, tx: Any, user_id: str, device_id: str, up_to: int) -> bool:
        """Whether there are any up to a stream position."""


class KeyCountStore(Protocol):
    """How many one-time keys a device has left here."""

    def counts(self, tx: Any, user_id: str, device_id: str, now_ms: int) -> Mapping[str, int]: ...

    def unused_last_resort(self, tx: Any, user_id: str, device_id: str, now_ms: int) -> Sequence[str]: ...

    def claimed_at(self, tx: Any, user_id: str, device_id: str) -> int:
        """Stream position at which keys were last handed out; 0 for never."""


class ReadMarkerStore(Protocol):
    """Receipts, and what users note about rooms."""

    def changed_receipts(self, tx: Any, room_ids: Sequence[str], since: int, up_to: int) -> Iterable[Receipt]:
        """Those of rooms at stream positions ``since < s <= up_to``."""

    def changed_account_data(self, tx: Any, user_id: str, since: int, up_to: int) -> Sequence[tuple[str, str, bytes]]:
        """``(room_id, type, canonical JSON)`` at stream positions ``since < s <= up_to``."""


class DeviceNewsStore(Protocol):
    """Changes of device lists, and of memberships as far as they concern these."""

    def changed_lists(self, tx: Any, user_id: str, since: int, up_to: int) -> Sequence[str]:
        """Of those who share a room with a user, and the user: whose list changed at ``since < s <= up_to``."""

    def changed_members(self, tx: Any, room_id: str, after: int, up_to: int) -> Sequence[tuple[str, str]]:
        """``(user_id, membership now)`` of those whose membership was set at positions ``after < p <= up_to``."""


class AccountStore(Protocol):
    """Local users, their devices and tokens, their filters, what their devices sent."""

    def user_exists(self, tx: Any, user_id: str) -> bool: ...

    def create_user(self, tx: Any, user_id: str, password_hash: str, now_ms: int) -> None: ...

    def password_hash(self, tx: Any, user_id: str) -> str | None: ...

    def add_token(
        self, tx: Any, user_id: str, device_id: str, token_hash: str, now_ms: int, display_name: str | None
    ) -> None:
        """Makes the device if need be; a token that it had before is void."""

    def user_of_token(self, tx: Any, token_hash: str) -> tuple[str, str] | None:
        """``(user_id, device_id)``."""

    def put_filter(self, tx: Any, user_id: str, definition: bytes) -> str:
        """Returns the filter's ID."""

    def filter(self, tx: Any, user_id: str, filter_id: str) -> bytes | None: ...

    def transactions_behind(self, tx: Any, user_id: str, device_id: str, event_ids: Sequence[str]) -> Mapping[str, str]:
        """For those of the events that this device sent: the client transaction that it did so with."""


class LocalUsers(Protocol):
    """What local users do in rooms: :class:`lmatrix.rooms.local_users.LocalUsers`, which says what each raises."""

    async def create_room(
        self, creator: str, version: str, plan: RoomPlan, beside: Callable[[Any, str], None] | None = None
    ) -> str: ...

    async def send(
        self,
        room_id: str,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        transaction: ClientTransaction | None = None,
    ) -> str: ...

    async def invite(self, room_id: str, sender: str, target: str, reason: str | None) -> None: ...

    async def join(self, user_id: str, room_id: str, via: Sequence[str], reason: str | None) -> str: ...

    async def knock(self, user_id: str, room_id: str, via: Sequence[str], reason: str | None) -> str: ...

    async def leave(self, user_id: str, room_id: str, reason: str | None) -> None: ...

    async def membership(self, room_id: str, sender: str, target: str, membership: str, reason: str | None) -> str: ...

    async def redact(
        self,
        room_id: str,
        sender: str,
        target_event_id: str,
        reason: str | None,
        transaction: ClientTransaction | None = None,
    ) -> str: ...

    async def backfill_before(self, room_id: str, position: int, limit: int) -> None: ...
