"""A server's own keys, and how it learns those of others (I-D "Retrieving Server Keys", "Signing")."""

from __future__ import annotations

import re
import time

from signedjson.key import generate_signing_key
from unpaddedbase64 import decode_base64

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import expect, expect_answer, expect_equal
from tests.end_to_end.wire_events import Identity, JsonObject, check_signature, signed_object, verify_keys_of

HOUR_MS = 60 * 60 * 1000
OWN = "/_matrix/key/v2/server"
LONG_KNOWN = "long_known"
"""The label of a server that the target comes to know early in the run."""


async def _published(s: Stage) -> JsonObject:
    published: JsonObject = expect_answer(await s.plain("GET", OWN), 200)
    return published


@case("api-self-key/shape", "api-self-key/server-name", "api-self-key/one-active-key", "api-self-key/m-linearized")
async def what_is_published(s: Stage) -> None:
    """The answer names the server, says until when it is valid, and has one key or more."""
    published = await _published(s)
    expect_equal(s.target, published.get("server_name"), "server_name")
    expect(type(published.get("valid_until_ts")) is int, "valid_until_ts is no integer")
    expect(isinstance(published.get("verify_keys"), dict), "verify_keys is no object")
    expect(published["verify_keys"], "there is no active key")
    expect(all(isinstance(key.get("key"), str) for key in published["verify_keys"].values()), "a key without key")
    for key in published.get("old_verify_keys", {}).values():
        expect(type(key.get("expired_ts")) is int and isinstance(key.get("key"), str), f"a bad old key: {key}")
    expect(published.get("m.linearized") is True, "m.linearized is not true")


@case("signing/algorithm", "signing/ed25519-key", "signing/key-version")
async def kinds_of_keys(s: Stage) -> None:
    """All keys, the old ones too, are 32 bytes of Ed25519, under IDs that the grammar allows."""
    published = await _published(s)
    for key_id, key in {**published["verify_keys"], **published.get("old_verify_keys", {})}.items():
        expect(re.fullmatch(r"ed25519:[A-Za-z0-9_]+", key_id), f"{key_id} is not a key ID")
        expect(not key["key"].endswith("="), f"{key_id} is padded")
        expect_equal(32, len(decode_base64(key["key"])), f"bytes of {key_id}")


@case("api-self-key/signed", "signing-objects/signed")
async def published_keys_are_signed(s: Stage) -> None:
    """The answer bears a valid signature of each active key."""
    published = await _published(s)
    for key_id, key in verify_keys_of(published, with_old=False).items():
        check_signature(published, s.target, {s.target: {key_id: key}})


@case("keys-validity/12-hours", "api-self-key/at-least-an-hour")
async def how_long_keys_are_valid(s: Stage) -> None:
    """They are valid for about half a day from now."""
    left = (await _published(s))["valid_until_ts"] - time.time() * 1000
    expect(left >= HOUR_MS, f"they expire in {left / HOUR_MS:.1f} hours")
    expect(6 * HOUR_MS <= left <= 25 * HOUR_MS, f"they expire in {left / HOUR_MS:.1f} hours, and not in about 12")


@case("get-server-keys/asks-the-server-first", "resolve-domain/resolved-first")
async def asks_the_server(s: Stage) -> None:
    """A request of a server that is new makes the target find that server, and ask it for its keys."""
    peer = s.suite.peer(LONG_KNOWN)
    expect_answer(await s.get(s.endpoint("event", NOBODYS), peer=peer), 404, "M_NOT_FOUND")
    expect(peer.keys_asked > 0, "the server was not asked for its keys")


@case("api-self-key/asks-rarely")
async def asks_rarely(s: Stage) -> None:
    """Twenty requests, some with keys that do not exist, do not make the target ask twenty times."""
    peer = s.fresh("often")
    asked = s.endpoint("event", NOBODYS)
    for number in range(10):
        await s.get(asked, peer=peer)
        bent = Identity(peer.server_name, generate_signing_key(f"none{number}"))
        header = peer.client.authorization(s.target, "GET", asked, identity=bent)
        await s.get(asked, peer=peer, authorization=[header])
    expect(peer.keys_asked <= 5, f"20 requests made the target ask {peer.keys_asked} times for keys")


@case("unpadded-base64/padding-is-accepted")
async def padded_key(s: Stage) -> None:
    """A server that publishes its key with padding is understood."""
    peer = s.fresh("padded")

    def padded(published: JsonObject) -> JsonObject:
        keys = {key_id: {"key": key["key"] + "="} for key_id, key in published["verify_keys"].items()}
        bare = {name: value for name, value in published.items() if name != "signatures"}
        return signed_object(peer.identity, {**bare, "verify_keys": keys})

    peer.publish = padded
    expect_answer(await s.get(s.endpoint("event", NOBODYS), peer=peer), 404, "M_NOT_FOUND")


@case("api-self-key/server-name", "api-self-key/signed", "checking-signatures/bad-structure")
async def keys_that_are_not_believed(s: Stage) -> None:
    """Keys under another server's name, unsigned, badly signed or misshapen do not let a request in."""
    asked = s.endpoint("event", NOBODYS)
    stranger = generate_signing_key("stranger")

    def signed_by_another(published: JsonObject) -> JsonObject:
        bare = {name: value for name, value in published.items() if name != "signatures"}
        return signed_object(Identity(published["server_name"], stranger), bare)

    for what, bend in {
        "another name": lambda keys: {**keys, "server_name": "another.example"},
        "no signature": lambda keys: {**keys, "signatures": {}},
        "signatures that are a list": lambda keys: {**keys, "signatures": []},
        "a broken signature": lambda keys: {**keys, "valid_until_ts": keys["valid_until_ts"] + 1},
        "signed by a key that is not listed": signed_by_another,
        "no keys": lambda keys: {**keys, "verify_keys": {}},
        "keys that are a list": lambda keys: {**keys, "verify_keys": []},
        "nothing": lambda keys: {},
    }.items():
        peer = s.fresh("bent")
        peer.publish = bend
        answer = await s.get(asked, peer=peer)
        expect(answer.status == 401, f"{what}: {answer.status} {answer.errcode} instead of 401")
