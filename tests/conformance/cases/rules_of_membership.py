"""Rule 5 of the auth rules, membership, as the hub applies it to other servers' users (I-D "Auth Rules Algorithm")."""

from __future__ import annotations

from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.verdicts import expect, expect_answer
from tests.end_to_end.wire_events import JsonObject, event_id


async def _forbidden(room: Room, membership: str, user_id: str) -> None:
    """That neither a template is given nor an event taken."""
    expect_answer(await room.make(membership, user_id), 403, "M_FORBIDDEN")
    expect_answer(await room.post(f"send_{membership}", room.member(user_id, membership)), 403, "M_FORBIDDEN")


async def _knocking(s: Stage) -> Room:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    return await s.room(preset="private_chat", initial_state=[rules])


async def _knock(room: Room, user_id: str) -> JsonObject:
    knocked: JsonObject = expect_answer(await room.post("send_knock", room.member(user_id, "knock")), 200)
    return knocked


def _stranger(s: Stage, label: str = "stranger") -> str:
    return s.peer.identity.user(f"{label}{s.suite.number()}")


@case("auth-rules/5.1", "ev-member/state-key", "ev-member/membership")
async def without_state_key_or_membership(s: Stage) -> None:
    """A membership event without state_key, without membership, or with one that is no string."""
    room = await s.room()
    member = await room.join()
    await room.ignored(
        member,
        room.lpdu(member, "m.room.member", {"membership": "join"}),
        room.lpdu(member, "m.room.member", {"membership": "join"}, ""),
        room.lpdu(member, "m.room.member", {"membership": "join"}, "nobody"),
        room.lpdu(member, "m.room.member", {}, member),
        room.lpdu(member, "m.room.member", {"membership": 1}, member),
    )


@case("auth-rules/5.2.2")
async def join_for_another(s: Stage) -> None:
    """A join that another user sends is refused, in a transaction and by the handshake."""
    room = await s.room()
    member, other = await room.join(), _stranger(s)
    await room.refused(room.member(member, "join", other), "the sender is not the user who would join")
    answer = await room.post("send_join", room.member(member, "join", other))
    expect_answer(answer, (400, 403))


@case("auth-rules/5.2.3", "auth-rules/5.4.1", "api-make-join/403", "api-make-leave/403")
async def banned_users(s: Stage) -> None:
    """A banned user can neither join nor leave."""
    room = await s.room()
    user, member = await s.own_room(room), await room.join()
    await user.change(room.id, "ban", user_id=member)
    await _forbidden(room, "join", member)
    await _forbidden(room, "leave", member)


@case("auth-rules/5.2.4", "api-make-join/403", "api-send-join/errors")
async def joins_by_invite(s: Stage) -> None:
    """With the join rule invite: who is not invited may not join, who is may, and may once more."""
    room = await s.room(preset="private_chat")
    user, member = await s.own_room(room), _stranger(s)
    await _forbidden(room, "join", member)
    await user.change(room.id, "invite", user_id=member)
    await room.join_as(member)
    await room.accepted(room.member(member, "join", displayname="again"))
    await room.accepted(room.member(member, "leave"))
    await _forbidden(room, "join", member)


@case("auth-rules/5.2.4", "knocks/denied")
async def joins_after_a_knock(s: Stage) -> None:
    """With the join rule knock: a knock alone lets nobody join, an invite does; who is denied may knock again."""
    room = await _knocking(s)
    user, member = await s.own_room(room), _stranger(s)
    await _forbidden(room, "join", member)
    await _knock(room, member)
    await _forbidden(room, "join", member)
    await user.change(room.id, "kick", user_id=member)
    await _knock(room, member)
    await user.change(room.id, "invite", user_id=member)
    await room.join_as(member)


@case("auth-rules/5.2.5")
async def joins_of_public_rooms(s: Stage) -> None:
    """With the join rule public, a user whom nobody knows may join, and join again after leaving."""
    room = await s.room()
    member = await room.join()
    await room.accepted(room.member(member, "leave"))
    await room.join_as(member)


@case("auth-rules/5.2.6")
async def unknown_join_rules(s: Stage) -> None:
    """With a join rule that nobody knows, or that is no string, nobody may join, not even who is invited."""
    room = await s.room()
    user = await s.own_room(room)
    invited = _stranger(s, "invited")
    await user.change(room.id, "invite", user_id=invited)
    for rule in ("org.example.rule", "private"):
        await user.set_state(room.id, "m.room.join_rules", {"join_rule": rule})
        await _forbidden(room, "join", _stranger(s))
        await _forbidden(room, "join", invited)


