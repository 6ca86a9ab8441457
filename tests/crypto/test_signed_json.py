"""Signed JSON objects, with ``signedjson`` and the Matrix specification's vectors as second opinions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import check_object, object_signing_bytes, sign_object, signatures_of
from lmatrix.errors import BadRequest, BadSignature, UnsafeJson

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signing.json").read_text(encoding="utf-8"))

ONE = SigningKey.generate("one", b"1" * 32)
TWO = SigningKey.generate("two", b"2" * 32)
KNOWN = {ONE.key_id: ONE.public, TWO.key_id: TWO.public}

# Where canonicaljson (inside of signedjson) and RFC 8785 agree: no floats, no keys beyond the Basic Multilingual Plane.
TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
# signedjson leaves out `unsigned`, the I-D does not.
OBJECTS = st.dictionaries(TEXTS.filter(lambda key: key not in ("signatures", "unsigned")), VALUES, max_size=4)


def their_key(key: SigningKey) -> Any:
    return signedjson.key.read_signing_keys([key.to_line()])[0]


class SignTests(SynchronousTestCase):
    """Signing objects."""

    def test_specification_vectors(self) -> None:
        """The Matrix specification's objects get its signatures."""
        key = SigningKey.from_line(f"ed25519 1 {VECTORS['seed']}")
        for case in VECTORS["objects"]:
            signed = sign_object(case["unsigned"], VECTORS["server_name"], [key])
            expected = {VECTORS["server_name"]: {VECTORS["key_id"]: case["signature"]}}
            self.assertEqual(signed, {**case["unsigned"], "signatures": expected})
            check_object(signed, VECTORS["server_name"], {key.key_id: key.public})

    def test_keeps_other_signatures(self) -> None:
        """Signing adds to what is there, leaves the argument alone, and covers everything but ``signatures``."""
        first = sign_object({"a": 1, "unsigned": {"b": 2}}, "first.example", [ONE])
        before = copy.deepcopy(first)
        second = sign_object(first, "second.example", [TWO])
        third = sign_object(second, "first.example", [TWO])
        self.assertEqual(first, before)
        self.assertEqual(second["signatures"]["first.example"], first["signatures"]["first.example"])
        self.assertEqual(set(third["signatures"]["first.example"]), {ONE.key_id, TWO.key_id})
        self.assertEqual(object_signing_bytes(third), b'{"a":1,"unsigned":{"b":2}}')
        for server in ("first.example", "second.example"):
            check_object(third, server, KNOWN)

    def test_several_keys(self) -> None:
        """Every key given signs."""
        signed = sign_object({}, "example.org", [ONE, TWO])
        for key in (ONE, TWO):
            check_object(signed, "example.org", {key.key_id: key.public})

    def test_malformed_signatures(self) -> None:
        """An object whose ``signatures`` is something else is not signed."""
        for signatures in (None, [], "x", {"example.org": []}, {"example.org": "x"}):
            self.assertRaises(BadRequest, sign_object, {"signatures": signatures}, "example.org", [ONE])

    def test_unsafe(self) -> None:
        """What has no canonical form is neither signed nor checked."""
        self.assertRaises(UnsafeJson, sign_object, {"a": 2**53}, "example.org", [ONE])
        signed = sign_object({}, "example.org", [ONE])
        self.assertRaises(UnsafeJson, check_object, {**signed, "a": float("nan")}, "example.org", KNOWN)

    @settings(max_examples=100, deadline=None)
    @given(OBJECTS, TEXTS)
    def test_signedjson(self, obj: dict[str, Any], server_name: str) -> None:
        """What we sign, ``signedjson`` verifies, and the other way round; the signed objects are equal."""
        ours = sign_object(obj, server_name, [ONE])
        theirs = signedjson.sign.sign_json(copy.deepcopy(obj), server_name, their_key(ONE))
        self.assertEqual(ours, theirs)
        signedjson.sign.verify_signed_json(ours, server_name, signedjson.key.get_verify_key(their_key(ONE)))
        check_object(theirs, server_name, {ONE.key_id: ONE.public})


class CheckTests(SynchronousTestCase):
    """Checking objects: what counts and what fails."""

    def setUp(self) -> None:
        self.signed = sign_object({"a": 1}, "example.org", [ONE])

    def test_one_valid_signature_suffices(self) -> None:
        """Beside a valid one, signatures that are wrong, of unknown keys or not even text do not matter."""
        self.signed["signatures"]["example.org"] |= {TWO.key_id: ONE.sign(b"x"), "ed25519:unknown": "x", "rsa:1": 7}
        check_object(self.signed, "example.org", KNOWN)

    def test_tampered(self) -> None:
        """A changed, added or removed field breaks the signature, ``unsigned`` too."""
        for tampered in (
            {**self.signed, "a": 2},
            {**self.signed, "unsigned": {}},
            {"signatures": self.signed["signatures"]},
        ):
            self.assertRaises(BadSignature, check_object, tampered, "example.org", KNOWN)

    def test_wrong_key(self) -> None:
        """A signature counts under the key that it names: neither an unknown one nor another one of the server's."""
        self.assertRaises(BadSignature, check_object, self.signed, "example.org", {})
        self.assertRaises(BadSignature, check_object, self.signed, "example.org", {TWO.key_id: TWO.public})
        self.assertRaises(BadSignature, check_object, self.signed, "example.org", {ONE.key_id: TWO.public})

    def test_other_server(self) -> None:
        """A signature by another server is none by this one; names are compared with their case."""
        for server in ("other.example", "EXAMPLE.ORG", ""):
            error = self.assertRaises(BadSignature, check_object, self.signed, server, KNOWN)
            self.assertEqual(error.server, server)

    def test_malformed(self) -> None:
        """Missing signatures, and signatures of any other shape, fail the check and raise nothing else."""
        shapes: list[Any] = [None, [], "x", 1, {}, {"example.org": None}, {"example.org": []}, {"example.org": {}}]
        shapes += [{"example.org": {ONE.key_id: bad}} for bad in (None, 1, [], {}, "", "!", "AAAA", "é")]
        for signatures in shapes:
            with self.subTest(repr(signatures)):
                self.assertRaises(BadSignature, check_object, {"a": 1, "signatures": signatures}, "example.org", KNOWN)
        self.assertRaises(BadSignature, check_object, {"a": 1}, "example.org", KNOWN)

    def test_signatures_of(self) -> None:
        """The signatures by one server are listed by key ID, without those that are not even text."""
        self.signed["signatures"]["example.org"]["ed25519:x"] = 1
        self.assertEqual(set(signatures_of(self.signed, "example.org")), {ONE.key_id})
        self.assertRaises(BadSignature, signatures_of, self.signed, "other.example")
