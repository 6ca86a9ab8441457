"""The four kinds of EDU, on the wire and as values (I-D "Ephemeral Data Units"; Matrix v1.11 "Typing Notifications",
"Receipts").

Owns: the shapes of ``m.direct_to_device``, ``m.device_list_update``, ``m.typing`` and ``m.receipt`` in both directions.
Pure. Invariants: a value made from an EDU is well-formed and bounded, and everybody who is said to act in it belongs to
the server that sent it; whatever does not, makes the EDU (or, where it holds several things, that one thing) dropped.

The I-D names the sender ``sender`` in one place and ``sender_id`` in another: either is read, and both are written
where the I-D writes ``sender_id``. Matrix's ``m.typing`` and ``m.receipt`` name their users in the content, and may
lack it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from lmatrix import ids
from lmatrix.canonical_json import MAX_SAFE_INTEGER, encode, parse_object
from lmatrix.devices.device_objects import DeviceObject, InvalidDevice
from lmatrix.errors import InvalidIdentifier, LMatrixError
from lmatrix.rooms.interfaces import JsonObject

DIRECT_TO_DEVICE: Final = "m.direct_to_device"
DEVICE_LIST_UPDATE: Final = "m.device_list_update"
TYPING: Final = "m.typing"
RECEIPT: Final = "m.receipt"
READ: Final = "m.read"

MESSAGE_ID: Final = "org.lmatrix.message_id"
"""Our addition to ``m.direct_to_device``, by which a message is recognised that comes in another transaction again."""

MAX_EDU_BYTES = 64 * 1024
"""Canonical JSON of one EDU; a transaction of a hundred must fit into a body."""

MAX_DEVICES = 200
"""Device objects, and removed devices, in one EDU."""

MAX_RECEIPTS = 200
"""Receipts in one EDU."""

_MAX_TEXT_BYTES = 255


class EduDropped(LMatrixError):
    """An EDU, or a part of one, that is ignored.

    Args:
        outcome: a fixed word, for the metric: ``"malformed"``, ``"forbidden"``, ``"unknown"``, ….
        reason: in words.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@attrs.frozen(slots=True)
class ToDeviceMessage:
    """A message for one device.

    Attributes:
        message_type, message: what it is, for the device.
        message_id: by which it is recognised when it comes again; ``None`` when its sender does not say.
    """

    sender: str
    target: str
    target_device: str
    message_type: str
    message: JsonObject = attrs.field(repr=False)
    message_id: str | None = None


@attrs.frozen(slots=True)
class DeviceListUpdate:
    """What became of some of a user's devices.

    Attributes:
        changed: new or changed ones.
        removed: IDs of those that are gone, or no longer valid.
    """

    user_id: str
    changed: Sequence[DeviceObject] = ()
    removed: Sequence[str] = ()


@attrs.frozen(slots=True)
class TypingNotice:
    """A user began or ceased to type in a room."""

    room_id: str
    user_id: str
    typing: bool


@attrs.frozen(slots=True)
class Receipt:
    """A user has read a room up to an event.

    Attributes:
        kind: ``"m.read"``, or ``"m.read.private"`` for one that nobody else gets to see.
        ts: when, milliseconds since the epoch.
        thread_id: the thread that it counts for (``"main"`` or an event ID); ``None``: the whole room.
    """

    room_id: str
    user_id: str
    kind: str
    event_id: str
    ts: int
    thread_id: str | None = None


EduValue = ToDeviceMessage | DeviceListUpdate | TypingNotice | Receipt


def read_edu(origin: str, raw: JsonObject) -> list[EduValue | EduDropped]:
    """What is in an EDU.

    Args:
        origin: the server that sent it.
        raw: the EDU, parsed JSON.

    Returns:
        its contents, several for receipts; and an :class:`EduDropped` for each part that is ignored.

    Raises:
        EduDropped: the whole of it is.
    """
    reader = _READERS.get(kind_of(raw))
    if reader is None:
        raise EduDropped("unknown", "an EDU of a type that is not known here")
    content = raw.get("content")
    if not isinstance(content, dict):
        raise EduDropped("malformed", "content must be an object")
    if len(encode(raw)) > MAX_EDU_BYTES:
        raise EduDropped("malformed", f"an EDU has at most {MAX_EDU_BYTES} bytes")
    return list(reader(origin, _sender(origin, raw), content))


