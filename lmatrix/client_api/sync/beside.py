"""What ``/sync`` tells beside the rooms' logs: messages to the device, device lists, counts of keys; and of rooms, who
is typing, who has read what, and what the user noted.

Owns: :class:`BesideReader`. Invariants: a message to the device is told in every answer until the device comes back
with a token that says that it has it; when not all of them fit, the token says which did; who is typing is told when it
is not what the client was told last, even if that was before this server was started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from lmatrix.client_api.auth import Requester
from lmatrix.client_api.device_lists import DeviceListReader, DeviceLists
from lmatrix.client_api.filters import SyncFilter
from lmatrix.client_api.interfaces import KeyCountStore, MessageStore, ReadMarkerStore, UserRoom
from lmatrix.client_api.sync.room_news import RoomBeside, Span
from lmatrix.client_api.tokens import StreamToken
from lmatrix.devices.edus import READ, Receipt, receipt_data
from lmatrix.devices.typing_notices import TypingSnapshot
from lmatrix.rooms.interfaces import JsonObject

MAX_MESSAGES = 100
"""Messages to the device in one answer,"""

MAX_MESSAGE_BYTES = 1024 * 1024
"""and bytes of them, unless it is one message only."""


@attrs.frozen(slots=True)
class Beside:
    """What there is beside the rooms.

    Attributes:
        messages: for the device.
        messages_up_to: stream position of the last of them, when there are more; else ``None``.
        acknowledged: whether there are messages that the device has.
        lists: whose device lists are news.
        key_counts: one-time keys that the device has here, by algorithm.
        unused_last_resort: algorithms with a key of last resort that was not needed yet.
        counts_changed: whether keys were handed out.
    """

    messages: Sequence[JsonObject]
    messages_up_to: int | None
    acknowledged: bool
    lists: DeviceLists
    key_counts: Mapping[str, int]
    unused_last_resort: Sequence[str]
    counts_changed: bool

    @property
    def is_news(self) -> bool:
        """Whether there is anything that a client waits for."""
        return bool(self.messages or self.lists.changed or self.lists.left or self.counts_changed)


@attrs.frozen(slots=True)
class BesideReader:
    """Reads it.

    Attributes:
        messages, keys, markers: what to read.
        lists: reads device lists.
    """

    messages: MessageStore
    keys: KeyCountStore
    markers: ReadMarkerStore
    lists: DeviceListReader

    def read(
        self,
        tx: Any,
        requester: Requester,
        since: StreamToken | None,
        up_to: int,
        rooms: Sequence[UserRoom],
        now_ms: int,
    ) -> Beside:
        """What there is for one device.

        Args:
            since: the client's token; ``None`` for a first sync.
            up_to: last stream position that is shown.
            rooms: all that the user has to do with.
            now_ms: milliseconds since the epoch.
        """
        device = (requester.user_id, requester.device_id)
        has = 0
        acknowledged = False
        lists = DeviceLists()
        if since is not None:
            has = acknowledged_by(since)
            acknowledged = self.messages.has_up_to(tx, *device, has)
            lists = self.lists.read(tx, requester.user_id, rooms, since.stream, up_to)
        page = self.messages.page(tx, *device, has, up_to, MAX_MESSAGES + 1)
        told = _fitting(page)
        return Beside(
            messages=[json.loads(message) for _, message in told],
            messages_up_to=told[-1][0] if len(told) < len(page) else None,
            acknowledged=acknowledged,
            lists=lists,
            key_counts=self.keys.counts(tx, *device, now_ms),
            unused_last_resort=self.keys.unused_last_resort(tx, *device, now_ms),
            counts_changed=since is not None and self.keys.claimed_at(tx, *device) > since.stream,
        )

    def of_rooms(
        self,
        tx: Any,
        user_id: str,
        span: Span,
        rooms: Sequence[UserRoom],
        wanted: SyncFilter,
        typing: Mapping[str, JsonObject],
    ) -> dict[str, RoomBeside]:
        """What there is beside the logs of the rooms that the user is in, by room; rooms without are not in it.

        Args:
            typing: what to tell of who is typing (see :func:`typing_news`).
        """
        joined = [room for room in rooms if room.membership == "join" and wanted.wants_room(room.room_id)]
        receipts: dict[str, list[Receipt]] = {}
        for receipt in self._receipts(tx, span, joined):
            if receipt.kind == READ or receipt.user_id == user_id:
                receipts.setdefault(receipt.room_id, []).append(receipt)
        noted: dict[str, list[JsonObject]] = {}
        for room_id, kind, content in self.markers.changed_account_data(tx, user_id, span.since or 0, span.up_to):
            if wanted.account_data.wants_type(kind):
                noted.setdefault(room_id, []).append({"type": kind, "content": json.loads(content)})
        beside: dict[str, RoomBeside] = {}
        for room in joined:
            ephemeral = [*_receipt_events(receipts.get(room.room_id, ()))]
            if room.room_id in typing:
                ephemeral.append(typing[room.room_id])
            ephemeral = [event for event in ephemeral if wanted.ephemeral.wants_type(event["type"])]
            account_data = noted.get(room.room_id, [])
            if ephemeral or account_data:
                beside[room.room_id] = RoomBeside(ephemeral, account_data)
        return beside

    def _receipts(self, tx: Any, span: Span, rooms: Sequence[UserRoom]) -> Iterable[Receipt]:
        """Those that changed; of rooms that may be new to the client, all."""
        since = span.since or 0
        new = [room.room_id for room in rooms if room.stream is not None and room.stream > since]
        old = [room.room_id for room in rooms if room.stream is None or room.stream <= since]
        yield from self.markers.changed_receipts(tx, new, 0, span.up_to)
        yield from self.markers.changed_receipts(tx, old, since, span.up_to)


def acknowledged_by(since: StreamToken) -> int:
    """The stream position up to which a device that shows a token has its messages."""
    return since.stream if since.messages is None else since.messages


def typing_news(
    snapshot: TypingSnapshot, since: StreamToken | None, rooms: Iterable[str]
) -> tuple[dict[str, JsonObject], int | None]:
    """What to tell of who is typing, by room, and what the next token says of it.

    Args:
        snapshot: who is typing.
        since: the client's token; ``None`` for a first sync.
        rooms: those that the user is in.
    """
    told = None if since is None else since.typing
    is_known = told is not None and snapshot.floor <= told <= snapshot.serial
    news: dict[str, JsonObject] = {}
    anybody = False
    for room_id in rooms:
        serial, users = snapshot.rooms.get(room_id, (0, ()))
        anybody = anybody or bool(users)
        if told is None:
            is_news = bool(users)
        elif is_known:
            is_news = serial > told
        else:
            # The client believes that somebody types, and it is not known any more where.
            is_news = True
        if is_news:
            news[room_id] = {"type": "m.typing", "content": {"user_ids": list(users)}}
    return news, snapshot.serial if anybody else None


def _fitting(page: Sequence[tuple[int, bytes]]) -> Sequence[tuple[int, bytes]]:
    size = 0
    for number, (_, message) in enumerate(page[:MAX_MESSAGES]):
        size += len(message)
        if size > MAX_MESSAGE_BYTES and number > 0:
            return page[:number]
    return page[:MAX_MESSAGES]


def _receipt_events(receipts: Iterable[Receipt]) -> list[JsonObject]:
    """``m.receipt`` events: one, but for a user who has several receipts (for several threads) at one event."""
    contents: list[dict[str, dict[str, dict[str, JsonObject]]]] = []
    for receipt in receipts:
        for content in contents:
            users = content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})
            if receipt.user_id not in users:
                break
        else:
            users = {}
            contents.append({receipt.event_id: {receipt.kind: users}})
        users[receipt.user_id] = receipt_data(receipt)
    return [{"type": "m.receipt", "content": content} for content in contents]
