"""``make_*`` and ``send_*``, as the target answers them and as it uses them (I-D "Room Membership")."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.tiny_hub import TinyHub
from tests.conformance.verdicts import NotTested, expect, expect_answer, expect_equal, expect_fields
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.wire_events import (
    JsonObject,
    Keys,
    check_pdu,
    check_signature,
    event_id,
    lpdu_form,
    lpdu_hash,
    redacted,
)

CHANGES = ("join", "leave", "knock")
OF_A_LEAVE_LPDU = {
    *("room_id", "type", "sender", "state_key", "content", "origin_server_ts", "hub_server", "hashes", "signatures"),
}


async def _ready(s: Stage, change: str) -> tuple[Room, str]:
    """A room, and a user who may make a change of membership in it."""
    rule = "knock" if change == "knock" else "public"
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule}}
    room = await s.room(preset="private_chat", initial_state=[rules], name="A room", topic="Topics")
    if change == "leave":
        return room, await room.join()
    return room, s.peer.identity.user(f"{change}er{s.suite.number()}")


async def _template(change: str, room: Room, user_id: str) -> JsonObject:
    answer: JsonObject = expect_answer(await room.make(change, user_id), 200)
    # The I-D shows the template bare for joins and knocks, and wrapped for leaves; either is taken for all.
    event: JsonObject = answer.get("event", answer)
    return event


async def _check_template(s: Stage, change: str) -> None:
    room, user_id = await _ready(s, change)
    wanted = {"type": "m.room.member", "state_key": user_id, "sender": user_id}
    template = await _template(change, room, user_id)
    expect_fields(template, wanted, "the template")
    expect_fields(template["content"], {"membership": change}, "its content")
    for name in ("auth_events", "prev_events"):
        expect(name not in template, f"the template has {name}, and so is no partial LPDU")


@case("api-make-join/template")
async def template_of_a_join(s: Stage) -> None:
    """make_join answers with the template of that user's join."""
    await _check_template(s, "join")


@case("api-make-leave/template")
async def template_of_a_leave(s: Stage) -> None:
    """make_leave answers with the template of that user's leave, and names the room version beside it."""
    await _check_template(s, "leave")
    room, user_id = await _ready(s, "leave")
    answer = expect_answer(await room.make("leave", user_id), 200)
    expect_equal(room.version, answer.get("room_version"), "room_version")
    expect(isinstance(answer.get("event"), dict), "the template is not under event")


@case("api-make-knock/template")
async def template_of_a_knock(s: Stage) -> None:
    """make_knock answers with the template of that user's knock."""
    await _check_template(s, "knock")


@case("api-make-join/404", "api-make-leave/404", "api-make-knock/404")
async def templates_for_unknown_rooms(s: Stage) -> None:
    """A room that nobody knows: 404 M_NOT_FOUND, from make_* and from send_*."""
    room = Room(s, f"!nobodys:{s.target}", None, s.version)
    user_id = s.peer.identity.user("somebody")
    for change in CHANGES:
        expect_answer(await room.make(change, user_id), 404, "M_NOT_FOUND")
        expect_answer(await room.post(f"send_{change}", room.member(user_id, change)), 404, "M_NOT_FOUND")


@case(
    "api-make-join/wrong-server",
    "api-make-leave/wrong-server",
    "api-make-knock/wrong-server",
    "api-send-join/errors",
    "api-send-leave/errors",
    "api-send-knock/errors",
)
async def templates_from_who_is_not_the_hub(s: Stage) -> None:
    """Of a room that has another hub: 400 M_WRONG_SERVER, from make_* and from send_*."""
    hub, _ = await s.participating()
    room = Room(s, hub.room_id, None, s.version)
    user_id = s.second.identity.user("somebody")
    for change in CHANGES:
        expect_answer(await room.make(change, user_id), 400, "M_WRONG_SERVER")
        expect_answer(await room.post(f"send_{change}", room.member(user_id, change)), 400, "M_WRONG_SERVER")


