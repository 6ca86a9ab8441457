"""What the devices floor needs of its neighbours, as interfaces, and the values that cross them.

Owns: the protocols of its stores (implemented in :mod:`lmatrix.storage`), of the delivery and the requests to other
servers (:mod:`lmatrix.federation`), and of whoever wakes ``/sync``. As everywhere, a store method takes the transaction
first and never commits, and a *stream* position is a place in this server's one stream of everything that ``/sync``
tells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.edus import Receipt
from lmatrix.devices.key_uploads import UploadedKey
from lmatrix.errors import BadRequest
from lmatrix.rooms.interfaces import JsonObject


class KeyConflict(BadRequest):
    """A one-time key is uploaded under the name of another one, or one of them under another name."""


@attrs.frozen(slots=True)
class DeviceInfo:
    """A local user's device as its user sees it.

    Attributes:
        display_name: what the user calls it.
        created_ts: when it first logged in, milliseconds since the epoch.
    """

    device_id: str
    display_name: str | None
    created_ts: int


@attrs.frozen(slots=True)
class ClaimedKey:
    """A one-time key that was handed out.

    Attributes:
        version: what names it besides its algorithm.
        value: its canonical JSON.
    """

    version: str
    value: bytes


@attrs.frozen(slots=True)
class FetchedList:
    """When the device list of a user of another server was whole.

    Attributes:
        stream: stream position when it was asked for.
        ts: the same in milliseconds since the epoch.
    """

    stream: int
    ts: int


class DeviceAccounts(Protocol):
    """The local users' devices, as far as they are logged in."""

    def device_ids(self, tx: Any, user_id: str) -> Sequence[str]:
        """Sorted; none for an unknown user."""

    def devices(self, tx: Any, user_id: str) -> Sequence[DeviceInfo]: ...

    def rename_device(self, tx: Any, user_id: str, device_id: str, display_name: str | None) -> bool:
        """Whether there is such a device."""

    def remove_devices(self, tx: Any, user_id: str, device_ids: Sequence[str]) -> None:
        """Their tokens are void with them."""


class SharingStore(Protocol):
    """Who shares rooms with whom. Only joined users count."""

    def is_joined(self, tx: Any, room_id: str, user_id: str) -> bool: ...

    def joined_rooms(self, tx: Any, user_id: str) -> Sequence[str]: ...

    def joined_users(self, tx: Any, room_id: str) -> Sequence[str]: ...

    def servers_sharing(self, tx: Any, user_id: str) -> frozenset[str]:
        """The servers of all users who share a room with this one, its own included."""

    def shares_with_server(self, tx: Any, user_id: str, server_name: str, since: int | None = None) -> bool:
        """Whether a user of that server shares a room with this one; with ``since``: and has done so, without a break,
        from that stream position on.
        """

    def share_a_room(self, tx: Any, user_id: str, other: str) -> bool: ...


class DeviceStore(Protocol):
    """Device objects, and when users' device lists changed."""

    def put_object(self, tx: Any, device: DeviceObject) -> bool:
        """In place of an older one; whether anything is different."""

    def object(self, tx: Any, user_id: str, device_id: str) -> bytes | None:
        """Canonical JSON."""

    def objects(self, tx: Any, user_id: str) -> Mapping[str, bytes]:
        """All of a user's by device ID."""

    def remove_objects(self, tx: Any, user_id: str, device_ids: Sequence[str]) -> Sequence[str]:
        """Those that were there."""

    def list_fetched(self, tx: Any, user_id: str, fetched: FetchedList) -> None:
        """The device objects of a user of another server are all there are."""

    def fetched_list(self, tx: Any, user_id: str) -> FetchedList | None: ...

    def list_changed_at(self, tx: Any, user_id: str) -> int:
        """Stream position of the last change that was noted; 0 for never."""

    def list_changed(self, tx: Any, user_id: str) -> int:
        """Note that a user's device list changed; the stream position of that."""


