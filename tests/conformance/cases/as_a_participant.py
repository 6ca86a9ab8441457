"""What the target, as a participant, makes of the events that a hub sends it (I-D "Receiving Events/PDUs")."""

from __future__ import annotations

from urllib.parse import quote

from signedjson.key import generate_signing_key

from tests.conformance.peer import Arrival, Reply
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.tiny_hub import TinyHub
from tests.conformance.verdicts import Failed, expect, expect_answer, expect_equal
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.wire_events import (
    Identity,
    JsonObject,
    content_hash,
    lpdu_hash,
    signed_event,
)

MESSAGE = "m.room.message"


async def _dropped(s: Stage, hub: TinyHub, user: ClientUser, *bad: tuple[str, JsonObject]) -> None:
    """That none of some events of the hub, which are no proper events, is shown, and that the next good one is."""
    for what, event in bad:
        answer = await hub.push(event)
        expect(answer.status == 200, f"{what}: the transaction is answered with {answer.status}")
        if await s.shown(user, hub.room_id, hub.id(event)):
            raise Failed(f"{what}: the event is shown to users")
    good = await hub.say(MESSAGE, {"body": "good"})
    shown = await s.shown(user, hub.room_id, hub.id(good))
    expect(shown, "a good event after the bad ones is not shown")


async def _rejected(s: Stage, hub: TinyHub, user: ClientUser, *bad: tuple[str, JsonObject]) -> None:
    """The same of events that are proper, and break the rules of the room; they have their place in the hub's order.

    Args:
        bad: what is wrong, and the fields of the event.
    """
    for what, fields in bad:
        event = hub.append(hub.draft(**fields), counts=False)
        answer = await hub.push(event)
        expect(answer.status == 200, f"{what}: the transaction is answered with {answer.status}")
        if await s.shown(user, hub.room_id, hub.id(event)):
            raise Failed(f"{what}: the event is shown to users")
        good = await hub.say(MESSAGE, {"body": "good"})
        shown = await s.shown(user, hub.room_id, hub.id(good))
        expect(shown, f"{what}: a good event after it is not shown")


def _message(**fields: object) -> JsonObject:
    return {"type": MESSAGE, "content": {"body": "bad"}, **fields}


def _state(kind: str, content: JsonObject, **fields: object) -> JsonObject:
    return {"type": kind, "content": content, "state_key": "", **fields}


@case("receiving-events/hub-sends-to-all", "state-events/latest-counts")
async def follows(s: Stage) -> None:
    """What the hub sends is shown, in order, and counts as the room's state."""
    hub, user = await s.participating()
    events = [await hub.say(MESSAGE, {"body": f"n{number}"}) for number in range(3)]
    await hub.say("m.room.topic", {"topic": "Topics"}, state_key="")
    shown = [event["event_id"] for event in await user.timeline(hub.room_id)]
    wanted = [hub.id(event) for event in events]
    expect_equal(wanted, [one for one in shown if one in wanted], "order of the events")
    expect_equal({"topic": "Topics"}, (await user.state(hub.room_id))["m.room.topic", ""], "topic")


@case("receiving-events/signed-by-hub", "auth-rules/2", "receiving-events/other-signatures-do-not-count")
async def events_that_the_hub_has_not_signed(s: Stage) -> None:
    """Events without the hub's signature, or with a forged one, are not shown, whoever else has signed."""
    hub, user = await s.participating()
    event = hub.draft(MESSAGE, {"body": "bad"})
    bare = {key: value for key, value in event.items() if key != "signatures"}
    forged = Identity(s.peer.server_name, generate_signing_key(s.peer.identity.key.version))
    await _dropped(
        s,
        hub,
        user,
        ("no signature", {**bare, "signatures": {}}),
        ("another server's", signed_event(s.second.identity, bare, hub.version)),
        ("a forged one", signed_event(forged, bare, hub.version)),
        ("changed after signing", {**event, "origin_server_ts": event["origin_server_ts"] + 1}),
    )