@case("api-make-join/incompatible-room-version", "api-make-knock/incompatible-room-version")
async def templates_for_unknown_versions(s: Stage) -> None:
    """Who does not list the room's version in ver, or lists none: 400 M_INCOMPATIBLE_ROOM_VERSION."""
    for change in ("join", "knock"):
        room, user_id = await _ready(s, change)
        for versions in (["1"], ["1", "2", "org.example.other"]):
            answer = await room.make(change, user_id, versions)
            expect_answer(answer, 400, "M_INCOMPATIBLE_ROOM_VERSION")
        expect_answer(await room.make(change, user_id, ["1", "org.example.other", room.version]), 200)


@case("api-make-join/403", "api-make-leave/403", "api-make-knock/403")
async def templates_for_others(s: Stage) -> None:
    """A server is given no template for the user of another one."""
    for change in CHANGES:
        room, user_id = await _ready(s, change)
        query = () if change == "leave" else [("ver", room.version)]
        target = s.endpoint(f"make_{change}", room.id, user_id, query=query)
        expect_answer(await s.get(target, peer=s.second), 403, "M_FORBIDDEN")


@case("api-send-join/state", "api-send-join/auth-chain", "api-send-join/event", "lpdu/echo")
async def answer_to_a_join(s: Stage) -> None:
    """send_join answers with the state before the join, its auth chain, and the join as all participants get it."""
    room = await s.room(name="A room")
    await room.join(peer=s.second)
    user_id = s.peer.identity.user(f"joiner{s.suite.number()}")
    joined = await room.join_as(user_id)
    state, chain, event = joined["state"], joined["auth_chain"], joined["event"]
    keys = [(one["type"], one["state_key"]) for one in state]
    expect_equal(len(set(keys)), len(keys), "number of state events")
    expect(("m.room.member", user_id) not in keys, "the state has the join in it")
    expect({("m.room.create", ""), ("m.room.name", ""), ("m.room.power_levels", "")} <= set(keys), f"state: {keys}")
    held = {event_id(one, room.version) for one in chain}
    wanted = {one for event in (*state, *chain) for one in event["auth_events"]}
    expect(wanted <= held, f"auth_chain lacks {wanted - held}")
    servers = {one["sender"].partition(":")[2] for one in (*state, event)}
    all_keys = await s.peer.client.keys_of({*servers, s.target})
    for one in (*state, *chain, event):
        check_pdu(one, all_keys, room.version)
    expect_fields(event, {"sender": user_id, "state_key": user_id, "type": "m.room.member"}, "event")
    echoed = await s.second.event("the join", room_id=room.id, state_key=user_id)
    expect_equal(event_id(event, room.version), event_id(echoed, room.version), "the join that another is sent")


@case("api-send-join/errors", "api-send-leave/errors", "api-send-knock/errors", "malformed-requests/bad-json")
async def what_is_not_that_change(s: Stage) -> None:
    """send_* takes no other events than the ones that it is for, nor unsigned or foreign ones."""
    room = await s.room()
    member = await room.join()
    other = s.second.identity.user("other")
    for change in CHANGES:
        wrong = "invite"
        for what, lpdu, statuses in (
            ("another membership", room.member(member, wrong), (400, 403)),
            ("a message", room.message(member), (400,)),
            ("no signature", {**room.member(member, change), "signatures": {}}, (400, 401, 403)),
            ("no hashes", {**room.member(member, change), "hashes": {}}, (400,)),
            ("no content", {**room.member(member, change), "content": None}, (400,)),
        ):
            answer = await room.post(f"send_{change}", lpdu)
            expect(answer.status in statuses, f"send_{change} of {what}: {answer.status} {answer.body[:200]!r}")
        target = s.endpoint(f"send_{change}", s.transaction_id())
        answer = await s.request("POST", target, room.member(other, change))
        expect(answer.status in (400, 403), f"send_{change} for another server's user: {answer.status}")
    await room.ignored(member)