def kind_of(raw: JsonObject) -> str:
    """An EDU's type, when it is one of the four; else ``"other"``. A bounded set, for metrics."""
    kind = raw.get("type")
    return kind if isinstance(kind, str) and kind in _READERS else "other"


def signed_objects(raw: JsonObject) -> int:
    """How many signed objects there may be in an EDU: what reading it costs."""
    content = raw.get("content")
    changed = content.get("changed") if isinstance(content, dict) else None
    return min(len(changed), MAX_DEVICES) if isinstance(changed, list) else 0


# -- Reading ----------------------------------------------------------------------------------------------------------


def _to_device(origin: str, sender: str | None, content: JsonObject) -> Iterator[EduValue]:
    message = content.get("message")
    if not isinstance(message, dict):
        raise EduDropped("malformed", "message must be an object")
    # Matrix has a message_id as well.
    message_id = content.get(MESSAGE_ID, content.get("message_id"))
    yield ToDeviceMessage(
        sender=_needed(sender),
        target=_id(ids.user_id, content.get("target")),
        target_device=_id(ids.device_id, content.get("target_device")),
        message_type=_text(content.get("message_type")),
        message=message,
        message_id=None if message_id is None else _text(message_id),
    )


def _device_list(origin: str, sender: str | None, content: JsonObject) -> Iterator[EduValue]:
    user_id = _needed(sender)
    objects, gone = _list(content, "changed"), _list(content, "removed")
    changed: dict[str, DeviceObject] = {}
    removed = {_id(ids.device_id, device_id): None for device_id in gone}
    for raw in objects:
        try:
            device = DeviceObject.parse(raw, user_id)
            changed[device.device_id] = device
        except InvalidDevice:
            # I-D "Device Credentials": what was known of the device before counts no more.
            if isinstance(raw, dict):
                removed[_id(ids.device_id, raw.get("device_id"))] = None
    yield DeviceListUpdate(
        user_id,
        tuple(device for device_id, device in changed.items() if device_id not in removed),
        tuple(removed),
    )


def _typing(origin: str, sender: str | None, content: JsonObject) -> Iterator[EduValue]:
    user_id = _of_origin(origin, content.get("user_id"))
    typing = content.get("typing")
    if not isinstance(typing, bool):
        raise EduDropped("malformed", "typing must be true or false")
    yield TypingNotice(_id(ids.room_id, content.get("room_id")), user_id, typing)


def _receipts(origin: str, sender: str | None, content: JsonObject) -> Iterator[EduValue | EduDropped]:
    count = 0
    for room_id, kinds in content.items():
        # Other kinds than m.read are private to their users, and have no business between servers.
        readers = kinds.get(READ) if isinstance(kinds, dict) else None
        for user_id, entry in readers.items() if isinstance(readers, dict) else ():
            count += 1
            if count > MAX_RECEIPTS:
                yield EduDropped("malformed", f"more than {MAX_RECEIPTS} receipts")
                return
            try:
                yield _receipt(origin, room_id, user_id, entry)
            except EduDropped as dropped:
                yield dropped