@case("receiving-events/signed-by-sender", "auth-rules/1")
async def events_that_the_sender_has_not_signed(s: Stage) -> None:
    """Events that the hub has made up for another server's user are not shown."""
    hub, user = await s.participating()
    member = s.second.identity.user("member")
    name, identity = s.peer.server_name, s.peer.identity
    client = s.second.client
    joined = client.member(hub.room_id, member, "join", hub_server=name, version=hub.version)
    await hub.push(hub.append(hub.complete(joined)))
    lpdu = client.message(hub.room_id, member, "mine", hub_server=name, version=hub.version)
    bare = {key: value for key, value in lpdu.items() if key != "signatures"}
    changed = {**lpdu, "content": {"body": "not mine"}, "origin_server_ts": lpdu["origin_server_ts"] + 1}
    changed["hashes"] = {"lpdu": {"sha256": lpdu_hash(changed)}}
    await _dropped(
        s,
        hub,
        user,
        ("without its signature", hub.complete({**bare, "signatures": {}})),
        ("signed by the hub instead", hub.complete(signed_event(identity, bare, hub.version))),
        ("changed by the hub", hub.complete(changed)),
    )
    good = hub.append(hub.complete(lpdu))
    await hub.push(good)
    expect(await s.shown(user, hub.room_id, hub.id(good)), "what the sender has signed is not shown")


@case("receiving-events/wrong-hash-is-redacted", "receiving-events/lpdu-hash")
async def events_with_wrong_hashes(s: Stage) -> None:
    """Content that does not match the content hash, or the LPDU hash, is not shown: the event is, redacted."""
    hub, user = await s.participating()
    event = hub.draft(MESSAGE, {"body": "as hashed"})
    await hub.push(hub.append({**event, "content": {"body": "tampered with"}}))
    shown = await s.shown(user, hub.room_id, hub.id(event))
    expect(shown and "body" not in shown["content"], f"the redacted copy is not what is shown: {shown}")
    # The hub makes a good PDU of an LPDU that does not match its own hash.
    member, name = s.second.identity.user("member"), s.peer.server_name
    client, version = s.second.client, hub.version
    joined = client.member(hub.room_id, member, "join", hub_server=name, version=version)
    await hub.push(hub.append(hub.complete(joined)))
    lpdu = {**client.message(hub.room_id, member, "bad", hub_server=name, version=version), "signatures": {}}
    lpdu["hashes"] = {"lpdu": {"sha256": "A" * 43}}
    event = hub.complete(signed_event(s.second.identity, lpdu, version))
    await hub.push(hub.append(event))
    shown = await s.shown(user, hub.room_id, hub.id(event))
    expect(shown and "body" not in shown["content"], f"the LPDU hash is wrong, and what is shown is {shown}")
    good = await hub.say(MESSAGE, {"body": "good"})
    expect(await s.shown(user, hub.room_id, hub.id(good)), "what follows them is not shown")


@case("pdu/lpdu-hash-with-hub-server", "pdu/no-lpdu-hash-without-hub-server", "receiving-events/lpdu-hash")
async def lpdu_hashes_where_they_must_not_be(s: Stage) -> None:
    """Events with hub_server and no LPDU hash, and the other way round, are not shown."""
    hub, user = await s.participating()
    good = hub.draft(MESSAGE, {"body": "bad"}, hub_server=s.peer.server_name)
    bare = {key: value for key, value in good.items() if key not in ("hashes", "signatures")}

    def sealed(event: JsonObject, hashes: JsonObject) -> JsonObject:
        event = {**event, "hashes": dict(hashes)}
        event["hashes"]["sha256"] = content_hash(event)
        return signed_event(s.peer.identity, event, hub.version)

    without_hub = {key: value for key, value in bare.items() if key != "hub_server"}
    await _dropped(
        s,
        hub,
        user,
        ("hub_server without LPDU hash", sealed(bare, {})),
        ("LPDU hash without hub_server", sealed(without_hub, {"lpdu": {"sha256": lpdu_hash(without_hub)}})),
    )


@case("receiving-events/carries-out-all-checks", "pdu/required-fields", "pdu/at-most-65536-bytes")
async def events_without_the_shape(s: Stage) -> None:
    """Events that lack a field, have one of another type, or are too large are not shown."""
    hub, user = await s.participating()
    good = hub.draft(MESSAGE, {"body": "bad"})
    required = ("auth_events", "prev_events", "hashes", "signatures", "origin_server_ts")
    for name in (*required, "content", "type", "sender", "room_id"):
        await hub.push({key: value for key, value in good.items() if key != name})
    await hub.push({**good, "content": ["bad"]})
    expect(not await s.shown(user, hub.room_id, hub.id(good)), "an event that lacks a field is shown")
    await _dropped(
        s,
        hub,
        user,
        ("a time that is a string", hub.draft(MESSAGE, {"body": "bad"}, origin_server_ts="1")),
        ("a type that is too long", hub.draft("t" * 256, {"body": "bad"})),
        ("a state key that is too long", hub.draft("org.example", {"body": "bad"}, state_key="k" * 256)),
        ("a sender that is none", hub.draft(MESSAGE, {"body": "bad"}, sender=f"alice:{s.peer.server_name}")),
        ("a room that is none", hub.draft(MESSAGE, {"body": "bad"}, room_id="nothing")),
        ("more than 65536 bytes", hub.draft(MESSAGE, {"body": "x" * 66_000})),
    )