@case("api-send-leave/answers")
async def answer_to_a_leave(s: Stage) -> None:
    """send_leave answers with an empty object."""
    room, user_id = await _ready(s, "leave")
    answer = expect_answer(await room.post("send_leave", room.member(user_id, "leave")), 200)
    expect_equal({}, answer, "the answer")


@case("api-send-knock/stripped-state", "stripped-state/four-fields", "stripped-state/what-is-included")
async def answer_to_a_knock(s: Stage) -> None:
    """send_knock answers with stripped state: what there is of the usual, in four fields each."""
    room, user_id = await _ready(s, "knock")
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.avatar", {"url": "mxc://example.org/abc"})
    await user.set_state(room.id, "m.room.canonical_alias", {})
    answer = expect_answer(await room.post("send_knock", room.member(user_id, "knock")), 200)
    check_stripped(answer.get("stripped_state"))


def check_stripped(stripped: object) -> None:
    """That stripped state has the events that it should have, in the form that they must have."""
    expect(isinstance(stripped, list) and stripped, f"there is no stripped state: {stripped!r:.200}")
    assert isinstance(stripped, list)
    for one in stripped:
        expect_equal({"content", "sender", "state_key", "type"}, set(one), "fields of a stripped event")
    wanted = {"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules"}
    missing = (wanted | {"m.room.canonical_alias"}) - {one["type"] for one in stripped}
    expect(not missing, f"it lacks {missing}")


# -- Users of the target ----------------------------------------------------------------------------------------------


def _check_lpdu(s: Stage, hub: TinyHub, lpdu: JsonObject, keys: Keys) -> None:
    for name in ("auth_events", "prev_events"):
        expect(name not in lpdu, f"the LPDU has {name}")
    expect_equal({"lpdu"}, set(lpdu["hashes"]), "hashes of the LPDU")
    expect_equal(lpdu_hash(lpdu), lpdu["hashes"]["lpdu"].get("sha256"), "LPDU hash")
    expect_equal(s.peer.server_name, lpdu.get("hub_server"), "hub_server")
    check_signature(redacted(lpdu_form(lpdu), hub.version), s.target, keys)


@case("lpdu/leaves-out", "lpdu/has-lpdu-hash", "lpdu/signed-by-participant", "api-send-txn/one-at-a-time")
async def lpdus_of_the_target(s: Stage) -> None:
    """What the target's users do in a room of another hub goes there as LPDUs: hashed, signed, and nothing more."""
    hub, user = await s.participating(levels={"state_default": 0})
    said = [await user.say(hub.room_id, f"n{number}") for number in range(3)]
    await user.set_state(hub.room_id, "m.room.topic", {"topic": "Topics"})
    await s.peer.until("four LPDUs and the join", lambda: len(hub.lpdus) >= 5)
    keys = {s.target: await s.peer.client.keys(s.target)}
    for lpdu in hub.lpdus:
        _check_lpdu(s, hub, lpdu, keys)
    for wanted in said:
        expect(hub.event(wanted), f"the target calls an event {wanted} that has another ID")


async def _with_fat_template(s: Stage, **settings: Any) -> tuple[TinyHub, ClientUser]:
    user = await s.operator.user()
    hub = s.hub(**settings)
    hub.template = {"org.example.more": {"a": 1}, "depth": 7, "origin": "example.org", "auth_events": ["$x"]}
    return hub, user


@case("api-make-join/other-fields-removed", "receiving-events/hub-completes")
async def template_of_a_join_is_cleaned(s: Stage) -> None:
    """What a template of a join has beside what is needed does not come back in the LPDU."""
    hub, user = await _with_fat_template(s)
    await s.enter(hub, user)
    expect_equal(OF_A_LEAVE_LPDU, set(hub.lpdus[-1]), "fields of the LPDU")


@case("api-make-leave/other-fields-removed", "leaves/directly-when-possible")
async def template_of_a_leave_is_cleaned(s: Stage) -> None:
    """A user who declines an invite does so by the handshake; the template's other fields do not come back."""
    hub, user = await _with_fat_template(s)
    expect_answer(await hub.invite(user.user_id), 200)
    await user.change(hub.room_id, "leave")
    await s.peer.until("LPDU by send_leave", lambda: s.peer.came("send_leave", hub.room_id))
    expect_equal("leave", hub.lpdus[-1]["content"]["membership"], "membership")
    expect_equal(OF_A_LEAVE_LPDU, set(hub.lpdus[-1]), "fields of the LPDU")


