"""Invites, with the target as the room's hub and as the server of who is invited (I-D "Invites")."""

from __future__ import annotations

from tests.conformance.cases.handshakes import check_stripped
from tests.conformance.peer import Arrival, Peer, Reply
from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.verdicts import expect, expect_answer, expect_equal, expect_error
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.wire_events import (
    JsonObject,
    check_pdu,
    check_signature,
    event_id,
    redacted,
    signed_event,
)


async def _invite(s: Stage, room: Room, member: str, target: str) -> Answer:
    """Invite somebody as a participant's user."""
    content = {"event": room.member(member, "invite", target), "room_version": room.version, "invite_room_state": []}
    return await s.request("POST", s.endpoint("invite", s.transaction_id()), content, peer=s.peer_of(member))


async def _participant(s: Stage) -> tuple[Room, str, Peer]:
    """A room with a member, and a server that nobody is of yet."""
    room = await s.room()
    return room, await room.join(), s.fresh("invited")


# -- The target is the hub --------------------------------------------------------------------------------------------


@case("api-invite/hub-completes", "api-invite/appended-and-sent", "api-invite/target-signs", "invites/invite-otherwise")
async def invite_of_a_participant(s: Stage) -> None:
    """A participant's invite reaches the target's server as a PDU; signed by it, it is appended, sent, and returned."""
    room, member, invited = await _participant(s)
    user_id = invited.identity.user("invited")
    answer = expect_answer(await _invite(s, room, member, user_id), 200)
    [arrival] = invited.came("invite")
    offered = arrival.content["event"]
    keys = await s.peer.client.keys_of([s.target, s.peer.server_name, invited.server_name])
    check_pdu(offered, keys, room.version)
    expect_equal(room.version, arrival.content.get("room_version"), "room_version")
    expect_equal((user_id, "invite"), (offered["state_key"], offered["content"]["membership"]), "the invite")
    pdu = answer["pdu"]
    check_pdu(pdu, keys, room.version)
    check_signature(redacted(pdu, room.version), invited.server_name, keys)
    echo = await s.peer.event("the invite", room_id=room.id, state_key=user_id)
    expect_equal(event_id(pdu, room.version), event_id(echo, room.version), "the invite that all are sent")
    check_signature(redacted(echo, room.version), invited.server_name, keys)
    await room.join_as(user_id)


@case("stripped-state/four-fields", "stripped-state/what-is-included")
async def stripped_state_of_an_invite(s: Stage) -> None:
    """An invite brings the room's stripped state along."""
    room = await s.room(name="A room", topic="Topics")
    user, invited = await s.own_room(room), s.fresh("invited")
    await user.set_state(room.id, "m.room.avatar", {"url": "mxc://example.org/abc"})
    await user.set_state(room.id, "m.room.canonical_alias", {})
    await user.change(room.id, "invite", user_id=invited.identity.user("invited"))
    check_stripped(invited.came("invite")[0].content.get("invite_room_state"))


@case("api-invite/403")
async def forbidden_invites(s: Stage) -> None:
    """An invite that the auth rules do not allow is 403 M_FORBIDDEN, and reaches nobody."""
    room, ids = await s.leveled({"invite": 50}, low=0)
    invited = s.fresh("invited")
    answer = await _invite(s, room, ids["low"], invited.identity.user("invited"))
    expect_answer(answer, 403, "M_FORBIDDEN")
    expect(not invited.arrivals, "it reached the target's server")