@case("auth-rules/5.3.1")
async def invites_by_strangers(s: Stage) -> None:
    """Who is not in the room invites nobody."""
    room = await s.room()
    await room.join()
    stranger, other = _stranger(s), _stranger(s, "other")
    await room.refused(room.member(stranger, "invite", other), "the sender is not in the room")
    answer = await s.request(
        "POST",
        s.endpoint("invite", s.transaction_id()),
        {"event": room.member(stranger, "invite", other), "room_version": room.version},
    )
    expect_answer(answer, 403, "M_FORBIDDEN")


@case("auth-rules/5.3.2")
async def invites_of_members_and_banned(s: Stage) -> None:
    """Who is in the room or banned from it is not invited."""
    room, ids = await s.leveled({"invite": 0, "ban": 50}, mod=50, other=0, banned=0)
    mod = ids["mod"]
    await room.refused(room.member(mod, "invite", ids["other"]), "the target is in the room")
    await room.accepted(room.member(mod, "ban", ids["banned"]))
    await room.refused(room.member(mod, "invite", ids["banned"]), "the target is banned")


@case("auth-rules/5.3.3", "auth-rules/5.3.4", "calc-power-levels/actions")
async def levels_for_invites(s: Stage) -> None:
    """Inviting needs the level that is set, and 0 where none is."""
    room, ids = await s.leveled({"invite": 30}, mod=30, low=29)
    await room.accepted(room.member(ids["mod"], "invite", _stranger(s)))
    await room.refused(room.member(ids["low"], "invite", _stranger(s)), "its level is too low")
    room, ids = await s.leveled({}, low=0)
    await room.accepted(room.member(ids["low"], "invite", _stranger(s)))


@case("auth-rules/5.4.1", "leaves/retracts-knock", "api-make-leave/403")
async def leaves(s: Stage) -> None:
    """Who is joined, invited or knocking may leave; who has left, or never came, may not."""
    room = await _knocking(s)
    user = await s.own_room(room)
    joined, invited, knocking, stranger = (_stranger(s, name) for name in ("joined", "invited", "knocking", "never"))
    for user_id in (joined, invited):
        await user.change(room.id, "invite", user_id=user_id)
    await room.join_as(joined)
    await _knock(room, knocking)
    for user_id in (invited, knocking):
        expect_answer(await room.make("leave", user_id), 200)
        expect_answer(await room.post("send_leave", room.member(user_id, "leave")), 200)
        await _forbidden(room, "leave", user_id)
    await _forbidden(room, "leave", stranger)
    await room.accepted(room.member(joined, "leave"))
    await room.refused(room.member(joined, "leave"), "the user has left already")


@case("auth-rules/5.4.2", "auth-rules/5.5.1")
async def kicks_and_bans_by_strangers(s: Stage) -> None:
    """Who has left kicks and bans nobody, whatever the level."""
    room, ids = await s.leveled({"kick": 0, "ban": 0}, mod=50, other=0)
    await room.accepted(room.member(ids["mod"], "leave"))
    await room.refused(room.member(ids["mod"], "leave", ids["other"]), "the sender is not in the room")
    await room.refused(room.member(ids["mod"], "ban", ids["other"]), "the sender is not in the room")


@case("auth-rules/5.4.3", "auth-rules/5.4.4")
async def lifting_bans(s: Stage) -> None:
    """A ban is lifted by who has the level for both kicks and bans, and by nobody else."""
    room, ids = await s.leveled({"kick": 30, "ban": 60}, mod=60, low=40, banned=0)
    await room.accepted(room.member(ids["mod"], "ban", ids["banned"]))
    await room.refused(room.member(ids["low"], "leave", ids["banned"]), "the sender may not ban")
    await room.accepted(room.member(ids["mod"], "leave", ids["banned"]))
    await room.join_as(ids["banned"])


@case("auth-rules/5.4.4", "auth-rules/5.4.5", "auth-rules/5.5.2", "auth-rules/5.5.3")
async def levels_for_kicks_and_bans(s: Stage) -> None:
    """A kick or ban needs the level for it, and a target with less power."""
    for membership, action in (("leave", "kick"), ("ban", "ban")):
        room, ids = await s.leveled({action: 40}, mod=40, equal=40, low=39, other=0)
        user = await s.own_room(room)
        await room.refused(room.member(ids["low"], membership, ids["other"]), "the level is too low")
        await room.refused(room.member(ids["mod"], membership, ids["equal"]), "the target has the same level")
        await room.refused(room.member(ids["mod"], membership, user.user_id), "the target has more power")
        await room.accepted(room.member(ids["mod"], membership, ids["other"]))


@case("calc-power-levels/actions")
async def default_levels_for_kicks_and_bans(s: Stage) -> None:
    """Where no level is set, a kick or ban needs 50."""
    for membership in ("leave", "ban"):
        room, ids = await s.leveled({}, mod=50, low=49, other=0)
        await room.refused(room.member(ids["low"], membership, ids["other"]), "50 is needed")
        await room.accepted(room.member(ids["mod"], membership, ids["other"]))


