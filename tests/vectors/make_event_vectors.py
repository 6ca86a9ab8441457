"""Writes the golden vectors for events, from fixed seeds and without lmatrix.

Owns: a second, slow and literal implementation of redaction, hashes, signatures and event IDs, on ``canonicaljson`` and
``signedjson``, which ``tests/events/test_vectors.py`` holds lmatrix against. The files in ``tests/vectors/events`` are
kept as they were first written: a room version's algorithms never change, so running this again must not change them.

    python tests/vectors/make_event_vectors.py

Source: I-D "Event Redactions", "Hashes", "Signing", "Linearized PDU"; room version 11's redactions for v02.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import canonicaljson
from nacl.signing import SigningKey
from signedjson.key import decode_signing_key_base64
from signedjson.sign import sign_json
from unpaddedbase64 import encode_base64

HERE = Path(__file__).parent / "events"
V02 = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"
HUB, PARTICIPANT, TARGET = "hub.example", "participant.example", "target.example:8448"
SEEDS = {
    server: hashlib.sha256(f"lmatrix vector key of {server}".encode()).digest() for server in (HUB, PARTICIPANT, TARGET)
}
ROOM = "!vectors:hub.example"
TS = 1_681_340_188_825

TOP = [
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "origin_server_ts",
    "hashes",
    "signatures",
    "prev_events",
    "auth_events",
    "hub_server",
]
POWER = ["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default", "invite"]


def redact(version: str, event: dict[str, Any]) -> dict[str, Any]:
    event = {key: copy.deepcopy(value) for key, value in event.items() if key in TOP}
    content, kept = event["content"], {}
    names: list[str] = {
        "m.room.member": ["membership"],
        "m.room.join_rules": ["join_rule"],
        "m.room.power_levels": POWER,
        "m.room.history_visibility": ["history_visibility"],
        "m.room.redaction": ["redacts"],
    }.get(event["type"], [])
    if version == V02 and event["type"] == "m.room.member":
        names = ["membership", "join_authorised_via_users_server"]
        if "third_party_invite" in content:
            kept["third_party_invite"] = {"signed": content["third_party_invite"]["signed"]}
    if version == V02 and event["type"] == "m.room.join_rules":
        names = ["join_rule", "allow"]
    if event["type"] == "m.room.create" or (version == "I.1" and event["type"] == "m.room.hub"):
        names = list(content)
    event["content"] = kept | {name: content[name] for name in names if name in content}
    return event


def digest(value: dict[str, Any], urlsafe: bool = False) -> str:
    return encode_base64(hashlib.sha256(canonicaljson.encode_canonical_json(value)).digest(), urlsafe=urlsafe)


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: copy.deepcopy(inner) for key, inner in value.items() if key not in keys}


def lpdu_hash(event: dict[str, Any]) -> str:
    return digest(without(event, "signatures", "unsigned", "hashes", "auth_events", "prev_events"))


def content_hash(event: dict[str, Any]) -> str:
    covered = without(event, "signatures", "unsigned", "hashes")
    if "lpdu" in event.get("hashes", {}):
        covered["hashes"] = {"lpdu": event["hashes"]["lpdu"]}
    return digest(covered)


def event_id(version: str, event: dict[str, Any]) -> str:
    return "$" + digest(without(redact(version, event), "signatures"), urlsafe=True)


def sign(version: str, event: dict[str, Any], server: str) -> dict[str, Any]:
    key = decode_signing_key_base64("ed25519", "v1", encode_base64(SEEDS[server]))
    signed = sign_json(without(redact(version, event), "signatures"), server, key)["signatures"]
    signatures = copy.deepcopy(event.get("signatures", {}))
    for name, by_key in signed.items():
        signatures.setdefault(name, {}).update(by_key)
    return event | {"signatures": signatures}


PLACE = {
    "auth_events": ["$" + digest({"auth": number}, urlsafe=True) for number in range(3)],
    "prev_events": ["$" + digest({"prev": 0}, urlsafe=True)],
}


def by_participant(version: str, name: str, event_type: str, content: dict[str, Any], **more: Any) -> dict[str, Any]:
    event = {
        "room_id": ROOM,
        "type": event_type,
        "sender": "@bob:participant.example",
        "origin_server_ts": TS,
        "hub_server": HUB,
        "content": content,
        **more,
    }
    event["hashes"] = {"lpdu": {"sha256": lpdu_hash(event)}}
    lpdu = sign(version, event, PARTICIPANT)
    pdu = lpdu | PLACE
    pdu["hashes"] = {**lpdu["hashes"], "sha256": content_hash(pdu)}
    pdu = sign(version, pdu, HUB)
    return {
        "name": name,
        "by": "participant",
        "lpdu": lpdu,
        "lpdu_event_id": event_id(version, lpdu),
        "lpdu_redacted": redact(version, lpdu),
        **described(version, pdu),
    }


def by_hub(version: str, name: str, event_type: str, content: dict[str, Any], place: Any = None, **more: Any) -> Any:
    event = {
        "room_id": ROOM,
        "type": event_type,
        "sender": "@alice:hub.example",
        "origin_server_ts": TS,
        "content": content,
        **more,
    }
    if version == "I.1":
        event["hub_server"] = HUB
        event["hashes"] = {"lpdu": {"sha256": lpdu_hash(event)}}
    event |= PLACE if place is None else place
    event["hashes"] = {**event.get("hashes", {}), "sha256": content_hash(event)}
    return {"name": name, "by": "hub", **described(version, sign(version, event, HUB))}


def by_dag_server(version: str, name: str) -> dict[str, Any]:
    event = {
        "room_id": ROOM,
        "type": "m.room.message",
        "sender": "@dora:target.example:8448",
        "origin_server_ts": TS,
        "content": {"body": "from the graph"},
        "depth": 12,
        "origin": TARGET,
        "auth_events": PLACE["auth_events"],
        "prev_events": PLACE["prev_events"] + PLACE["auth_events"][:1],
    }
    event["hashes"] = {"sha256": content_hash(event)}
    return {"name": name, "by": "dag server", **described(version, sign(version, event, TARGET))}


def described(version: str, pdu: dict[str, Any]) -> dict[str, Any]:
    return {"pdu": pdu, "event_id": event_id(version, pdu), "redacted": redact(version, pdu)}


def vectors(version: str) -> dict[str, Any]:
    bob = "@bob:participant.example"
    invite = by_participant(
        version,
        "invite that its target signed",
        "m.room.member",
        {"membership": "invite", "reason": "come"},
        state_key="@dora:target.example:8448",
    )
    invite["pdu_with_target"] = sign(version, invite["pdu"], TARGET)
    cases = [
        by_participant(version, "message", "m.room.message", {"msgtype": "m.text", "body": "Hello, world"}),
        by_participant(
            version,
            "text to escape",
            "org.example.\u00e9\u2028\ufb33",
            {'a"b\\c': "\u0000\b\f\n\r\t\u001f\u007f/\U0001f600", "\u00e9": [1, -2, None, True, {}], "": ""},
        ),
        by_participant(version, "unknown fields", "m.room.message", {"body": "x"}, depth=3, zzz={"a": [1]}, Aaa="b"),
        by_participant(version, "join", "m.room.member", {"membership": "join", "displayname": "Bob"}, state_key=bob),
        by_participant(
            version,
            "member with everything",
            "m.room.member",
            {
                "membership": "join",
                "join_authorised_via_users_server": "@alice:hub.example",
                "reason": "x",
                "third_party_invite": {"display_name": "b", "signed": {"mxid": bob, "token": "t"}},
            },
            state_key=bob,
        ),
        by_participant(version, "redaction", "m.room.redaction", {"redacts": "$target", "reason": "x"}),
        by_participant(
            version,
            "hub transfer",
            "m.room.hub",
            {"previous_hub": HUB, "head": PLACE["prev_events"][0], "valid_until_ts": TS + 1},
            state_key="",
        ),
        invite,
        by_hub(
            version,
            "create",
            "m.room.create",
            {"room_version": version, "encryption": {"algorithm": "x"}},
            place={"auth_events": [], "prev_events": []},
            state_key="",
        ),
        by_hub(
            version,
            "power levels",
            "m.room.power_levels",
            {**dict.fromkeys(POWER, 50), "users": {bob: 1}, "events": {"x": 2}, "notifications": {"room": 3}},
            state_key="",
        ),
        by_hub(
            version, "join rules", "m.room.join_rules", {"join_rule": "invite", "allow": [{"type": "x"}]}, state_key=""
        ),
        by_hub(
            version,
            "history visibility",
            "m.room.history_visibility",
            {"history_visibility": "joined", "x": 1},
            state_key="",
        ),
        by_hub(version, "topic", "m.room.topic", {"topic": "t"}, state_key=""),
        by_dag_server(version, "event of a DAG-capable server"),
    ]
    keys = {
        server: {"seed": encode_base64(seed), "ed25519:v1": encode_base64(SigningKey(seed).verify_key.encode())}
        for server, seed in SEEDS.items()
    }
    return {"room_version": version, "keys": keys, "cases": cases}


def main() -> None:
    for version, name in (("I.1", "i1.json"), (V02, "v02.json")):
        text = json.dumps(vectors(version), indent=1, sort_keys=True, ensure_ascii=True)
        (HERE / name).write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
