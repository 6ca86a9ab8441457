"""LPDU and PDU forms: what parses, what does not and why, and what a parsed event says of itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.errors import EventTooLarge, SchemaViolation
from lmatrix.events.building import build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu, is_lpdu, peek_room_id
from lmatrix.events.schema import MAX_EVENT_BYTES

from .builders import ALICE, BOB, HEAD, HUB, I1, NOW, PARTICIPANT, ROOM, V2, hub_arguments, lpdu_arguments, place
from .strategies import THOROUGH, json_objects, json_values

LPDU = build_lpdu(I1, **lpdu_arguments(state_key=""))
PDU = complete_lpdu(LPDU, **place())
HUB_EVENT = build_hub_event(V2, **hub_arguments())
CREATE = build_hub_event(
    I1,
    **hub_arguments(type="m.room.create", content={"room_version": "I.1"}, auth_events=[], prev_events=[]),
)

ABSENT = object()
Change = tuple[str, str, Any]
LONG = "é" * 128  # 256 bytes

OF_BOTH: Sequence[Change] = [
    ("no_room_id", "room_id", ABSENT),
    ("room_id_without_server", "room_id", "!room"),
    ("room_id_too_long", "room_id", "!" + "r" * 250 + ":a.bc"),
    ("room_id_null", "room_id", None),
    ("no_sender", "sender", ABSENT),
    ("sender_with_capitals", "sender", "@Bob:participant.example"),
    ("sender_too_long", "sender", "@" + "b" * 250 + ":a.bc"),
    ("sender_a_list", "sender", [BOB]),
    ("no_type", "type", ABSENT),
    ("type_a_number", "type", 1),
    ("type_too_long_in_bytes", "type", LONG),
    ("type_with_a_lone_surrogate", "type", "\ud800"),
    ("state_key_null", "state_key", None),
    ("state_key_too_long_in_bytes", "state_key", LONG),
    ("no_timestamp", "origin_server_ts", ABSENT),
    ("timestamp_a_float", "origin_server_ts", 1.5),
    ("timestamp_true", "origin_server_ts", True),
    ("timestamp_text", "origin_server_ts", str(NOW)),
    ("timestamp_too_great", "origin_server_ts", 2**53),
    ("hub_server_null", "hub_server", None),
    ("hub_server_with_a_path", "hub_server", "hub.example/x"),
    ("hub_server_empty", "hub_server", ""),
    ("no_content", "content", ABSENT),
    ("content_a_list", "content", []),
    ("content_null", "content", None),
    ("content_not_a_number", "content", {"x": float("nan")}),
    ("content_beyond_safe_integers", "content", {"x": 2**53}),
    ("content_with_a_lone_surrogate", "content", {"x": "\udfff"}),
    ("no_signatures", "signatures", ABSENT),
    ("signatures_a_list", "signatures", []),
    ("signatures_of_a_server_a_text", "signatures", {HUB: "x"}),
    ("signature_a_number", "signatures", {HUB: {"ed25519:1": 1}}),
    ("no_hashes", "hashes", ABSENT),
    ("hashes_text", "hashes", "x"),
    ("lpdu_hashes_text", "hashes", {"lpdu": "x", "sha256": "x"}),
    ("lpdu_hashes_without_sha256", "hashes", {"lpdu": {"md5": "x"}, "sha256": "x"}),
    ("lpdu_hash_a_number", "hashes", {"lpdu": {"sha256": 1}, "sha256": "x"}),
    ("other_lpdu_hash_a_number", "hashes", {"lpdu": {"sha256": "x", "md5": 1}, "sha256": "x"}),
]

OF_LPDU: Sequence[Change] = [
    ("without_hub_server", "hub_server", ABSENT),
    ("with_auth_events", "auth_events", []),
    ("with_prev_events", "prev_events", []),
    ("with_a_content_hash", "hashes", {"lpdu": {"sha256": "x"}, "sha256": "x"}),
    ("without_lpdu_hash", "hashes", {}),
]

OF_PDU: Sequence[Change] = [
    ("without_content_hash", "hashes", {"lpdu": {"sha256": "x"}}),
    ("content_hash_a_number", "hashes", {"lpdu": {"sha256": "x"}, "sha256": 1}),
    ("other_content_hash_a_number", "hashes", {"lpdu": {"sha256": "x"}, "sha256": "x", "md5": 1}),
    ("with_hub_server_but_no_lpdu_hash", "hashes", {"sha256": "x"}),
    ("with_lpdu_hash_but_no_hub_server", "hub_server", ABSENT),
    ("no_auth_events", "auth_events", ABSENT),
    ("auth_events_an_object", "auth_events", {}),
    ("auth_events_null", "auth_events", [None]),
    ("auth_events_no_event_id", "auth_events", ["@x"]),
    ("too_many_auth_events", "auth_events", ["$x"] * 11),
    ("no_prev_events", "prev_events", ABSENT),
    ("prev_events_text", "prev_events", HEAD),
    ("prev_events_no_event_id", "prev_events", ["$"]),
    ("nothing_before_it", "prev_events", []),
    ("two_events_before_it", "prev_events", ["$a", "$b"]),
]


def _changed(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    if value is ABSENT:
        changed.pop(key, None)
    else:
        changed[key] = value
    return changed


def _violations(parse: Callable[..., Any], raw: dict[str, Any], changes: Sequence[Change]) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        for name, key, value in changes:
            setattr(cls, f"test_{name}", _violation(parse, _changed(raw, key, value), key))
        return cls

    return decorate


def _violation(parse, raw, key):
    def run(self: SynchronousTestCase) -> None:
        error = self.assertRaises(SchemaViolation, parse, raw, I1)
        self.assertIn(error.field.partition(".")[0], {key, "event", "hashes"})

    run.__doc__ = f"A wrong {key} is a violation of the schema, and is named."
    return run


@_violations(Lpdu.parse, LPDU.fields, [*OF_BOTH, *OF_LPDU])
class LpduSchemaTests(SynchronousTestCase):
    """What is no LPDU."""


@_violations(Pdu.parse, PDU.fields, [*OF_BOTH, *OF_PDU])
class PduSchemaTests(SynchronousTestCase):
    """What is no PDU."""


class ParseTests(SynchronousTestCase):
    """What is an event, and what it says."""

    def test_not_an_object(self) -> None:
        """Other JSON is no event."""
        for raw in (None, [], "x", 1, True):
            self.assertRaises(SchemaViolation, Lpdu.parse, raw, I1)
            self.assertRaises(SchemaViolation, Pdu.parse, raw, I1)

    def test_fields(self) -> None:
        """The attributes are the fields."""
        pdu = Pdu.parse(PDU.fields, I1)
        self.assertEqual(
            (pdu.room_id, pdu.type, pdu.state_key, pdu.sender, pdu.sender_server, pdu.origin_server_ts, pdu.hub_server),
            (ROOM, "m.room.message", "", BOB, PARTICIPANT, NOW, HUB),
        )
        self.assertEqual(pdu.content, PDU.fields["content"])
        self.assertEqual(pdu.lpdu_hash, PDU.fields["hashes"]["lpdu"]["sha256"])
        self.assertEqual(pdu.content_hash, PDU.fields["hashes"]["sha256"])
        self.assertEqual(pdu.prev_events, (HEAD,))
        self.assertEqual(pdu.auth_events, tuple(PDU.fields["auth_events"]))
        self.assertEqual(set(pdu.signatures), {HUB, PARTICIPANT})
        self.assertTrue(pdu.is_state)
        self.assertFalse(build_lpdu(I1, **lpdu_arguments()).is_state)

    def test_v02_hub_event(self) -> None:
        """An event of v02's hub names no hub and has no LPDU hash."""
        pdu = Pdu.parse(HUB_EVENT.fields, V2)
        self.assertIsNone(pdu.hub_server)
        self.assertIsNone(pdu.lpdu_hash)
        self.assertEqual(pdu.sender, ALICE)

    def test_dag_capable_server(self) -> None:
        """Without hub_server an event may follow several others."""
        raw = _changed(HUB_EVENT.fields, "prev_events", ["$a", "$b", "$c"])
        self.assertEqual(Pdu.parse(raw, I1).prev_events, ("$a", "$b", "$c"))

    def test_bounds(self) -> None:
        """65 536 bytes, ten auth events, twenty predecessors: the last that is allowed, and the first that is not."""
        self.assertEqual(MAX_EVENT_BYTES, 65_536)
        for key, limit in (("auth_events", 10), ("prev_events", 20)):
            Pdu.parse(_changed(HUB_EVENT.fields, key, ["$x"] * limit), V2)
            error = self.assertRaises(
                SchemaViolation, Pdu.parse, _changed(HUB_EVENT.fields, key, ["$x"] * (limit + 1)), V2
            )
            self.assertEqual(error.field, key)
        for ts in (2**53 - 1, -(2**53 - 1), 0):
            self.assertEqual(Lpdu.parse(_changed(LPDU.fields, "origin_server_ts", ts), I1).origin_server_ts, ts)
        self.assertRaises(SchemaViolation, Lpdu.parse, _changed(LPDU.fields, "origin_server_ts", -(2**53)), I1)

    def test_nothing_before_it(self) -> None:
        """Without hub_server, too, every event but the first follows another."""
        error = self.assertRaises(SchemaViolation, Pdu.parse, _changed(HUB_EVENT.fields, "prev_events", []), V2)
        self.assertEqual(error.field, "prev_events")

    def test_create(self) -> None:
        """Only the create event follows none. That it must not follow any is for the auth rules to say."""
        self.assertEqual(Pdu.parse(CREATE.fields, I1).prev_events, ())
        self.assertEqual(Pdu.parse(_changed(CREATE.fields, "prev_events", ["$x"]), I1).prev_events, ("$x",))

    def test_ip_literal(self) -> None:
        """Whether an IP literal is acceptable is not a matter of the schema."""
        raw = _changed(_changed(LPDU.fields, "hub_server", "127.0.0.1:8448"), "sender", "@bob:[::1]:80")
        self.assertEqual(Lpdu.parse(raw, I1).sender_server, "[::1]:80")

    def test_stripped(self) -> None:
        """unsigned, age_ts and event_id make no difference, whatever they hold."""
        raw = PDU.fields | {"unsigned": {"age": 1}, "age_ts": "x", "event_id": 7}
        pdu = Pdu.parse(raw, I1)
        self.assertEqual(pdu, PDU)
        self.assertEqual(pdu.event_id, PDU.event_id)
        self.assertEqual(pdu.fields, PDU.fields)
        self.assertIn("unsigned", raw)

    def test_unknown_fields_stay(self) -> None:
        """Every other unknown field is part of the event."""
        raw = LPDU.fields | {"origin": PARTICIPANT, "depth": 3, "\U0001f600": [], "\ufb33": {}}
        lpdu = Lpdu.parse(raw, I1)
        self.assertEqual(lpdu.fields, raw)
        self.assertEqual(lpdu.canonical, canonical_json.encode(raw))

    def test_longest_texts(self) -> None:
        """255 bytes are allowed, whatever the number of characters."""
        for text in ("x" * 255, "é" * 127 + "x", "\U0001f600" * 63 + "xxx"):
            Lpdu.parse(_changed(_changed(LPDU.fields, "type", text), "state_key", text), I1)
            for key in ("type", "state_key"):
                self.assertRaises(SchemaViolation, Lpdu.parse, _changed(LPDU.fields, key, text + "x"), I1)

    def test_empty_type(self) -> None:
        """The I-D sets no lower bound."""
        self.assertEqual(Lpdu.parse(_changed(LPDU.fields, "type", ""), I1).type, "")

    def test_size(self) -> None:
        """65 536 bytes are allowed, one more is not; what is stripped does not count."""
        room_for = MAX_EVENT_BYTES - len(Lpdu.parse(_changed(LPDU.fields, "content", {"x": ""}), I1).canonical)
        largest = _changed(LPDU.fields, "content", {"x": "y" * room_for})
        self.assertEqual(len(Lpdu.parse(largest | {"unsigned": "z" * 100}, I1).canonical), MAX_EVENT_BYTES)
        larger = _changed(LPDU.fields, "content", {"x": "y" * (room_for + 1)})
        error = self.assertRaises(EventTooLarge, Lpdu.parse, larger, I1)
        self.assertEqual(error.size, MAX_EVENT_BYTES + 1)
        self.assertRaises(EventTooLarge, Pdu.parse, _changed(PDU.fields, "content", {"x": "y" * 70_000}), I1)

    def test_from_canonical(self) -> None:
        """What storage kept is the event again, with or without its ID at hand."""
        for event_id in (None, PDU.event_id):
            stored = Pdu.from_canonical(PDU.canonical, I1, event_id)
            self.assertEqual(stored, PDU)
            self.assertEqual(stored.event_id, PDU.event_id)
            self.assertEqual(stored.fields, PDU.fields)
        self.assertEqual(Lpdu.from_canonical(LPDU.canonical, I1).event_id, LPDU.event_id)

    def test_equality(self) -> None:
        """Events are equal when form, room version and every byte are."""
        self.assertEqual(Lpdu.parse(LPDU.fields, I1), LPDU)
        self.assertEqual(len({LPDU, Lpdu.parse(LPDU.fields, I1)}), 1)
        self.assertNotEqual(LPDU, PDU)
        self.assertNotEqual(LPDU, Lpdu.parse(LPDU.fields, V2))
        self.assertNotEqual(LPDU, Lpdu.parse(_changed(LPDU.fields, "signatures", {}), I1))
        self.assertNotEqual(LPDU, LPDU.event_id)
        self.assertIn(LPDU.event_id, repr(LPDU))

    def test_frozen(self) -> None:
        """An event does not change."""
        with self.assertRaises(AttributeError):
            LPDU.sender = ALICE  # type: ignore[misc]