async def _knock(s: Stage, hub: TinyHub, user: ClientUser) -> None:
    path = f"/knock/{quote(hub.room_id, safe='')}?via={quote(s.peer.server_name, safe='')}"
    answer = await user.request("POST", path, {"reason": "let me in"})
    if answer.errcode == "M_UNRECOGNIZED":
        raise NotTested("the target's client API has no knocks")
    expect(answer.status == 200, f"the target's user could not knock: {answer.status} {answer.body[:200]!r}")


@case("api-make-knock/other-fields-removed", "knocks/directly-when-possible", "leaves/retracts-knock")
async def knocks_of_the_target(s: Stage) -> None:
    """A user knocks by the handshake, and takes the knock back in the same way as an invite is declined."""
    hub, user = await _with_fat_template(s, join_rule="knock")
    await _knock(s, hub, user)
    expect_equal(1, len(s.peer.came("send_knock", hub.room_id)), "number of knocks")
    expect_equal("knock", hub.lpdus[-1]["content"]["membership"], "membership")
    expect_equal(OF_A_LEAVE_LPDU, set(hub.lpdus[-1]), "fields of the LPDU")
    await user.change(hub.room_id, "leave")
    await s.peer.until("LPDU by send_leave", lambda: s.peer.came("send_leave", hub.room_id))
    expect_equal("leave", hub.lpdus[-1]["content"]["membership"], "membership")


@case("knocks/directly-when-possible")
async def knocks_of_a_participant(s: Stage) -> None:
    """When its server is in the room already, a user's knock is sent as an ordinary event."""
    hub, _ = await s.participating(join_rule="knock")
    other = await s.operator.user(1)
    await _knock(s, hub, other)
    await s.peer.until("knock", lambda: [one for one in hub.lpdus if one["sender"] == other.user_id])
    expect(not s.peer.came("send_knock", hub.room_id), "it came by the handshake")


@case("joins/directly-when-possible")
async def joins_of_a_participant(s: Stage) -> None:
    """The first user of a server joins by the handshake; the next, whose server is in the room, by an event."""
    hub, _ = await s.participating()
    expect_equal(1, len(s.peer.came("send_join", hub.room_id)), "number of joins by the handshake")
    other = await s.operator.user(1)
    path = f"/join/{quote(hub.room_id, safe='')}?via={quote(s.peer.server_name, safe='')}"
    expect_answer(await other.request("POST", path, {}), 200)
    await s.peer.until("join", lambda: [one for one in hub.lpdus if one["sender"] == other.user_id])
    expect_equal(1, len(s.peer.came("send_join", hub.room_id)), "number of joins by the handshake")


@case("leaves/directly-when-possible")
async def leaves_of_a_participant(s: Stage) -> None:
    """A user whose server is in the room leaves by an ordinary event."""
    hub, user = await s.participating()
    await user.change(hub.room_id, "leave")
    await s.peer.until("leave", lambda: hub.lpdus[-1]["content"].get("membership") == "leave")
    expect(not s.peer.came("send_leave", hub.room_id), "it came by the handshake")


@case("api-make-leave/unknown-version-ends-it")
async def leaves_of_unknown_versions(s: Stage) -> None:
    """When make_leave says a room version that the target does not know, it does not go on."""
    user = await s.operator.user()
    hub = s.hub()
    expect_answer(await hub.invite(user.user_id), 200)
    hub.claimed_version = "org.example.unknown"
    await user.request("POST", f"/rooms/{quote(hub.room_id, safe='')}/leave", {})
    expect(s.peer.came("make_leave", hub.room_id), "there was no make_leave")
    expect(not s.peer.came("send_leave", hub.room_id), "there was a send_leave")
