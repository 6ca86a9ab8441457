"""Golden vectors: LPDU and PDU, hashes, signatures, event IDs and redactions, byte for byte.

The files were written once by ``tests/vectors/make_event_vectors.py``, a second implementation on other libraries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.crypto.digest import decode_base64
from lmatrix.crypto.keys import SigningKey, VerifyKey
from lmatrix.events.building import add_signature, build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Lpdu, Pdu, is_lpdu
from lmatrix.events.hashing import content_hash, event_id_of, lpdu_hash
from lmatrix.events.redaction import redact, redact_fields
from lmatrix.events.room_versions import room_version
from lmatrix.events.signatures import KnownKey
from lmatrix.events.verification import verify

VECTORS = Path(__file__).parent.parent / "vectors" / "events"
HUB, PARTICIPANT, TARGET = "hub.example", "participant.example", "target.example:8448"


class _Vectors:
    def __init__(self, name: str) -> None:
        data = json.loads((VECTORS / name).read_text(encoding="ascii"))
        self.version = room_version(data["room_version"])
        self.cases: list[dict[str, Any]] = data["cases"]
        self.keys = {
            server: [SigningKey.generate("v1", decode_base64(key["seed"]))] for server, key in data["keys"].items()
        }
        self.known = {
            server: {"ed25519:v1": KnownKey("ed25519:v1", VerifyKey.from_base64("ed25519:v1", key["ed25519:v1"]))}
            for server, key in data["keys"].items()
        }


def _for_each(check: Callable[[SynchronousTestCase, _Vectors, dict[str, Any]], None]) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        for name in ("i1.json", "v02.json"):
            vectors = _Vectors(name)
            for case in vectors.cases:
                method = f"test_{name.partition('.')[0]}_{case['name'].replace(' ', '_').replace('-', '_')}"
                setattr(cls, method, _method(check, vectors, case))
        return cls

    return decorate


def _method(check, vectors, case):
    def run(self: SynchronousTestCase) -> None:
        check(self, vectors, case)

    run.__doc__ = f"{case['name']}, {check.__doc__}"
    return run


def _parses(test: SynchronousTestCase, vectors: _Vectors, case: dict[str, Any]) -> None:
    """as it is received."""
    pdu = Pdu.parse(case["pdu"], vectors.version)
    test.assertEqual(pdu.canonical, canonical_json.encode(case["pdu"]))
    test.assertEqual(pdu.event_id, case["event_id"])
    verified = verify(pdu, vectors.known)
    test.assertIs(verified.event, pdu)
    test.assertFalse(verified.redacted)
    test.assertFalse(is_lpdu(case["pdu"]))
    if "lpdu" in case:
        lpdu = Lpdu.parse(case["lpdu"], vectors.version)
        test.assertEqual(lpdu.event_id, case["lpdu_event_id"])
        test.assertIs(verify(lpdu, vectors.known).event, lpdu)
        test.assertTrue(is_lpdu(case["lpdu"]))


def _redacts(test: SynchronousTestCase, vectors: _Vectors, case: dict[str, Any]) -> None:
    """as it is redacted."""
    redacted = redact(Pdu.parse(case["pdu"], vectors.version))
    test.assertEqual(redacted.canonical, canonical_json.encode(case["redacted"]))
    test.assertEqual(redacted.fields, case["redacted"])
    test.assertEqual(redacted.event_id, case["event_id"])
    test.assertEqual(redact_fields(case["pdu"], vectors.version.redaction), case["redacted"])
    if "lpdu" in case:
        test.assertEqual(redact(Lpdu.parse(case["lpdu"], vectors.version)).fields, case["lpdu_redacted"])


def _hashes(test: SynchronousTestCase, vectors: _Vectors, case: dict[str, Any]) -> None:
    """by the functions on plain fields."""
    hashes = case["pdu"]["hashes"]
    test.assertEqual(content_hash(case["pdu"]), hashes["sha256"])
    test.assertEqual(event_id_of(case["pdu"], vectors.version.redaction), case["event_id"])
    if "lpdu" in hashes:
        test.assertEqual(lpdu_hash(case["pdu"]), hashes["lpdu"]["sha256"])
    if "lpdu" in case:
        test.assertEqual(lpdu_hash(case["lpdu"]), hashes["lpdu"]["sha256"])
        test.assertEqual(event_id_of(case["lpdu"], vectors.version.redaction), case["lpdu_event_id"])


def _builds(test: SynchronousTestCase, vectors: _Vectors, case: dict[str, Any]) -> None:
    """as it is built."""
    arguments = {
        key: case["pdu"][key]
        for key in ("room_id", "type", "sender", "content", "origin_server_ts", "state_key")
        if key in case["pdu"]
    }
    place = {key: case["pdu"][key] for key in ("auth_events", "prev_events")}
    if case["by"] == "hub":
        built = build_hub_event(vectors.version, **arguments, **place, hub_server=HUB, keys=vectors.keys[HUB])
        test.assertEqual(built.fields, case["pdu"])
        test.assertEqual(built.event_id, case["event_id"])
    if case["by"] == "participant":
        lpdu = Lpdu.parse(case["lpdu"], vectors.version)
        if case["name"] != "unknown fields":
            lpdu = build_lpdu(
                vectors.version,
                **arguments,
                hub_server=HUB,
                server_name=PARTICIPANT,
                keys=vectors.keys[PARTICIPANT],
            )
            test.assertEqual(lpdu.fields, case["lpdu"])
        pdu = complete_lpdu(lpdu, **place, server_name=HUB, keys=vectors.keys[HUB])
        test.assertEqual(pdu.canonical, canonical_json.encode(case["pdu"]))
        test.assertEqual(pdu.fields, case["pdu"])
        test.assertEqual(pdu.event_id, case["event_id"])
        if "pdu_with_target" in case:
            signed = add_signature(pdu, TARGET, vectors.keys[TARGET])
            test.assertEqual(signed.canonical, canonical_json.encode(case["pdu_with_target"]))
            test.assertEqual(signed.event_id, case["event_id"])


@_for_each(_parses)
class ParseVectorTests(SynchronousTestCase):
    """Received events have the expected IDs, and their hashes and signatures hold."""


@_for_each(_redacts)
class RedactionVectorTests(SynchronousTestCase):
    """Redacted events are as expected, and keep their IDs."""


@_for_each(_hashes)
class HashVectorTests(SynchronousTestCase):
    """Hashes are as expected."""


@_for_each(_builds)
class BuildVectorTests(SynchronousTestCase):
    """Built events are as expected, to the last byte of the signature."""
