"""Building events: what is refused, and what is left out."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import EventTooLarge, SchemaViolation
from lmatrix.events.building import add_signature, build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.schema import MAX_EVENT_BYTES
from lmatrix.events.verification import verify

from .builders import HUB, I1, KEYS, PARTICIPANT, THIRD, V2, hub_arguments, known_keys, lpdu_arguments, place

LPDU = build_lpdu(I1, **lpdu_arguments())


class BuildLpduTests(SynchronousTestCase):
    """A participant's event."""

    def test_fields(self) -> None:
        """Exactly the fields of an LPDU."""
        self.assertEqual(
            set(LPDU.fields),
            {"room_id", "type", "sender", "content", "origin_server_ts", "hub_server", "hashes", "signatures"},
        )
        self.assertEqual(set(LPDU.fields["hashes"]), {"lpdu"})

    def test_state_key(self) -> None:
        """An empty state key is there, an absent one is not."""
        self.assertEqual(build_lpdu(I1, **lpdu_arguments(state_key="")).fields["state_key"], "")
        self.assertNotIn("state_key", LPDU.fields)

    def test_bad_arguments(self) -> None:
        """What would not parse is not built."""
        for change in (
            {"room_id": "x"},
            {"sender": "bob"},
            {"type": "x" * 256},
            {"state_key": "x" * 256},
            {"hub_server": "not a server"},
            {"origin_server_ts": 2**53},
            {"origin_server_ts": 1.0},
            {"content": {"x": float("inf")}},
            {"content": {"x": 2**53}},
            {"content": {1: 2}},
            {"content": ["x"]},
        ):
            self.assertRaises(SchemaViolation, build_lpdu, I1, **lpdu_arguments(**change))

    def test_size(self) -> None:
        """The limit holds for what we build, too."""
        self.assertRaises(EventTooLarge, build_lpdu, I1, **lpdu_arguments(content={"x": "y" * MAX_EVENT_BYTES}))

    def test_several_keys(self) -> None:
        """Every key signs."""
        second = SigningKey.generate("two", b"2" * 32)
        lpdu = build_lpdu(I1, **lpdu_arguments(keys=[KEYS[PARTICIPANT], second]))
        self.assertEqual(set(lpdu.signatures[PARTICIPANT]), {"ed25519:one", "ed25519:two"})
        verify(lpdu, known_keys())

    def test_deterministic(self) -> None:
        """The same arguments make the same bytes."""
        self.assertEqual(build_lpdu(I1, **lpdu_arguments()).canonical, LPDU.canonical)


class CompleteLpduTests(SynchronousTestCase):
    """What the hub makes of it."""

    def test_adds_only_its_own(self) -> None:
        """Everything that the participant signed is as it was; the LPDU is left alone."""
        before = LPDU.canonical
        pdu = complete_lpdu(LPDU, **place())
        for key, value in LPDU.fields.items():
            if key not in ("hashes", "signatures"):
                self.assertEqual(pdu.fields[key], value)
        self.assertEqual(pdu.fields["hashes"]["lpdu"], LPDU.fields["hashes"]["lpdu"])
        self.assertEqual(pdu.signatures[PARTICIPANT], LPDU.signatures[PARTICIPANT])
        self.assertEqual(Lpdu.parse(LPDU.fields, I1).canonical, before)
        self.assertEqual(Pdu.parse(pdu.fields, I1), pdu)

    def test_unknown_fields(self) -> None:
        """They stay in their canonical order between the new ones."""
        lpdu = Lpdu.parse(LPDU.fields | {"aaa": 1, "b": 2, "prev": 3, "zz": {}, "\U0001f600": 4, "\ufb33": 5}, I1)
        pdu = complete_lpdu(lpdu, **place())
        self.assertEqual(Pdu.parse(pdu.fields, I1).canonical, pdu.canonical)

    def test_twice(self) -> None:
        """The same LPDU can be completed anew on another head (an invite whose target took its time)."""
        first, second = complete_lpdu(LPDU, **place(["$a"])), complete_lpdu(LPDU, **place(["$b"]))
        self.assertNotEqual(first.event_id, second.event_id)
        self.assertEqual(first.lpdu_hash, second.lpdu_hash)
        for pdu in (first, second):
            self.assertFalse(verify(pdu, known_keys()).redacted)

    def test_stray_signatures(self) -> None:
        """Signatures that do not count are not passed on: another server might trip over them."""
        stray = {
            PARTICIPANT: {**LPDU.signatures[PARTICIPANT], "nonsense": "x", "ed25519:empty": ""},
            HUB: {"ed25519:one": "forged", "ed25519:other": "x"},
            THIRD: {"ed25519:one": "x"},
        }
        pdu = complete_lpdu(Lpdu.parse(LPDU.fields | {"signatures": stray}, I1), **place())
        self.assertEqual(set(pdu.signatures), {PARTICIPANT, HUB})
        self.assertEqual(pdu.signatures[PARTICIPANT], LPDU.signatures[PARTICIPANT])
        self.assertEqual(set(pdu.signatures[HUB]), {"ed25519:one"})
        verify(pdu, known_keys())

    def test_other_lpdu_hashes(self) -> None:
        """An LPDU may declare hashes by other algorithms; they stay, and the signature over them holds."""
        fields = LPDU.fields | {"hashes": {"lpdu": {**LPDU.fields["hashes"]["lpdu"], "sha512": "?"}}}
        unsigned = Lpdu.parse(fields, I1)
        signatures = {PARTICIPANT: {"ed25519:one": KEYS[PARTICIPANT].sign(unsigned.signing_bytes)}}
        pdu = complete_lpdu(Lpdu.parse(fields | {"signatures": signatures}, I1), **place())
        self.assertEqual(pdu.fields["hashes"]["lpdu"]["sha512"], "?")
        self.assertFalse(verify(Pdu.parse(pdu.fields, I1), known_keys()).redacted)

    def test_of_the_hubs_own_user(self) -> None:
        """An LPDU by the hub's own user: the hub's signature over the PDU takes the place of that over the LPDU."""
        own = build_lpdu(I1, **lpdu_arguments(sender="@alice:hub.example", server_name=HUB, keys=[KEYS[HUB]]))
        pdu = complete_lpdu(own, **place())
        self.assertEqual(set(pdu.signatures), {HUB})
        verify(pdu, known_keys())

    def test_for_another_hub(self) -> None:
        """Completing what was signed for another hub is our own mistake."""
        self.assertRaises(ValueError, complete_lpdu, LPDU, **(place() | {"server_name": THIRD}))

    def test_bad_place(self) -> None:
        """Exactly one predecessor, and event IDs."""
        for prev_events in ([], ["$a", "$b"], ["x"]):
            self.assertRaises(SchemaViolation, complete_lpdu, LPDU, **place(prev_events))

    def test_size(self) -> None:
        """What the hub adds counts: an LPDU just below the limit cannot be completed."""
        slack = MAX_EVENT_BYTES - len(build_lpdu(I1, **lpdu_arguments(content={"x": ""})).canonical)
        lpdu = build_lpdu(I1, **lpdu_arguments(content={"x": "y" * slack}))
        self.assertEqual(len(lpdu.canonical), MAX_EVENT_BYTES)
        self.assertRaises(EventTooLarge, complete_lpdu, lpdu, **place())