def _receipt(origin: str, room_id: str, user_id: str, entry: Any) -> Receipt:
    if not isinstance(entry, dict):
        raise EduDropped("malformed", "a receipt must be an object")
    event_ids, data = entry.get("event_ids"), entry.get("data", {})
    if not isinstance(event_ids, list) or not event_ids or not isinstance(data, dict):
        raise EduDropped("malformed", "a receipt must have event_ids and data")
    ts, thread_id = data.get("ts", 0), data.get("thread_id")
    if type(ts) is not int or not 0 <= ts <= MAX_SAFE_INTEGER:
        raise EduDropped("malformed", "ts must be a time")
    return Receipt(
        room_id=_id(ids.room_id, room_id),
        user_id=_of_origin(origin, user_id),
        kind=READ,
        event_id=_id(ids.event_id, event_ids[-1]),
        ts=ts,
        thread_id=None if thread_id is None else _text(thread_id),
    )


_READERS: Final[dict[str, Callable[[str, str | None, JsonObject], Iterator[EduValue | EduDropped]]]] = {
    DIRECT_TO_DEVICE: _to_device,
    DEVICE_LIST_UPDATE: _device_list,
    TYPING: _typing,
    RECEIPT: _receipts,
}


def _sender(origin: str, raw: JsonObject) -> str | None:
    named = {raw[name] for name in ("sender", "sender_id") if isinstance(raw.get(name), str)}
    if len(named) > 1:
        raise EduDropped("malformed", "sender and sender_id differ")
    if not named and ("sender" in raw or "sender_id" in raw):
        raise EduDropped("malformed", "the sender must be a user ID")
    return _of_origin(origin, named.pop()) if named else None


def _needed(sender: str | None) -> str:
    if sender is None:
        raise EduDropped("malformed", "an EDU without a sender")
    return sender


def _of_origin(origin: str, value: object) -> str:
    user_id = _id(ids.user_id, value)
    if ids.server_of(user_id) != origin:
        raise EduDropped("forbidden", "a user of another server than the EDU's origin")
    return user_id


def _id(check: Any, value: object) -> str:
    try:
        return str(check(value))
    except InvalidIdentifier as error:
        raise EduDropped("malformed", str(error)) from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= _MAX_TEXT_BYTES:
        raise EduDropped("malformed", f"expected a string of 1 to {_MAX_TEXT_BYTES} bytes")
    return value


def _list(content: JsonObject, name: str) -> list[Any]:
    value = content.get(name, [])
    if not isinstance(value, list) or len(value) > MAX_DEVICES:
        raise EduDropped("malformed", f"{name} must be a list of at most {MAX_DEVICES}")
    return value


# -- Writing ----------------------------------------------------------------------------------------------------------


def to_device_edu(message: ToDeviceMessage) -> JsonObject:
    """``m.direct_to_device``."""
    content: JsonObject = {
        "target": message.target,
        "target_device": message.target_device,
        "message_type": message.message_type,
        "message": message.message,
    }
    if message.message_id is not None:
        content[MESSAGE_ID] = message.message_id
    return {"type": DIRECT_TO_DEVICE, "sender": message.sender, "content": content}


def device_list_edu(update: DeviceListUpdate) -> JsonObject:
    """``m.device_list_update``."""
    return {
        "type": DEVICE_LIST_UPDATE,
        "sender": update.user_id,
        "sender_id": update.user_id,
        "content": {
            "changed": [parse_object(device.canonical) for device in update.changed],
            "removed": list(update.removed),
        },
    }


def typing_edu(notice: TypingNotice) -> JsonObject:
    """``m.typing``."""
    content = {"room_id": notice.room_id, "user_id": notice.user_id, "typing": notice.typing}
    return {"type": TYPING, "sender": notice.user_id, "content": content}


def receipt_edu(receipt: Receipt) -> JsonObject:
    """``m.receipt``."""
    entry = {"event_ids": [receipt.event_id], "data": receipt_data(receipt)}
    content = {receipt.room_id: {receipt.kind: {receipt.user_id: entry}}}
    return {"type": RECEIPT, "sender": receipt.user_id, "content": content}


def receipt_data(receipt: Receipt) -> JsonObject:
    """What is told of a receipt, to servers and clients alike."""
    data: JsonObject = {"ts": receipt.ts}
    if receipt.thread_id is not None:
        data["thread_id"] = receipt.thread_id
    return data
