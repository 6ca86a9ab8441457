"""Who must have signed an event, and the check of it."""

from __future__ import annotations

import copy
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import BadSignature
from lmatrix.events.building import add_signature, build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu
from lmatrix.events.signatures import (
    Form,
    KnownKey,
    RequiredSignature,
    check_signatures,
    keys_wanted,
    required_signatures,
)

from .builders import (
    ALICE,
    BOB,
    HUB,
    I1,
    KEYS,
    NOW,
    PARTICIPANT,
    THIRD,
    V2,
    hub_arguments,
    known_keys,
    lpdu_arguments,
    place,
)

LPDU = build_lpdu(I1, **lpdu_arguments())
PDU = complete_lpdu(LPDU, **place())
OWN = build_hub_event(I1, **hub_arguments())
OWN_V02 = build_hub_event(V2, **hub_arguments())
KEY_ID = KEYS[HUB].key_id


def _with(pdu: Pdu, **changes: Any) -> Pdu:
    return Pdu.parse(copy.deepcopy(pdu.fields) | changes, pdu.room_version)


def _signatures(pdu: Pdu | Lpdu, server: str, by_key: Any) -> dict[str, Any]:
    return {"signatures": {**pdu.fields["signatures"], server: by_key}}


class RequiredSignaturesTests(SynchronousTestCase):
    """Which signatures an event needs."""

    def test_lpdu(self) -> None:
        """An LPDU: the sender's server."""
        self.assertEqual(required_signatures(LPDU), (RequiredSignature(PARTICIPANT, Form.LPDU),))

    def test_through_the_hub(self) -> None:
        """hub_server differs from the sender's server: that one over the LPDU form, the hub over the PDU."""
        self.assertEqual(
            required_signatures(PDU), (RequiredSignature(PARTICIPANT, Form.LPDU), RequiredSignature(HUB, Form.PDU))
        )

    def test_of_the_hub(self) -> None:
        """hub_server is the sender's server: the hub over the PDU."""
        self.assertEqual(required_signatures(OWN), (RequiredSignature(HUB, Form.PDU),))

    def test_without_hub(self) -> None:
        """No hub_server: the sender's server over the PDU."""
        self.assertEqual(required_signatures(OWN_V02), (RequiredSignature(HUB, Form.PDU),))

    def test_keys_wanted(self) -> None:
        """Only the keys that the event is signed with, only of servers that count."""
        signed = add_signature(PDU, THIRD, [KEYS[THIRD]])
        self.assertEqual(keys_wanted(signed), {PARTICIPANT: {KEY_ID}, HUB: {KEY_ID}})
        unsigned = _with(PDU, signatures={HUB: {"ed25519:a": "x", "ed25519:b": "y"}})
        self.assertEqual(keys_wanted(unsigned), {PARTICIPANT: set(), HUB: {"ed25519:a", "ed25519:b"}})


