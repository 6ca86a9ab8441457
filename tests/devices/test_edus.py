"""EDUs on the wire: what is read from them, and what is not."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.canonical_json import encode, parse_object
from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.edus import (
    MESSAGE_ID,
    DeviceListUpdate,
    EduDropped,
    Receipt,
    ToDeviceMessage,
    TypingNotice,
    device_list_edu,
    kind_of,
    read_edu,
    receipt_edu,
    to_device_edu,
    typing_edu,
)
from lmatrix.rooms.interfaces import JsonObject
from tests.devices.builders import Device

ORIGIN = "north.example"
BOB = "@bob:north.example"
ALICE = "@alice:hub.example"
ROOM = "!room:hub.example"
EVENT = "$nKHVqt3iyLA_HEE8lT1yUaaVjjBRR-fAqpN4t7opadc"
DEVICE = Device(BOB, "BOBS")

TO_DEVICE: JsonObject = {
    "type": "m.direct_to_device",
    "sender": BOB,
    "content": {
        "target": ALICE,
        "target_device": "ABCD",
        "message_type": "m.room.encrypted",
        "message": {"algorithm": "x"},
    },
}
DEVICE_LIST: JsonObject = {
    "type": "m.device_list_update",
    "sender_id": BOB,
    "content": {"changed": [DEVICE.object()], "removed": ["OLD"]},
}
TYPING: JsonObject = {"type": "m.typing", "content": {"room_id": ROOM, "user_id": BOB, "typing": True}}
RECEIPT: JsonObject = {
    "type": "m.receipt",
    "content": {ROOM: {"m.read": {BOB: {"data": {"ts": 5}, "event_ids": [EVENT]}}}},
}
_LONG = "x" * 256


def changed(edu: JsonObject, **content: Any) -> JsonObject:
    """An EDU with something else in its content; ``None`` leaves it out."""
    merged = {**edu["content"], **content}
    return {**edu, "content": {name: value for name, value in merged.items() if value is not None}}


def receipt(entry: object, user_id: str = BOB, room_id: str = ROOM) -> JsonObject:
    return {"type": "m.receipt", "content": {room_id: {"m.read": {user_id: entry}}}}


MALFORMED: list[JsonObject] = [
    {},
    {"type": "m.typing"},
    {**TYPING, "content": []},
    {**TYPING, "content": None},
    # The sender.
    {**TO_DEVICE, "sender": None},
    {**TO_DEVICE, "sender": 5},
    {**TO_DEVICE, "sender": "bob"},
    {name: value for name, value in TO_DEVICE.items() if name != "sender"},
    {name: value for name, value in DEVICE_LIST.items() if name != "sender_id"},
    {**DEVICE_LIST, "sender": "@ben:north.example"},
    {**TYPING, "sender": []},
    # To-device messages.
    changed(TO_DEVICE, target=None),
    changed(TO_DEVICE, target="alice"),
    changed(TO_DEVICE, target=5),
    changed(TO_DEVICE, target_device=None),
    changed(TO_DEVICE, target_device="*"),
    changed(TO_DEVICE, target_device=""),
    changed(TO_DEVICE, target_device=_LONG),
    changed(TO_DEVICE, message_type=None),
    changed(TO_DEVICE, message_type=""),
    changed(TO_DEVICE, message_type=_LONG),
    changed(TO_DEVICE, message_type={}),
    changed(TO_DEVICE, message=None),
    changed(TO_DEVICE, message="x"),
    changed(TO_DEVICE, message=[]),
    changed(TO_DEVICE, message={"padding": "x" * 65_536}),
    changed(TO_DEVICE, **{MESSAGE_ID: 5}),
    changed(TO_DEVICE, **{MESSAGE_ID: _LONG}),
    # Device lists.
    changed(DEVICE_LIST, changed={}),
    changed(DEVICE_LIST, changed="x"),
    changed(DEVICE_LIST, changed=[DEVICE.object()] * 201),
    changed(DEVICE_LIST, removed="x"),
    changed(DEVICE_LIST, removed=[5]),
    changed(DEVICE_LIST, removed=["A-B"]),
    changed(DEVICE_LIST, removed=["X"] * 201),
    changed(DEVICE_LIST, changed=[{"device_id": 5}]),
    # Typing.
    changed(TYPING, typing=None),
    changed(TYPING, typing=1),
    changed(TYPING, typing="true"),
    changed(TYPING, room_id=None),
    changed(TYPING, room_id="room"),
    changed(TYPING, user_id=None),
    changed(TYPING, user_id="bob"),
    # Receipts.
    receipt(None),
    receipt([]),
    receipt({}),
    receipt({"event_ids": [], "data": {}}),
    receipt({"event_ids": EVENT, "data": {}}),
    receipt({"event_ids": ["x"], "data": {}}),
    receipt({"event_ids": [5], "data": {}}),
    receipt({"event_ids": [EVENT], "data": []}),
    receipt({"event_ids": [EVENT], "data": {"ts": "now"}}),
    receipt({"event_ids": [EVENT], "data": {"ts": -1}}),
    receipt({"event_ids": [EVENT], "data": {"ts": 1.5}}),
    receipt({"event_ids": [EVENT], "data": {"ts": True}}),
    receipt({"event_ids": [EVENT], "data": {"ts": 1, "thread_id": 5}}),
    receipt({"event_ids": [EVENT], "data": {"ts": 1, "thread_id": _LONG}}),
    receipt({"event_ids": [EVENT], "data": {"ts": 1}}, room_id="room"),
    receipt({"event_ids": [EVENT], "data": {"ts": 1}}, user_id="bob"),
]
"""What is wrong with each of them is all that is wrong with it."""

FORBIDDEN: list[JsonObject] = [
    {**TO_DEVICE, "sender": ALICE},
    {**TO_DEVICE, "sender": "@bob:north.example:443"},
    {**DEVICE_LIST, "sender_id": ALICE},
    {**TYPING, "sender": ALICE},
    {**RECEIPT, "sender": ALICE},
    changed(TYPING, user_id=ALICE),
    receipt({"event_ids": [EVENT], "data": {"ts": 1}}, user_id=ALICE),
]


def outcomes(edu: JsonObject) -> list[str]:
    """What becomes of each part of an EDU."""
    try:
        return [part.outcome if isinstance(part, EduDropped) else "taken" for part in read_edu(ORIGIN, edu)]
    except EduDropped as dropped:
        return [dropped.outcome]


class ReadingTests(SynchronousTestCase):
    def test_good(self) -> None:
        """The I-D's and Matrix's examples are read."""
        self.assertEqual(
            read_edu(ORIGIN, TO_DEVICE),
            [ToDeviceMessage(BOB, ALICE, "ABCD", "m.room.encrypted", {"algorithm": "x"})],
        )
        device = DeviceObject.parse(DEVICE.object(), BOB)
        self.assertEqual(read_edu(ORIGIN, DEVICE_LIST), [DeviceListUpdate(BOB, (device,), ("OLD",))])
        self.assertEqual(read_edu(ORIGIN, TYPING), [TypingNotice(ROOM, BOB, True)])
        self.assertEqual(read_edu(ORIGIN, RECEIPT), [Receipt(ROOM, BOB, "m.read", EVENT, 5)])

    def test_either_name_of_the_sender(self) -> None:
        """``sender`` and ``sender_id`` mean the same, and may both be there."""
        for sender in ({"sender": BOB}, {"sender_id": BOB}, {"sender": BOB, "sender_id": BOB}):
            for edu in (TO_DEVICE, DEVICE_LIST, TYPING, RECEIPT):
                bare = {name: value for name, value in edu.items() if not name.startswith("sender")}
                self.assertEqual(outcomes({**bare, **sender}), ["taken"])

    def test_malformed(self) -> None:
        """Whatever is malformed is dropped as such, and nothing else happens."""
        for edu in MALFORMED:
            self.assertIn(outcomes(edu), (["malformed"], ["unknown"]) if not edu else (["malformed"],), edu)

    def test_forbidden(self) -> None:
        """A server speaks for its own users only."""
        for edu in FORBIDDEN:
            self.assertEqual(outcomes(edu), ["forbidden"], edu)

    def test_unknown(self) -> None:
        """Other types are ignored; they are all one to whoever counts."""
        for kind in ("m.presence", "m.room.encrypted", "", 5, None, ["m.typing"]):
            edu = {"type": kind, "sender": BOB, "content": {}}
            self.assertEqual(outcomes(edu), ["unknown"])
            self.assertEqual(kind_of(edu), "other")
        self.assertEqual(kind_of(TYPING), "m.typing")

    def test_message_ids(self) -> None:
        """Our name for a message's ID, and Matrix's."""
        for name in (MESSAGE_ID, "message_id"):
            [message] = read_edu(ORIGIN, changed(TO_DEVICE, **{name: "abc"}))
            assert isinstance(message, ToDeviceMessage)
            self.assertEqual(message.message_id, "abc")

    def test_an_invalid_device(self) -> None:
        """A device object that is not valid makes the device one that is gone; the others stand."""
        broken = {**Device(BOB, "BROKEN").object(), "algorithms": []}
        [update] = read_edu(ORIGIN, changed(DEVICE_LIST, changed=[broken, DEVICE.object()], removed=[]))
        assert isinstance(update, DeviceListUpdate)
        self.assertEqual([device.device_id for device in update.changed], ["BOBS"])
        self.assertEqual(list(update.removed), ["BROKEN"])

    def test_somebody_elses_device(self) -> None:
        """A device object of another user than the sender is not valid."""
        [update] = read_edu(ORIGIN, changed(DEVICE_LIST, changed=[Device(ALICE, "ABCD").object()], removed=[]))
        assert isinstance(update, DeviceListUpdate)
        self.assertEqual((list(update.changed), list(update.removed)), ([], ["ABCD"]))

    def test_changed_and_removed(self) -> None:
        """A device that is both is gone."""
        [update] = read_edu(ORIGIN, changed(DEVICE_LIST, removed=["BOBS"]))
        assert isinstance(update, DeviceListUpdate)
        self.assertEqual((list(update.changed), list(update.removed)), ([], ["BOBS"]))

    def test_many_receipts(self) -> None:
        """Each receipt stands by itself, up to a bound; other kinds than ``m.read`` are nobody's business."""
        good = {"event_ids": [EVENT], "data": {"ts": 1}}
        users: JsonObject = {BOB: good, ALICE: good, "@ben:north.example": {}}
        edu = {"type": "m.receipt", "content": {ROOM: {"m.read": users, "m.read.private": {BOB: good}}, "x": 5}}
        self.assertEqual(outcomes(edu), ["taken", "forbidden", "malformed"])
        crowd = {f"@u{n}:north.example": good for n in range(300)}
        found = outcomes({"type": "m.receipt", "content": {ROOM: {"m.read": crowd}}})
        self.assertEqual(found, ["taken"] * 200 + ["malformed"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([BOB, ALICE, ROOM, EVENT, "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "room_id user_id typing target target_device message message_type m.read changed removed event_ids"
                f" data ts x {ROOM} {BOB}".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


class AnythingTests(SynchronousTestCase):
    @given(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["m.direct_to_device", "m.device_list_update", "m.typing", "m.receipt"])},
            optional={"sender": JSON, "sender_id": JSON, "content": JSON},
        )
    )
    def test_whatever_comes(self, edu: JsonObject) -> None:
        """Nothing but :class:`EduDropped` is ever raised, and whoever acts belongs to the origin."""
        try:
            parts = read_edu(ORIGIN, edu)
        except EduDropped:
            return
        for part in parts:
            if not isinstance(part, EduDropped):
                actor = part.sender if isinstance(part, ToDeviceMessage) else part.user_id
                self.assertEqual(actor.partition(":")[2], ORIGIN)


class WritingTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """What is written is read again, and has what the I-D asks for."""
        device = DeviceObject.parse(DEVICE.object(), BOB)
        for value, edu in (
            (message := ToDeviceMessage(BOB, ALICE, "ABCD", "t", {"a": 1}, "id"), to_device_edu(message)),
            (update := DeviceListUpdate(BOB, (device,), ("OLD",)), device_list_edu(update)),
            (notice := TypingNotice(ROOM, BOB, False), typing_edu(notice)),
            (read := Receipt(ROOM, BOB, "m.read", EVENT, 7, "main"), receipt_edu(read)),
        ):
            on_the_wire = parse_object(encode(edu))
            self.assertEqual(on_the_wire["sender"], BOB)
            self.assertIsInstance(on_the_wire["content"], dict)
            self.assertEqual(read_edu(ORIGIN, on_the_wire), [value])
        self.assertEqual(device_list_edu(update)["sender_id"], BOB)

    def test_without_an_id(self) -> None:
        """A message without an ID is written just as the I-D has it."""
        [message] = read_edu(ORIGIN, TO_DEVICE)
        assert isinstance(message, ToDeviceMessage)
        self.assertEqual(to_device_edu(message), TO_DEVICE)