@case("api-invite/criteria", "api-invite/type", "api-invite/membership")
async def what_is_no_invite(s: Stage) -> None:
    """As the hub, the target takes no other events than invites, and none that is badly signed or for another room."""
    room, member, invited = await _participant(s)
    user_id = invited.identity.user("invited")
    good = room.member(member, "invite", user_id)
    for what, content in {
        "a message": {"event": room.message(member), "room_version": room.version},
        "a join": {"event": room.member(member, "join"), "room_version": room.version},
        "another type": {
            "event": room.lpdu(member, "org.example", {"membership": "invite"}, user_id),
            "room_version": room.version,
        },
        "no event": {"room_version": room.version},
        "no room_version": {"event": good},
        "an event that is a list": {"event": [good], "room_version": room.version},
        "no signature": {"event": {**good, "signatures": {}}, "room_version": room.version},
        "no state key": {
            "event": {key: value for key, value in good.items() if key != "state_key"},
            "room_version": room.version,
        },
        "stripped state that is an object": {"event": good, "room_version": room.version, "invite_room_state": {}},
    }.items():
        answer = await s.request("POST", s.endpoint("invite", s.transaction_id()), content)
        expect_error(answer, what)
    expect(not invited.came("invite"), "one of them reached the target's server")


async def _refusing(s: Stage, status: int, content: JsonObject | bytes) -> Answer:
    room, member, invited = await _participant(s)

    async def refuse(arrival: Arrival) -> Reply:
        return status, content

    with invited.answering(invite=refuse):
        answer = await _invite(s, room, member, invited.identity.user("invited"))
    await room.ignored(member)
    return answer


@case("api-invite/proxied-verbatim")
async def refusals_are_proxied(s: Stage) -> None:
    """What the target's server answers to an invite that it does not take reaches the inviter's."""
    refusal = {"errcode": "ORG_EXAMPLE_NO_INVITES", "error": "She does not take invites today."}
    for status in (403, 400, 404):
        answer = await _refusing(s, status, refusal)
        found = expect_answer(answer, status, "ORG_EXAMPLE_NO_INVITES")
        expect_equal(refusal["error"], found.get("error"), "error")


@case("api-invite/excess-discarded")
async def refusals_are_trimmed(s: Stage) -> None:
    """What is too much in a refusal does not reach the inviter's server."""
    refusal = {"errcode": "M_FORBIDDEN", "error": "x" * 50_000, "org.example.more": {"a": ["b" * 50_000]}}
    answer = await _refusing(s, 403, refusal)
    expect_answer(answer, 403, "M_FORBIDDEN")
    expect(len(answer.body) < 20_000, f"the answer has {len(answer.body)} bytes")


@case("api-invite/not-json-is-an-error")
async def answers_that_are_not_json(s: Stage) -> None:
    """When the target's server answers something that is no JSON, or not the event, the hub answers with an error."""
    for status, content in ((200, b"<html>hello</html>"), (500, b"oops"), (200, {}), (200, {"pdu": []})):
        answer = await _refusing(s, status, content)
        expect(answer.status >= 400 and answer.errcode, f"{status} {content!r}: {answer.status} {answer.body[:200]!r}")


@case("invites/by-send-when-participating", "invites/invite-otherwise")
async def invites_of_participants(s: Stage) -> None:
    """Users of a server that is in the room are invited by an ordinary event, and not by /invite."""
    room, member, _ = await _participant(s)
    user, other = await s.own_room(room), s.peer.identity.user(f"other{s.suite.number()}")
    before = len(s.peer.came("invite", room.id))
    await user.change(room.id, "invite", user_id=other)
    await s.peer.event("the invite", room_id=room.id, state_key=other)
    await room.accepted(room.message(member))
    expect_equal(before, len(s.peer.came("invite", room.id)), "number of requests to /invite")


@case("invites/invited-is-not-participating")
async def second_invite(s: Stage) -> None:
    """A server with a user who is invited, and no more, is asked by /invite again for the next one."""
    room, _, invited = await _participant(s)
    user = await s.own_room(room)
    for number in range(2):
        await user.change(room.id, "invite", user_id=invited.identity.user(f"invited{number}"))
    targets = {one.content["event"]["state_key"] for one in invited.came("invite")}
    expect_equal(2, len(targets), "number of users who were invited by /invite")
    expect(not [pdu for pdu in invited.pdus if pdu["room_id"] == room.id], "it is sent events of the room")


# -- The target's users are invited -----------------------------------------------------------------------------------


