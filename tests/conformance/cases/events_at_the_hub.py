"""What the target, as a hub, makes of the events that it is sent (I-D "Events", "Receiving Events/PDUs")."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import rfc8785
from signedjson.key import generate_signing_key
from unpaddedbase64 import encode_base64

from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.tiny_hub import auth_keys
from tests.conformance.verdicts import NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.wire_events import (
    Identity,
    JsonObject,
    canonical,
    check_chain,
    check_pdu,
    check_signature,
    event_id,
    lpdu_form,
    redacted,
    rehashed,
    signed_event,
)

LONG = "x" * 256
WRONG_TYPES: dict[str, tuple[object, ...]] = {
    "type": (None, 1, [], {}),
    "state_key": (None, 1, [], {}),
    "sender": (None, 1, []),
    "content": (None, 1, [], "text"),
    "origin_server_ts": (None, "1", 1.5, [], True),
    "hashes": (None, 1, [], "text", {}, {"lpdu": {}}, {"lpdu": 1}, {"lpdu": {"sha256": 1}}),
    "signatures": (None, 1, [], "text", {"a": 1}, {"a": {"b": 1}}),
}


async def _keys(s: Stage, events: list[JsonObject]) -> dict[str, Any]:
    servers = {event["sender"].partition(":")[2] for event in events} | {event.get("hub_server") for event in events}
    return await s.peer.client.keys_of(name for name in servers if name)


@case(
    "receiving-events/hub-completes",
    "lpdu/echo",
    "pdu/hub-server-is-own-name",
    "pdu/lpdu-hash-with-hub-server",
    "content-hashes/lpdu-hash",
    "content-hashes/pdu-hash",
    "signing-events/redacted-first",
)
async def completes_lpdus(s: Stage) -> None:
    """An LPDU comes back as a PDU: untouched, with auth_events, one prev_events, hashes, and the hub's signature."""
    room = await s.room()
    member = await room.join()
    for lpdu in (
        room.message(member),
        room.lpdu(member, "org.example.type", {"nested": {"list": [1, "two", None, True]}}),
        room.member(member, "join", displayname="Member"),
    ):
        pdu = await room.accepted(lpdu)
        check_pdu(pdu, await _keys(s, [pdu]), room.version)
        expect_equal(s.target, pdu.get("hub_server"), "hub_server")
        expect_equal(1, len(pdu["prev_events"]), "number of prev_events")
        for name in set(lpdu) - {"hashes", "signatures"}:
            expect_equal(lpdu[name], pdu.get(name), f"{name} of the PDU")
        expect_equal(lpdu["hashes"]["lpdu"], pdu["hashes"]["lpdu"], "LPDU hash")
        mine = s.peer.server_name
        expect_equal(lpdu["signatures"][mine], pdu["signatures"].get(mine), "the participant's signature")


@case("receiving-events/hub-sends-to-all", "send-events/targets")
async def sends_to_all(s: Stage) -> None:
    """What one participant sends, all are sent, that one included."""
    room = await s.room()
    member, other = await room.join(), await room.join(peer=s.second)
    pdu = await room.accepted(room.message(member))
    await s.second.echo(pdu)
    back = await room.accepted(room.message(other))
    await s.peer.echo(back)


@case("pdu/required-fields", "receiving-events/carries-out-all-checks")
async def events_without_the_shape(s: Stage) -> None:
    """LPDUs that lack a field, or have one of another type, are not appended."""
    room = await s.room()
    member = await room.join()
    await room.ignored(member, *_misshapen(room, member))


def _misshapen(room: Room, member: str) -> Iterator[JsonObject]:
    good = room.message(member)
    for name in ("type", "sender", "content", "origin_server_ts", "hub_server", "hashes", "signatures"):
        yield {key: value for key, value in room.message(member).items() if key != name}
    for name, values in WRONG_TYPES.items():
        for value in values:
            yield {**good, name: value}


@case("pdu/type-at-most-255", "pdu/state-key-at-most-255")
async def long_fields(s: Stage) -> None:
    """A type or a state key of 256 characters is refused; 255 are not too many."""
    room, ids = await s.leveled({}, mod=50)
    mod, identity = ids["mod"], s.peer.identity
    for state_key in (None, "key"):
        long = {**room.lpdu(mod, "org.example", {}, state_key), "type": LONG}
        await room.ignored(mod, rehashed(identity, long, room.version))
    await room.ignored(mod, room.lpdu(mod, "org.example", {}, LONG))
    await room.accepted(room.lpdu(mod, "t" * 255, {}, "k" * 255))