class KindTests(SynchronousTestCase):
    """Which form a JSON object is meant to be."""

    def test_is_lpdu(self) -> None:
        """An LPDU lacks everything that only a hub adds; anything that has some of it is to be parsed as a PDU."""
        self.assertTrue(is_lpdu(LPDU.fields))
        self.assertFalse(is_lpdu(PDU.fields))
        self.assertFalse(is_lpdu(HUB_EVENT.fields))
        self.assertFalse(is_lpdu(_changed(LPDU.fields, "auth_events", None)))
        self.assertFalse(is_lpdu(_changed(LPDU.fields, "prev_events", None)))
        self.assertFalse(is_lpdu(_changed(LPDU.fields, "hashes", {"sha256": "x"})))
        self.assertTrue(is_lpdu({"hashes": []}))
        self.assertTrue(is_lpdu({}))

    def test_peek_room_id(self) -> None:
        """The room is known before the room version is."""
        self.assertEqual(peek_room_id(PDU.fields), ROOM)
        for raw in ({}, {"room_id": 1}, {"room_id": "x"}, [], None):
            self.assertRaises(SchemaViolation, peek_room_id, raw)


# Events in which some fields have been exchanged for anything at all.
_broken = st.builds(
    lambda raw, changes, removed: {key: value for key, value in (raw | changes).items() if key not in removed},
    st.sampled_from([LPDU.fields, PDU.fields, HUB_EVENT.fields, CREATE.fields]),
    st.dictionaries(st.sampled_from([*PDU.fields, "unsigned"]), json_values, max_size=3),
    st.sets(st.sampled_from(list(PDU.fields)), max_size=2),
)


class TotalityTests(SynchronousTestCase):
    """Parsing answers for every JSON value."""

    @THOROUGH
    @given(st.one_of(_broken, json_objects, json_values), st.sampled_from([Lpdu, Pdu]), st.sampled_from([I1, V2]))
    def test_parses_or_violates(self, raw, form, version) -> None:
        """An event with the canonical JSON of its fields, or a violation: nothing else is raised."""
        before = copy.deepcopy(raw)
        try:
            event = form.parse(raw, version)
        except (SchemaViolation, EventTooLarge):
            return
        finally:
            self.assertEqual(raw, before)
        self.assertEqual(event.canonical, canonical_json.encode(event.fields))
        self.assertEqual(form.from_canonical(event.canonical, version), event)

    @THOROUGH
    @given(json_objects)
    def test_content_is_free(self, content) -> None:
        """Content may hold anything that canonical JSON can."""
        lpdu = Lpdu.parse(_changed(LPDU.fields, "content", content), I1)
        self.assertEqual(lpdu.content, content)