@case("auth-rules/4.1", "auth-rules/4.2", "auth-rules/4.3", "auth-selection/auth-events")
async def wrong_auth_events(s: Stage) -> None:
    """Events whose auth_events are doubled, too many, foreign, or lack the creation are not shown."""
    hub, user = await s.participating(more=[("m.room.topic", "", {"topic": "Topics"})])
    right = hub.auth_event_ids({"type": MESSAGE, "sender": hub.creator})
    topic = hub.id(hub.state["m.room.topic", ""])
    message = hub.id(hub.make(MESSAGE, {"body": "hello"}))
    await hub.push(hub.events[-1])
    old_levels = hub.id(hub.state["m.room.power_levels", ""])
    levels = hub.state["m.room.power_levels", ""]["content"]
    await hub.say("m.room.power_levels", {**levels, "events_default": 0}, state_key="")
    now = hub.auth_event_ids({"type": MESSAGE, "sender": hub.creator})
    creation = hub.id(hub.state["m.room.create", ""])
    await _rejected(
        s,
        hub,
        user,
        ("without the creation", _message(auth_events=now[1:])),
        ("none at all", _message(auth_events=[])),
        ("with the topic", _message(auth_events=[*now, topic])),
        ("with a message", _message(auth_events=[*now, message])),
        ("with two power levels", _message(auth_events=[*now, old_levels])),
        ("with one twice", _message(auth_events=[*now, creation])),
    )
    expect(right != now, "the suite did not change the power levels")


@case("auth-rules/all-rules", "auth-rules/6", "auth-rules/7", "auth-rules/5.7")
async def events_that_the_hub_should_have_rejected(s: Stage) -> None:
    """What the hub lets through against the auth rules is not shown."""
    hub, user = await s.participating()
    plain = s.peer.identity.user("plain")
    joined = hub.draft("m.room.member", {"membership": "join"}, state_key=plain, sender=plain)
    await hub.push(hub.append(joined))
    stranger = s.peer.identity.user("stranger")
    member = "m.room.member"
    await _rejected(
        s,
        hub,
        user,
        ("a message of a stranger", _message(sender=stranger)),
        ("state without the power", _state("m.room.name", {"name": "bad"}, sender=plain)),
        ("a kick without the power", _state(member, {"membership": "leave"}, state_key=hub.creator, sender=plain)),
        ("an unknown membership", _state(member, {"membership": "guest"}, state_key=plain, sender=plain)),
        ("another's state", _state("org.example", {}, state_key=plain)),
        ("a second creation", _state("m.room.create", {"room_version": hub.version})),
        ("bad power levels", _state("m.room.power_levels", {"users_default": "100"})),
        ("a knock without the rule", _state(member, {"membership": "knock"}, state_key=stranger, sender=stranger)),
    )


@case("ev-power-levels/creator-has-100", "auth-rules/9.4")
async def rooms_without_power_levels(s: Stage) -> None:
    """In a room without power levels its creator may do all, and set the first ones; nobody else may."""
    hub, user = await s.participating(without_levels=True)
    name = await hub.say("m.room.name", {"name": "A name"}, state_key="")
    expect(await s.shown(user, hub.room_id, hub.id(name)), "the creator could not name the room")
    plain = s.peer.identity.user("plain")
    await hub.push(hub.append(hub.draft("m.room.member", {"membership": "join"}, state_key=plain, sender=plain)))
    await _rejected(s, hub, user, ("state without power", _state("m.room.name", {"name": "x"}, sender=plain)))
    levels = await hub.say("m.room.power_levels", {"users": {hub.creator: 100}}, state_key="")
    expect(await s.shown(user, hub.room_id, hub.id(levels)), "the creator could not set the first power levels")


async def _cannot_join(s: Stage, what: str, hub: TinyHub) -> None:
    user = await s.operator.user()
    await hub.invite(user.user_id)
    path = f"/join/{quote(hub.room_id, safe='')}?via={quote(s.peer.server_name, safe='')}"
    answer = await user.request("POST", path, {})
    expect(answer.status != 200, f"{what}: the target's user could join")