@case("pdu/hub-server-is-valid")
async def bad_hub_servers(s: Stage) -> None:
    """LPDUs that name another hub, or none that could be one, are not appended."""
    room = await s.room()
    member = await room.join()
    lpdus = [
        rehashed(s.peer.identity, {**room.message(member), "hub_server": name}, room.version)
        for name in ("", "two words", "a/b", "a.example:123456", 1, None, "another.example", s.peer.server_name)
    ]
    await room.ignored(member, *lpdus)


@case("pdu/at-most-65536-bytes")
async def large_events(s: Stage) -> None:
    """An event that is too large, as it comes or as it would be once it is complete, is refused."""
    room = await s.room()
    member = await room.join()
    await room.ignored(member, room.message(member, "x" * 66_000))
    # As an LPDU it fits; with the hub's fields it does not.
    spare = 65_530 - len(canonical(room.message(member, "")))
    tight = room.message(member, "x" * spare)
    expect(len(canonical(tight)) <= 65_536, "the suite made a larger event than it wanted")
    await room.ignored(member, tight)
    large = await room.accepted(room.message(member, "x" * 60_000))
    expect(len(canonical(large)) <= 65_536, "the complete event is too large")


@case("pdu/distrusts-content")
async def strange_content(s: Stage) -> None:
    """Content that is nothing like what its type has is taken or refused, but does no harm."""
    room, ids = await s.leveled({}, mod=100)
    mod = ids["mod"]
    for kind, content, state_key in (
        ("m.room.message", {"body": [], "msgtype": {}}, None),
        ("m.room.name", {"name": 5}, ""),
        ("m.room.topic", {"topic": None}, ""),
        ("m.room.canonical_alias", {"alias": [], "alt_aliases": {}}, ""),
        ("m.room.history_visibility", {"history_visibility": ["shared"]}, ""),
        ("m.room.redaction", {"redacts": 5}, None),
        ("m.room.encryption", {"algorithm": {}}, ""),
        ("m.room.avatar", {}, ""),
        ("m.room.guest_access", {"guest_access": 7}, ""),
    ):
        await room.send(room.lpdu(mod, kind, content, state_key))
    for content in ({}, {"membership": 5}, {"membership": None}, {"membership": ["join"]}):
        await room.ignored(mod, room.lpdu(mod, "m.room.member", content, mod))
    user = await s.own_room(room)
    await user.timeline(room.id)
    expect_answer(await user.request("GET", "/sync"), 200)
    await room.accepted(room.message(mod))


# -- Signatures and hashes --------------------------------------------------------------------------------------------


@case("receiving-events/signed-by-sender", "auth-rules/1", "checking-signatures/missing")
async def unsigned_events(s: Stage) -> None:
    """LPDUs without their sender's server's signature are not appended, whoever else signed."""
    room = await s.room()
    member = await room.join()
    identity, other = s.peer.identity, s.second.identity
    bare = {key: value for key, value in room.message(member).items() if key != "signatures"}
    theirs = signed_event(other, bare, room.version)
    by_name = {identity.server_name: theirs["signatures"][other.server_name]}
    await room.ignored(
        member,
        bare,
        {**bare, "signatures": {}},
        {**bare, "signatures": {identity.server_name: {}}},
        theirs,
        {**bare, "signatures": by_name},
        rehashed(other, room.message(member), room.version),
    )


@case(
    "checking-signatures/unknown-key",
    "checking-signatures/wrong-signature",
    "checking-signatures/bad-base64",
    "checking-signatures/bad-structure",
    "receiving-events/signed-by-sender",
)
async def badly_signed_events(s: Stage) -> None:
    """LPDUs with forged, foreign, unlisted, misshapen and undecodable signatures are not appended."""
    room = await s.room()
    member, identity = await room.join(), s.peer.identity
    good = room.message(member)
    signature = good["signatures"][identity.server_name][identity.key_id]
    bare = {key: value for key, value in good.items() if key != "signatures"}
    forged = Identity(identity.server_name, generate_signing_key(identity.key.version))
    unlisted = Identity(identity.server_name, generate_signing_key("unlisted"))

    def with_signature(value: object, key_id: str = identity.key_id) -> JsonObject:
        return {**bare, "signatures": {identity.server_name: {key_id: value}}}

    await room.ignored(
        member,
        signed_event(forged, bare, room.version),
        signed_event(unlisted, bare, room.version),
        with_signature(signature, "ed25519:another"),
        with_signature(signature, "rsa:1"),
        with_signature("*"),
        with_signature(""),
        with_signature(signature[:-4]),
        with_signature(5),
        {**good, "signatures": {identity.server_name: [signature]}},
        {**good, "origin_server_ts": good["origin_server_ts"] + 1},
        {**good, "sender": identity.user("somebodyelse")},
        {**room.message(member), "signatures": good["signatures"]},
    )