class BuildHubEventTests(SynchronousTestCase):
    """The hub's own events."""

    def test_i1(self) -> None:
        """I.1: hub_server and hashes.lpdu are there."""
        pdu = build_hub_event(I1, **hub_arguments())
        self.assertEqual(pdu.hub_server, HUB)
        self.assertIsNotNone(pdu.lpdu_hash)

    def test_v02(self) -> None:
        """v02: neither is."""
        pdu = build_hub_event(V2, **hub_arguments())
        self.assertNotIn("hub_server", pdu.fields)
        self.assertEqual(set(pdu.fields["hashes"]), {"sha256"})

    def test_create(self) -> None:
        """The first event has no place to take."""
        arguments = hub_arguments(type="m.room.create", content={"room_version": "I.1"}, auth_events=[], prev_events=[])
        self.assertFalse(verify(build_hub_event(I1, **arguments), known_keys()).redacted)

    def test_bad_arguments(self) -> None:
        """What would not parse is not built."""
        for change in ({"prev_events": []}, {"prev_events": ["$a", "$b"]}, {"auth_events": ["x"]}, {"sender": "x"}):
            self.assertRaises(SchemaViolation, build_hub_event, I1, **hub_arguments(**change))
        self.assertRaises(EventTooLarge, build_hub_event, I1, **hub_arguments(content={"x": "y" * MAX_EVENT_BYTES}))


class AddSignatureTests(SynchronousTestCase):
    """Another server's signature."""

    def test_same_server_again(self) -> None:
        """A second key of a server that has signed joins the first."""
        second = SigningKey.generate("two", b"2" * 32)
        pdu = complete_lpdu(LPDU, **place())
        signed = add_signature(pdu, HUB, [second])
        self.assertEqual(set(signed.signatures[HUB]), {"ed25519:one", "ed25519:two"})
        self.assertEqual(Pdu.parse(signed.fields, I1), signed)

    def test_size(self) -> None:
        """One signature more can be one too many."""
        content = {"x": ""}
        slack = MAX_EVENT_BYTES - len(build_hub_event(I1, **hub_arguments(content=content)).canonical)
        pdu = build_hub_event(I1, **hub_arguments(content={"x": "y" * slack}))
        self.assertRaises(EventTooLarge, add_signature, pdu, THIRD, [KEYS[THIRD]])


class DepthTests(SynchronousTestCase):
    """Events that would not survive being wrapped."""

    def test_deep_content_is_no_event(self) -> None:
        """Content too deep for the transaction that would carry it is refused when it is built, and when it comes."""
        shallow, deep = _nested(80), _nested(95)
        with self.assertRaises(SchemaViolation):
            build_lpdu(I1, **lpdu_arguments(content=deep))
        fields = dict(build_lpdu(I1, **lpdu_arguments(content=shallow)).fields)
        Lpdu.parse(fields, I1)
        with self.assertRaises(SchemaViolation):
            Lpdu.parse({**fields, "content": deep}, I1)


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"deep": value}
    return value