@case(
    "auth-rules/3.2",
    "auth-rules/3.3",
    "ev-create/sender-of-the-rooms-domain",
    "ev-create/no-auth-or-prev-events",
    "ev-create/empty-state-key",
    "ev-create/room-version",
)
async def badly_created_rooms(s: Stage) -> None:
    """Rooms whose creation breaks the rules are not joined."""
    other = f"!other{s.suite.run}-{s.suite.number()}:{s.second.server_name}"
    await _cannot_join(s, "a room of another server's name", TinyHub(s.peer, s.target, other, s.version).create())
    for what, creation in {
        "a creation that follows something": {"prev_events": ["$" + "a" * 43]},
        "a creation with auth_events": {"auth_events": ["$" + "a" * 43]},
        "a creation under a state key": {"state_key": "key"},
        "a creation without a room version": {"content": {}},
        "a creation of another room version": {"content": {"room_version": "org.example.other"}},
    }.items():
        await _cannot_join(s, what, s.hub(creation=creation))


@case("auth-rules/5.2.1", "hub-selection/server-of-the-creator", "receiving-events/hub-completes")
async def well_created_rooms(s: Stage) -> None:
    """A room that is created by the rules is joined, and its hub is its creator's server."""
    hub, user = await s.participating()
    said = await user.say(hub.room_id, "hello")
    await s.peer.until("LPDU", lambda: hub.lpdus[-1]["content"].get("body") == "hello")
    expect_equal(s.peer.server_name, hub.lpdus[-1]["hub_server"], "hub_server")
    expect(hub.event(said), f"the target calls the event {said}, and the hub does not")


@case("api-backfill/checked-by-the-caller", "event-and-state/hub-is-asked")
async def fills_gaps(s: Stage) -> None:
    """What is missing is asked of the hub, and of nobody else; and what it gives is checked."""
    hub, user = await s.participating()
    member = s.second.identity.user("member")
    name = s.peer.server_name
    joined = s.second.client.member(hub.room_id, member, "join", hub_server=name, version=hub.version)
    await hub.push(hub.append(hub.complete(joined)))
    missing = [hub.make(MESSAGE, {"body": f"missing {number}"}) for number in range(2)]
    last = await hub.say(MESSAGE, {"body": "last"})
    for event in (*missing, last):
        expect(await s.shown(user, hub.room_id, hub.id(event)), f"{event['content']} is not shown")
    expect(s.peer.came("backfill", hub.room_id), "the hub was not asked for what is missing")
    expect(not s.second.came("backfill", hub.room_id), "another participant was asked for what is missing")

    good = hub.draft(MESSAGE, {"body": "tampered with"})
    bad = {**good, "signatures": {name: {s.peer.identity.key_id: "A" * 86}}}
    after = hub.draft(MESSAGE, {"body": "after it"}, prev_events=[hub.id(bad)])

    async def tampered(arrival: Arrival) -> Reply:
        return 200, {"pdus": [*hub.events, bad]}

    with s.peer.answering(backfill=tampered):
        await hub.push(after)
    expect(not await s.shown(user, hub.room_id, hub.id(bad)), "an event with a bad signature is shown")


@case("checking-signatures/bad-structure", "pdu/distrusts-content")
async def strange_events_do_no_harm(s: Stage) -> None:
    """Nonsense among the events of a transaction does not keep the good ones out."""
    hub, user = await s.participating()
    good = hub.make(MESSAGE, {"body": "good"})
    draft = hub.draft(MESSAGE, {"body": "bad"}, prev_events=[hub.id(good)])
    content = {
        "pdus": [
            {},
            {"room_id": hub.room_id},
            {**draft, "signatures": {s.peer.server_name: []}},
            {**draft, "signatures": []},
            {**draft, "hashes": 5},
            good,
            {**draft, "sender": 5},
        ]
    }
    target = s.endpoint("send", s.transaction_id())
    expect_answer(await s.request("PUT", target, content), 200)
    expect(await s.shown(user, hub.room_id, hub.id(good)), "the good event is not shown")


@case("send-events/targets", "receiving-events/carries-out-all-checks")
async def other_rooms_events(s: Stage) -> None:
    """An event of one room that comes among those of another changes nothing there; only the hub's events count."""
    hub, user = await s.participating()
    other, _ = await s.participating()
    event = hub.draft(MESSAGE, {"body": "for the first room"})
    answer = await s.request("PUT", s.endpoint("send", s.transaction_id()), {"pdus": [event]}, peer=s.second)
    expect_answer(answer, 200)
    expect(not await s.shown(user, hub.room_id, hub.id(event)), "an event is shown that did not come from the hub")
    expect(not await s.shown(user, other.room_id, hub.id(event)), "an event is shown in another room")
    good = await hub.say(MESSAGE, {"body": "good"})
    expect(await s.shown(user, hub.room_id, hub.id(good)), "a good event is not shown")