@case("receiving-events/other-signatures-do-not-count")
async def other_signatures(s: Stage) -> None:
    """A bad signature of a server that need not sign, or under another key, changes nothing."""
    room = await s.room()
    member, name = await room.join(), s.peer.server_name
    lpdu = room.message(member)
    theirs = {"another.example": {"ed25519:1": "A" * 86}, s.second.server_name: {"ed25519:none": "A" * 86}}
    lpdu["signatures"] = {**lpdu["signatures"], **theirs}
    await room.accepted(lpdu)
    lpdu = room.message(member)
    lpdu["signatures"][name] = {**lpdu["signatures"][name], "ed25519:none": "A" * 86}
    await room.accepted(lpdu)


@case("unpadded-base64/padding-is-accepted")
async def padded_event_signature(s: Stage) -> None:
    """An LPDU whose signature is padded is as good."""
    room = await s.room()
    member, identity = await room.join(), s.peer.identity
    lpdu = room.message(member)
    signature = lpdu["signatures"][identity.server_name][identity.key_id]
    lpdu["signatures"] = {identity.server_name: {identity.key_id: signature + "=" * (-len(signature) % 4)}}
    failed = (await room.send(lpdu)).get("failed_pdus", {})
    expect(not failed, f"it was refused: {failed}")


@case("api-self-key/old-keys-for-old-events")
async def old_keys(s: Stage) -> None:
    """What a key in old_verify_keys signed before its expired_ts is taken, and what it signed later is not."""
    peer = s.fresh("rotated")
    old = peer.change_key("changed", keep_old=True)
    room = await s.room()
    member = await room.join(peer=peer)
    fields = {"origin_server_ts": 1_700_000_000_000}
    early = rehashed(old, {**room.message(member), **fields}, room.version)
    await room.accepted(early)
    late = {**room.message(member), "origin_server_ts": peer.now_ms() + 60_000}
    await room.ignored(member, rehashed(old, late, room.version))


@case("receiving-events/lpdu-hash", "pdu/lpdu-hash-with-hub-server")
async def events_without_lpdu_hash(s: Stage) -> None:
    """LPDUs that are signed, but have no LPDU hash, are not appended."""
    room = await s.room()
    member, identity = await room.join(), s.peer.identity
    bare = {key: value for key, value in room.message(member).items() if key not in ("signatures", "hashes")}
    await room.ignored(
        member,
        signed_event(identity, {**bare, "hashes": {}}, room.version),
        signed_event(identity, {**bare, "hashes": {"lpdu": {}}}, room.version),
    )


@case("receiving-events/wrong-hash-is-redacted")
async def tampered_events(s: Stage) -> None:
    """Content that does not match its hash is gone: the event goes on as its redacted copy."""
    room = await s.room()
    member = await room.join()
    lpdu = {**room.message(member, "as signed"), "content": {"msgtype": "m.text", "body": "tampered with"}}
    answer = await room.send(lpdu)
    expect(not answer.get("failed_pdus"), f"it was rejected instead: {answer}")
    pdu = await s.peer.event("event with the LPDU's time", origin_server_ts=lpdu["origin_server_ts"], room_id=room.id)
    expect_equal({}, pdu["content"], "content of the event")


@case("lpdu/leaves-out", "receiving-events/hub-completes")
async def complete_events_from_participants(s: Stage) -> None:
    """An event that a participant completes by itself is not appended: the order is the hub's."""
    room = await s.room()
    member, identity = await room.join(), s.peer.identity
    pdu = await room.accepted(room.message(member))
    own = room.message(member)
    own["auth_events"], own["prev_events"] = pdu["auth_events"], [event_id(pdu, room.version)]
    own["hashes"]["sha256"] = "A" * 43
    await room.ignored(member, signed_event(identity, own, room.version))


# -- Order, state and what covers it ----------------------------------------------------------------------------------