@case("calc-power-levels/actions")
async def default_level_for_redactions(s: Stage) -> None:
    """Where no level is set, redacting somebody else's event needs 50: what less power redacts stays as it is."""
    room, ids = await s.leveled({}, mod=50, low=49)
    user = await s.own_room(room)
    said = await user.say(room.id, "hello")
    await room.send(room.lpdu(ids["low"], "m.room.redaction", {"redacts": said}))
    seen = await s.shown(user, room.id, said)
    expect(seen and seen["content"].get("body") == "hello", f"49 were enough: {seen}")
    await room.accepted(room.lpdu(ids["mod"], "m.room.redaction", {"redacts": said}))
    seen = await s.shown(user, room.id, said)
    expect(seen is None or "body" not in seen["content"], f"50 were not enough: {seen}")


@case("auth-rules/5.6.1", "api-make-knock/403", "api-send-knock/errors")
async def knocks_where_none_are_taken(s: Stage) -> None:
    """A knock on a room with another join rule is refused."""
    for preset in ("public_chat", "private_chat"):
        room = await s.room(preset=preset)
        await _forbidden(room, "knock", _stranger(s))


@case("auth-rules/5.6.2")
async def knocks_for_another(s: Stage) -> None:
    """A knock that another user sends is refused."""
    room = await _knocking(s)
    user, member = await s.own_room(room), _stranger(s)
    answer = await room.post("send_knock", room.member(_stranger(s), "knock", _stranger(s, "other")))
    expect_answer(answer, (400, 403))
    await user.change(room.id, "invite", user_id=member)
    await room.join_as(member)
    await room.refused(room.member(member, "knock", _stranger(s, "other")), "the sender is not the user who knocks")


@case("auth-rules/5.6.3", "auth-rules/5.6.4")
async def who_may_knock(s: Stage) -> None:
    """Who is neither in the room nor banned may knock, also anew and when invited; the others may not."""
    room = await _knocking(s)
    user, member, invited = await s.own_room(room), _stranger(s), _stranger(s, "invited")
    await _knock(room, member)
    await _knock(room, member)
    await user.change(room.id, "invite", user_id=invited)
    await _knock(room, invited)
    await user.change(room.id, "invite", user_id=member)
    await room.join_as(member)
    await _forbidden(room, "knock", member)
    await user.change(room.id, "ban", user_id=member)
    await _forbidden(room, "knock", member)


@case("auth-rules/5.7")
async def unknown_memberships(s: Stage) -> None:
    """A membership that nobody knows is refused."""
    room = await s.room()
    member = await room.join()
    for membership in ("guest", "Join", "", "org.example.membership"):
        await room.refused(room.member(member, membership), "nobody knows this membership")


@case("make-and-send/rechecked", "api-send-join/errors", "api-send-leave/errors")
async def changes_between_make_and_send(s: Stage) -> None:
    """A template is no promise: who is banned after it was given does not get in, nor out."""
    room = await s.room()
    user, member = await s.own_room(room), _stranger(s)
    expect_answer(await room.make("join", member), 200)
    lpdu = room.member(member, "join")
    await user.change(room.id, "ban", user_id=member)
    expect_answer(await room.post("send_join", lpdu), 403, "M_FORBIDDEN")
    other = await room.join()
    expect_answer(await room.make("leave", other), 200)
    lpdu = room.member(other, "leave")
    await user.change(room.id, "ban", user_id=other)
    expect_answer(await room.post("send_leave", lpdu), 403, "M_FORBIDDEN")


@case("make-and-send/sent-to-others", "send-events/targets")
async def memberships_are_sent_to_others(s: Stage) -> None:
    """What comes by the handshake is sent to the other participants; a kick goes to the server of who is kicked."""
    room = await s.room()
    user, _ = await s.own_room(room), await room.join(peer=s.second)
    member = await room.join()
    await s.second.event("the join of another server's user", room_id=room.id, state_key=member)
    await user.change(room.id, "kick", user_id=member, reason="go")
    kick = await s.peer.event(
        "the kick of the server's own user",
        room_id=room.id,
        state_key=member,
        content={"membership": "leave", "reason": "go"},
    )
    said = await user.say(room.id, "nobody of the first server hears this")
    await s.second.until("the message", lambda: said in _ids(room, s.second.pdus))
    other = await s.room()
    member = await other.join()
    await other.accepted(other.message(member))
    expect(
        said not in _ids(room, s.peer.pdus),
        f"a server without users in the room is sent what comes after {event_id(kick, room.version)}",
    )


def _ids(room: Room, pdus: list[JsonObject]) -> list[str]:
    return [event_id(pdu, room.version) for pdu in pdus if pdu["room_id"] == room.id]