class OneTimeKeyStore(Protocol):
    """One-time keys and last-resort keys. Invariant: a one-time key is handed out once."""

    def add(self, tx: Any, user_id: str, device_id: str, keys: Sequence[UploadedKey]) -> None:
        """Take an upload; a key that was uploaded before changes nothing. Raises :class:`KeyConflict`."""

    def remove_expired(self, tx: Any, now_ms: int) -> None:
        """Forget some keys whose time is over, whosever they are."""

    def left(self, tx: Any, user_id: str, device_id: str) -> int:
        """How many one-time keys wait to be handed out."""

    def counts(self, tx: Any, user_id: str, device_id: str, now_ms: int) -> Mapping[str, int]:
        """One-time keys that can be handed out, by algorithm."""

    def unused_last_resort(self, tx: Any, user_id: str, device_id: str, now_ms: int) -> Sequence[str]:
        """Algorithms with a last-resort key that was not handed out yet."""

    def claim(self, tx: Any, user_id: str, device_id: str, algorithm: str, now_ms: int) -> ClaimedKey | None:
        """Hand one out, for good; only to be told after the commit. ``None``: there is none."""

    def claimed(self, tx: Any, user_id: str, device_id: str) -> int:
        """Note that keys of a device were handed out; the stream position of that."""

    def remove_devices(self, tx: Any, user_id: str, device_ids: Sequence[str]) -> None: ...


class ToDeviceStore(Protocol):
    """Messages that wait for their device."""

    def put(self, tx: Any, user_id: str, device_id: str, origin: str, message: JsonObject) -> int:
        """Its stream position."""

    def waiting(self, tx: Any, user_id: str, device_id: str, origin: str) -> tuple[int, int]:
        """How many wait for the device, and how many of these from one server."""

    def is_new(self, tx: Any, origin: str, digest: str, now_ms: int) -> bool:
        """Whether a message of another server has not come before; from then on it has."""

    def begin_request(self, tx: Any, user_id: str, device_id: str, request: str, now_ms: int) -> int | None:
        """A number of its own for a local device's request; ``None`` when it has been carried out before."""

    def acknowledge(self, tx: Any, user_id: str, device_id: str, up_to: int) -> None:
        """The device has everything up to a stream position."""

    def remove_devices(self, tx: Any, user_id: str, device_ids: Sequence[str]) -> None: ...


class ReceiptStore(Protocol):
    """How far users have read."""

    def put(self, tx: Any, receipt: Receipt) -> int | None:
        """Its stream position; ``None`` when an earlier receipt says at least as much."""

    def put_account_data(self, tx: Any, user_id: str, room_id: str, data_type: str, content: JsonObject) -> int: ...


class Stream(Protocol):
    """The one stream of everything that ``/sync`` tells."""

    def max_stream(self, tx: Any) -> int:
        """Its last position."""


class EduOutbox(Protocol):
    """EDUs that other servers are owed (see :class:`lmatrix.rooms.delivery_store.DeliveryStore`)."""

    def add_edu(self, tx: Any, destination: str, edu: JsonObject, subject: str | None = None) -> None: ...

    def edus_waiting(self, tx: Any, destination: str) -> int: ...


class EduDelivery(Protocol):
    """The sending of EDUs. Neither method blocks or raises."""

    def edus_pending(self, destination: str) -> None:
        """After a commit: there are new EDUs in the destination's outbox."""

    def offer_edu(self, destination: str, subject: str, edu: JsonObject) -> None:
        """Send an EDU soon, or never: it is lost when the destination cannot be reached. A newer one under the same
        subject takes its place.
        """


class DevicePeers(Protocol):
    """Requests to other servers about their users' devices.

    Every method raises :class:`~lmatrix.errors.PeerError`. What comes back is bounded and has the promised shape, and
    nothing more has been checked.
    """

    async def device(self, destination: str, user_id: str, device_id: str) -> JsonObject:
        """A device object."""

    async def devices(self, destination: str, user_id: str) -> Sequence[JsonObject] | None:
        """All of a user's device objects; ``None`` when the server has no endpoint that tells them."""

    async def claim_keys(
        self, destination: str, wanted: Mapping[str, Mapping[str, str]]
    ) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """User ID → device ID → algorithm; the answer has one more level: algorithm → key."""


class RoomServers(Protocol):
    """Which servers take part in a room."""

    async def destinations(self, room_id: str) -> Collection[str]:
        """Every other server with a joined user; none for a room that this server does not hold."""


class SyncWaker(Protocol):
    """Who is told, after the commit, that ``/sync`` has something to tell."""

    def stream_advanced(self, stream: int, room_id: str, user_ids: Iterable[str] | None = None) -> None:
        """See :class:`lmatrix.rooms.interfaces.LocalAudience`."""

    def users_advanced(self, stream: int, user_ids: Iterable[str]) -> None:
        """Something for these users, in no room."""

    def room_stirred(self, room_id: str) -> None:
        """Something for everybody in a room that has no place in the stream: who is typing."""