async def _eventful(s: Stage) -> tuple[Room, list[JsonObject]]:
    """A room in which much has happened, and its whole history."""
    room = await s.room(name="A room", topic="Topics")
    user = await s.own_room(room)
    member, other = await room.join(), await room.join("other")
    await user.say(room.id, "hello")
    message = await room.accepted(room.message(member))
    await room.accepted(room.member(member, "join", displayname="Member", reason="a reason"))
    levels = (await user.state(room.id))["m.room.power_levels", ""]
    users = {**levels["users"], member: 60}
    await user.set_state(room.id, "m.room.power_levels", {**levels, "users": users, "org.example.more": {"a": 1}})
    await user.set_state(room.id, "m.room.history_visibility", {"history_visibility": "shared", "more": True})
    await user.set_state(room.id, "m.room.join_rules", {"join_rule": "public", "more": [1]})
    await room.accepted(room.lpdu(member, "m.room.topic", {"topic": "Another"}, ""))
    await room.accepted(room.lpdu(member, "org.example.state", {}, "key"))
    await room.accepted(room.member(member, "invite", s.peer.identity.user("invited")))
    await room.accepted(room.member(member, "leave", other, reason="kicked"))
    await room.accepted(room.member(member, "ban", other))
    await user.redact(room.id, event_id(message, room.version))
    last = await room.accepted(room.message(member, "the end"))
    return room, await room.history(event_id(last, room.version))


@case(
    "auth-selection/auth-events",
    "pdu/one-prev-event",
    "redactions/top-level",
    "redactions/content",
    "reference-hashes/reference-hash",
    "content-hashes/pdu-hash",
    "signing-events/redacted-first",
    "pdu/no-lpdu-hash-without-hub-server",
    "auth-rules/5.2.1",
)
async def whole_history(s: Stage) -> None:
    """In a room in which much has happened, every event has the right hashes, signatures, predecessor, auth events."""
    room, events = await _eventful(s)
    check_chain(events, room.version)
    keys = await _keys(s, events)
    state: dict[tuple[str, str], str] = {}
    for event in events:
        # What was redacted afterwards is given without its content, and keeps the hash that this had.
        hidden = redacted(event, room.version)
        if event == hidden and event["type"] == "m.room.message":
            check_signature(event, s.target, keys)
        else:
            check_pdu(event, keys, room.version)
        what = f"auth_events of {event['type']} {event['content']}"
        wanted = {state[key] for key in auth_keys(event) if key in state}
        expect_equal(sorted(wanted), sorted(event["auth_events"]), what)
        if "state_key" in event:
            state[event["type"], event["state_key"]] = event_id(event, room.version)


@case(
    "ev-create/no-auth-or-prev-events",
    "ev-create/sender-of-the-rooms-domain",
    "ev-create/empty-state-key",
    "ev-create/room-version",
    "ev-join-rules/empty-state-key",
    "ev-join-rules/join-rule",
    "ev-power-levels/empty-state-key",
    "hub-selection/server-of-the-creator",
)
async def first_events(s: Stage) -> None:
    """The events with which the target begins a room are as they must be."""
    room = await s.room()
    member = await room.join()
    pdu = await room.accepted(room.message(member))
    events = await room.history(event_id(pdu, room.version))
    create = events[0]
    expect_equal("m.room.create", create["type"], "type of the first event")
    expect_equal(([], []), (create["auth_events"], create["prev_events"]), "auth_events and prev_events of it")
    expect_equal(room.id.partition(":")[2], create["sender"].partition(":")[2], "server of its sender")
    expect_equal(s.target, create["sender"].partition(":")[2], "server of its sender, and so the hub")
    expect_equal("", create["state_key"], "state_key of it")
    expect_equal(room.version, create["content"].get("room_version"), "its room_version")
    named = {event["type"]: event for event in events}
    for kind in ("m.room.join_rules", "m.room.power_levels"):
        expect_equal("", named[kind]["state_key"], f"state_key of {kind}")
    expect(isinstance(named["m.room.join_rules"]["content"].get("join_rule"), str), "there is no join_rule")


@case("ev-power-levels/has-all-levels")
async def levels_of_a_new_room(s: Stage) -> None:
    """The power levels of a new room say everything that they can say."""
    room = await s.room()
    user = await s.own_room(room)
    levels = (await user.state(room.id))["m.room.power_levels", ""]
    wanted = ["ban", "kick", "invite", "redact", "events", "events_default", "state_default", "users", "users_default"]
    missing = [name for name in wanted if name not in levels]
    expect(not missing, f"they lack {missing}")


