"""Signatures drop, hashes redact."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import BadSignature
from lmatrix.events.building import build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.redaction import redact
from lmatrix.events.signatures import Form, RequiredSignature
from lmatrix.events.verification import check_hashes, verify

from .builders import HUB, I1, PARTICIPANT, V2, hub_arguments, known_keys, lpdu_arguments, place
from .strategies import THOROUGH, contents, event_types, integers

LPDU = build_lpdu(I1, **lpdu_arguments())
PDU = complete_lpdu(LPDU, **place())
versions = st.sampled_from([I1, V2])
types = event_types.filter(lambda text: len(text) < 60)


class VerifyTests(SynchronousTestCase):
    """What becomes of an event that came in."""

    def test_good(self) -> None:
        """It goes on as it is, and it is known who signed which form."""
        verified = verify(PDU, known_keys())
        self.assertIs(verified.event, PDU)
        self.assertFalse(verified.redacted)
        self.assertEqual(
            verified.signed_by, (RequiredSignature(PARTICIPANT, Form.LPDU), RequiredSignature(HUB, Form.PDU))
        )

    def test_content_changed(self) -> None:
        """A hash that does not match redacts; the copy has the same ID and goes on."""
        for event in (LPDU, PDU):
            fields = copy.deepcopy(event.fields)
            fields["content"]["body"] = "something else"
            changed = type(event).parse(fields, I1)
            verified = verify(changed, known_keys())
            self.assertTrue(verified.redacted)
            self.assertEqual(verified.event.content, {})
            self.assertEqual(verified.event.event_id, event.event_id)
            self.assertEqual(verified.event, redact(event))

    def test_unknown_field_changed(self) -> None:
        """The hashes cover unknown fields, and redaction takes them away."""
        lpdu = build_lpdu(I1, **lpdu_arguments())
        changed = Lpdu.parse(lpdu.fields | {"extra": 1}, I1)
        verified = verify(changed, known_keys())
        self.assertTrue(verified.redacted)
        self.assertNotIn("extra", verified.event.fields)

    def test_only_the_lpdu_hash_is_wrong(self) -> None:
        """A hub that completes an LPDU whose hash does not match makes an event that everybody redacts."""
        fields = copy.deepcopy(LPDU.fields)
        fields["content"]["body"] = "something else"
        pdu = complete_lpdu(Lpdu.parse(fields, I1), **place())
        verified = verify(pdu, known_keys())
        self.assertTrue(verified.redacted)

    def test_redacted_lpdu_can_be_completed(self) -> None:
        """The redacted copy of an LPDU still bears the participant's signature, through the PDU made from it."""
        fields = copy.deepcopy(LPDU.fields)
        fields["content"]["body"] = "something else"
        redacted = verify(Lpdu.parse(fields, I1), known_keys()).event
        pdu = complete_lpdu(redacted, **place())
        self.assertEqual(verify(Pdu.parse(pdu.fields, I1), known_keys()).event.content, {})

    def test_only_the_content_hash_is_wrong(self) -> None:
        """The content hash covers the place in the room too."""
        wrong = build_hub_event(V2, **hub_arguments())
        fields = wrong.fields | {"hashes": {"sha256": "A" * 43}}
        pdu = Pdu.parse(fields, V2)
        self.assertIsNot(check_hashes(pdu), pdu)

    def test_padded_hashes(self) -> None:
        """Base64 is accepted with padding."""
        hashes = PDU.fields["hashes"]
        padded = {"sha256": hashes["sha256"] + "=", "lpdu": {"sha256": hashes["lpdu"]["sha256"] + "="}}
        own = build_hub_event(V2, **hub_arguments())
        pdu = Pdu.parse(own.fields | {"hashes": {"sha256": own.content_hash + "="}}, V2)
        self.assertIs(check_hashes(pdu), pdu)
        lpdu = Lpdu.parse(LPDU.fields | {"hashes": {"lpdu": padded["lpdu"]}}, I1)
        self.assertIs(check_hashes(lpdu), lpdu)

    def test_unknown_algorithms(self) -> None:
        """Hashes by other algorithms beside SHA-256 are kept, and not checked."""
        own = build_hub_event(V2, **hub_arguments())
        pdu = Pdu.parse(own.fields | {"hashes": {**own.fields["hashes"], "sha512": "?"}}, V2)
        self.assertIs(check_hashes(pdu), pdu)

    def test_signature_first(self) -> None:
        """An event with neither a good signature nor a good hash is dropped, not redacted."""
        fields = copy.deepcopy(PDU.fields)
        fields["content"]["body"] = "something else"
        fields["signatures"].pop(HUB)
        self.assertRaises(BadSignature, verify, Pdu.parse(fields, I1), known_keys())


class RoundTripTests(SynchronousTestCase):
    """From a participant's content to everybody's check."""

    @THOROUGH
    @given(versions, types, contents, st.none() | types, integers)
    def test_participant_to_hub_to_participant(self, version, event_type, content, state_key, ts) -> None:
        """Whatever is sent: built, parsed, verified, completed, parsed, verified; nothing is redacted on the way."""
        arguments = lpdu_arguments(type=event_type, content=content, state_key=state_key, origin_server_ts=ts)
        lpdu = Lpdu.parse(build_lpdu(version, **arguments).fields, version)
        self.assertIs(verify(lpdu, known_keys()).event, lpdu)
        pdu = Pdu.parse(complete_lpdu(lpdu, **place()).fields, version)
        self.assertIs(verify(pdu, known_keys()).event, pdu)
        self.assertEqual(pdu.lpdu_hash, lpdu.lpdu_hash)
        self.assertEqual(pdu.content, content)
        self.assertNotEqual(pdu.event_id, lpdu.event_id)
        stored = Pdu.from_canonical(pdu.canonical, version)
        self.assertIs(verify(stored, known_keys()).event, stored)

    @THOROUGH
    @given(versions, types, contents, st.none() | types)
    def test_of_the_hub(self, version, event_type, content, state_key) -> None:
        """The same for the hub's own events."""
        arguments = hub_arguments(type=event_type, content=content, state_key=state_key)
        pdu = Pdu.parse(build_hub_event(version, **arguments).fields, version)
        self.assertIs(verify(pdu, known_keys()).event, pdu)
        self.assertEqual(pdu.hub_server is not None, version.hub_events_carry_lpdu)

    @THOROUGH
    @given(versions, types, contents, st.none() | types)
    def test_redaction(self, version, event_type, content, state_key) -> None:
        """A redacted copy keeps ID and signatures, stays as it is when redacted again, and encodes what it says."""
        arguments = lpdu_arguments(type=event_type, content=content, state_key=state_key)
        lpdu = build_lpdu(version, **arguments)
        for event in (lpdu, complete_lpdu(lpdu, **place())):
            redacted = redact(event)
            again = type(event).parse(redacted.fields, version)
            self.assertEqual(again, redacted)
            self.assertEqual(again.event_id, event.event_id)
            self.assertEqual(redact(redacted), redacted)
            verify(again, known_keys())