@case("api-invite/target-signs", "api-invite/appended-and-sent")
async def signs_invites(s: Stage) -> None:
    """An invite for a user of the target comes back under pdu, signed by the target, and otherwise as it was."""
    user, hub = await s.operator.user(), s.hub()
    event = hub.draft("m.room.member", {"membership": "invite"}, state_key=user.user_id)
    content = {"event": event, "room_version": hub.version, "invite_room_state": hub.stripped()}
    signed = expect_answer(await hub.offer(content), 200)["pdu"]
    keys = await s.peer.client.keys_of([s.target])
    check_signature(redacted(signed, hub.version), s.target, keys)
    mine = s.peer.server_name
    expect_equal(event["signatures"][mine], signed["signatures"].get(mine), "the hub's signature")
    for name in set(event) - {"signatures"}:
        expect_equal(event[name], signed.get(name), f"{name} of the signed event")


@case("api-invite/invite-room-state-optional")
async def invite_without_state(s: Stage) -> None:
    """An invite without stripped state is as good."""
    user, hub = await s.operator.user(), s.hub()
    expect_answer(await hub.invite(user.user_id, invite_room_state=None), 200)


@case("api-invite/incompatible-room-version")
async def invite_to_an_unknown_version(s: Stage) -> None:
    """An invite to a room of a version that nobody knows is 400 M_INCOMPATIBLE_ROOM_VERSION."""
    user, hub = await s.operator.user(), s.hub()
    answer = await hub.invite(user.user_id, room_version="org.example.unknown")
    expect_answer(answer, 400, "M_INCOMPATIBLE_ROOM_VERSION")


@case("api-invite/criteria", "api-invite/type", "api-invite/membership", "receiving-events/signed-by-hub")
async def invites_that_are_not_taken(s: Stage) -> None:
    """As the server of who is invited, the target takes no other events, nor badly signed ones, nor for other users."""
    user, hub = await s.operator.user(), s.hub()
    user_id = user.user_id
    good = hub.draft("m.room.member", {"membership": "invite"}, state_key=user_id)
    bare = {key: value for key, value in good.items() if key != "signatures"}
    stripped = hub.stripped()
    for what, event in {
        "another type": hub.draft("org.example", {"membership": "invite"}, state_key=user_id),
        "another membership": hub.draft("m.room.member", {"membership": "join"}, state_key=user_id),
        "no membership": hub.draft("m.room.member", {}, state_key=user_id),
        "no signature": {**bare, "signatures": {}},
        "another server's signature": signed_event(s.second.identity, bare, hub.version),
        "changed after signing": {**good, "origin_server_ts": good["origin_server_ts"] + 1},
        "a user of another server": hub.draft(
            "m.room.member", {"membership": "invite"}, state_key=s.second.identity.user("x")
        ),
        "a user who does not exist": hub.draft(
            "m.room.member", {"membership": "invite"}, state_key=f"@nobody-{s.suite.run}:{s.target}"
        ),
        "no state key": hub.draft("m.room.member", {"membership": "invite"}),
        "another hub": hub.draft(
            "m.room.member", {"membership": "invite"}, state_key=user_id, hub_server="another.example"
        ),
    }.items():
        content = {"event": event, "room_version": hub.version, "invite_room_state": stripped}
        expect_error(await hub.offer(content), what)


@case("stripped-state/not-relied-on")
async def lying_stripped_state(s: Stage) -> None:
    """What stripped state says is not what the room is, once the user is in it."""
    user, hub = await s.operator.user(), s.hub(more=[("m.room.name", "", {"name": "The truth"})])
    lie = {"type": "m.room.name", "state_key": "", "sender": hub.creator, "content": {"name": "A lie"}}
    levels = {"users": {user.user_id: 100}, "state_default": 0}
    more = {"type": "m.room.power_levels", "state_key": "", "sender": hub.creator, "content": levels}
    expect_answer(await hub.invite(user.user_id, invite_room_state=[lie, more]), 200)
    await user.call("POST", f"/join/{hub.room_id}", {})
    state = await user.state(hub.room_id)
    expect_equal({"name": "The truth"}, state["m.room.name", ""], "the name")
    expect(user.user_id not in state["m.room.power_levels", ""].get("users", {}), "it was given the lie's power")