class CheckSignaturesTests(SynchronousTestCase):
    """Whether they are there and hold."""

    def _refused(self, event: Lpdu | Pdu, server: str, keys: Any = None) -> str:
        error = self.assertRaises(BadSignature, check_signatures, event, known_keys() if keys is None else keys)
        self.assertEqual(error.server, server)
        return str(error.reason)

    def test_good(self) -> None:
        """Every form that is built here verifies."""
        for event in (LPDU, PDU, OWN, OWN_V02):
            check_signatures(event, known_keys())

    def test_missing(self) -> None:
        """A required server has not signed at all."""
        self._refused(_with(PDU, signatures={HUB: PDU.fields["signatures"][HUB]}), PARTICIPANT)
        self._refused(_with(PDU, signatures={PARTICIPANT: PDU.fields["signatures"][PARTICIPANT]}), HUB)
        self._refused(_with(OWN, signatures={}), HUB)
        self._refused(Lpdu.parse(LPDU.fields | {"signatures": {}}, I1), PARTICIPANT)

    def test_empty(self) -> None:
        """An entry without a signature is no signature."""
        self._refused(_with(PDU, **_signatures(PDU, HUB, {})), HUB)

    def test_unknown_server(self) -> None:
        """No key of the server is known."""
        self._refused(PDU, PARTICIPANT, known_keys(HUB))
        self._refused(PDU, HUB, known_keys(PARTICIPANT))

    def test_unknown_key(self) -> None:
        """The server is known, the key is not."""
        other = SigningKey.generate("other", bytes(32))
        keys = known_keys() | {HUB: {other.key_id: KnownKey(other.key_id, other.public)}}
        self.assertIn("known", self._refused(PDU, HUB, keys))

    def test_wrong_signature(self) -> None:
        """A signature over something else, or by another server's key."""
        wrong = KEYS[HUB].sign(b"{}")
        self._refused(_with(PDU, **_signatures(PDU, HUB, {KEY_ID: wrong})), HUB)
        by_another = KEYS[THIRD].sign(PDU.signing_bytes)
        self._refused(_with(PDU, **_signatures(PDU, HUB, {KEY_ID: by_another})), HUB)

    def test_malformed(self) -> None:
        """What is not base64, or not a signature, does not verify."""
        for bad in ("", "!", "AAAA", PDU.fields["signatures"][HUB][KEY_ID][:-2]):
            self._refused(_with(PDU, **_signatures(PDU, HUB, {KEY_ID: bad})), HUB)

    def test_lpdu_signature_is_not_over_the_pdu(self) -> None:
        """The participant's signature over the PDU does not stand in for the one over the LPDU, nor the reverse."""
        over_pdu = KEYS[PARTICIPANT].sign(PDU.signing_bytes)
        self._refused(_with(PDU, **_signatures(PDU, PARTICIPANT, {KEY_ID: over_pdu})), PARTICIPANT)
        over_lpdu = KEYS[HUB].sign(PDU.lpdu_signing_bytes())
        self._refused(_with(PDU, **_signatures(PDU, HUB, {KEY_ID: over_lpdu})), HUB)

    def test_changed_after_signing(self) -> None:
        """A change of anything that redaction keeps breaks the signatures that cover it."""
        self._refused(_with(PDU, sender="@eve:participant.example"), PARTICIPANT)
        self._refused(_with(PDU, prev_events=["$other"]), HUB)
        self._refused(_with(PDU, origin_server_ts=NOW + 1), PARTICIPANT)
        self._refused(_with(PDU, hashes=PDU.fields["hashes"] | {"sha256": "x"}), HUB)

    def test_for_another_hub(self) -> None:
        """The participant signed for one hub: another cannot take the LPDU and complete it."""
        stolen = Lpdu.parse(LPDU.fields | {"hub_server": THIRD}, I1)
        pdu = complete_lpdu(stolen, **(place() | {"server_name": THIRD, "keys": [KEYS[THIRD]]}))
        self._refused(pdu, PARTICIPANT)

    def test_one_good_key_suffices(self) -> None:
        """Of several keys any may verify; signatures by unknown keys and wrong ones beside it do not matter."""
        second = SigningKey.generate("two", b"2" * 32)
        pdu = complete_lpdu(LPDU, **(place() | {"keys": [second, KEYS[HUB]]}))
        check_signatures(pdu, known_keys())
        keys = known_keys()
        keys[HUB][second.key_id] = KnownKey(second.key_id, second.public)
        signatures = {second.key_id: "wrong", "ed25519:unknown": "x", KEY_ID: pdu.signatures[HUB][KEY_ID]}
        check_signatures(_with(pdu, **_signatures(pdu, HUB, signatures)), keys)

    def test_others_do_not_count(self) -> None:
        """A bad signature of a server that need not have signed is not looked at."""
        check_signatures(_with(PDU, **_signatures(PDU, THIRD, {KEY_ID: "wrong"})), known_keys())

    def test_expired_key(self) -> None:
        """A retired key vouches for events up to its expiry, and not beyond."""
        check_signatures(OWN, known_keys(HUB, expired_ts=NOW))
        self.assertIn("expired", self._refused(OWN, HUB, known_keys(HUB, expired_ts=NOW - 1)))

    def test_padded(self) -> None:
        """Base64 is accepted with padding."""
        padded = OWN.signatures[HUB][KEY_ID] + "=="
        check_signatures(_with(OWN, **_signatures(OWN, HUB, {KEY_ID: padded})), known_keys())

    def test_redacted(self) -> None:
        """Signatures cover the redacted event: content that redaction drops may be gone."""
        check_signatures(_with(PDU, content={}), known_keys())

    def test_target_of_an_invite(self) -> None:
        """The target's signature is added beside the others and changes nothing else."""
        signed = add_signature(PDU, THIRD, [KEYS[THIRD]])
        self.assertEqual(signed.event_id, PDU.event_id)
        self.assertEqual(set(signed.signatures), {HUB, PARTICIPANT, THIRD})
        check_signatures(signed, known_keys())
        self.assertTrue(KEYS[THIRD].public.verify(PDU.signing_bytes, signed.signatures[THIRD][KEY_ID]))
        self.assertNotIn(THIRD, PDU.signatures)
        self.assertEqual((signed.sender, OWN.sender), (BOB, ALICE))