@case("ev-join-rules/empty-state-key")
async def other_join_rules(s: Stage) -> None:
    """Join rules under another state key mean nothing."""
    room = await s.room(preset="private_chat")
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.join_rules", {"join_rule": "public"}, "other")
    expect_answer(await room.make("join", s.peer.identity.user("uninvited")), 403, "M_FORBIDDEN")


@case("ev-member/reason-is-kept")
async def reasons(s: Stage) -> None:
    """The reason in a membership event comes back with it."""
    room = await s.room()
    member = await room.join()
    pdu = await room.accepted(room.member(member, "leave", reason="enough"))
    expect_equal("enough", pdu["content"].get("reason"), "reason")


@case("definitions/rejected-is-not-appended")
async def rejected_events(s: Stage) -> None:
    """An event that is rejected is not in the room, and nobody is sent it."""
    room = await s.room()
    member, _ = await room.join(), await room.join(peer=s.second)
    before = len(s.second.pdus)
    await room.ignored(member, room.lpdu(member, "m.room.name", {"name": "mine"}, ""))
    await s.second.event("the message after it", room_id=room.id, content={"msgtype": "m.text", "body": "after"})
    types = {pdu["type"] for pdu in s.second.pdus[before:] if pdu["room_id"] == room.id}
    expect("m.room.name" not in types, "another participant was sent it")


@case("canonical-json/rfc8785")
async def canonical_json(s: Stage) -> None:
    """Numbers, escapes and the order of keys beyond the Basic Multilingual Plane are those of RFC 8785."""
    peer, room = s.fresh("canonical"), await s.room()
    member, identity = await room.join(peer=peer), peer.identity
    content = {
        "\U0001f600": "a key that UTF-16 sorts before the next one",
        "\ufb33": "and code points after it",
        "floats": [1.5, 0.1, 1e21, 1e-7, -1.25e-10, 123456789.125],
        "escapes": '\u2028 \u007f " \\ \n \t \u0001 é',
        "integers": [0, -1, 2**53 - 1, -(2**53) + 1],
    }
    lpdu = {key: value for key, value in room.message(member).items() if key not in ("hashes", "signatures")}
    lpdu["content"] = content
    lpdu["hashes"] = {"lpdu": {"sha256": _digest(lpdu)}}
    lpdu = signed_event(identity, lpdu, room.version)
    target = s.endpoint("send", s.transaction_id())
    body: Any = {"pdus": [lpdu]}
    request: Any = {
        "method": "PUT",
        "uri": target,
        "origin": identity.server_name,
        "destination": s.target,
        "content": body,
    }
    signature = encode_base64(identity.key.sign(rfc8785.dumps(request)).signature)
    header = peer.client.authorization(s.target, "PUT", target, bent={"sig": signature})
    answer = await s.request("PUT", target, body=rfc8785.dumps(body), authorization=[header], peer=peer)
    failed = expect_answer(answer, 200).get("failed_pdus")
    expect(not failed, f"it was refused: {failed}")
    pdu = await peer.echo(lpdu)
    expect_equal(content, pdu["content"], "content")
    covered = {key: value for key, value in pdu.items() if key not in ("signatures", "hashes")}
    covered["hashes"] = {"lpdu": pdu["hashes"]["lpdu"]}
    expect_equal(_digest(covered), pdu["hashes"]["sha256"], "content hash")


def _digest(value: Any) -> str:
    return encode_base64(sha256(rfc8785.dumps(value)).digest())


@case("signing-objects/signed", "redactions/top-level")
async def unknown_fields(s: Stage) -> None:
    """Fields that nobody knows stay in the event, are hashed, and are not signed."""
    room = await s.room()
    member = await room.join()
    lpdu = room.lpdu(member, "m.room.message", {"body": "x"}, None, **{"org.example.field": {"a": [1]}, "depth": 5})
    pdu = await room.accepted(lpdu)
    expect_equal({"a": [1]}, pdu.get("org.example.field"), "the unknown field")
    keys = await _keys(s, [pdu])
    check_pdu(pdu, keys, room.version)
    check_signature(redacted(lpdu_form(pdu), room.version), s.peer.server_name, keys)
    if pdu.get("unsigned"):
        raise NotTested("the hub adds unsigned fields")
