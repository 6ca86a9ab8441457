"""The auth rules about power, as the hub applies them (I-D "Auth Rules Algorithm", rules 6 to 10)."""

from __future__ import annotations

from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.end_to_end.wire_events import JsonObject

LEVELS = "m.room.power_levels"


async def _powerful(s: Stage, **levels: object) -> tuple[Room, dict[str, str], JsonObject]:
    """A room, its members' user IDs, and the content of its power levels; ``mod`` has 50 and may change them."""
    given: JsonObject = {"events": {LEVELS: 50}, **levels}
    room, ids = await s.leveled(given, mod=50, equal=50, high=75, low=10)
    user = await s.own_room(room)
    return room, ids, (await user.state(room.id))[LEVELS, ""]


@case("auth-rules/6", "auth-rules/all-rules")
async def events_of_strangers(s: Stage) -> None:
    """Who is not in the room, or has left it, says nothing in it."""
    room = await s.room()
    member, stranger = await room.join(), s.peer.identity.user("stranger")
    await room.refused(room.message(stranger), "the sender never joined")
    await room.accepted(room.member(member, "leave"))
    await room.refused(room.message(member), "the sender has left")


@case("auth-rules/7", "calc-power-levels/events")
async def levels_of_types(s: Stage) -> None:
    """A type that is listed needs the level that is listed, be it more or less than the default."""
    events = {"m.room.message": 20, "org.example.state": 5}
    room, ids = await s.leveled({"events": events}, mod=20, low=19)
    await room.refused(room.message(ids["low"]), "20 is needed")
    await room.accepted(room.message(ids["mod"]))
    await room.accepted(room.lpdu(ids["low"], "org.example.state", {}, ""))


@case("auth-rules/7", "calc-power-levels/state-default", "calc-power-levels/events-default")
async def default_levels_of_types(s: Stage) -> None:
    """A type that is not listed needs the default for state or for other events; 50 and 0 where none is set."""
    room, ids = await s.leveled({}, mod=50, low=49)
    await room.refused(room.lpdu(ids["low"], "m.room.topic", {"topic": "x"}, ""), "50 is needed")
    await room.accepted(room.lpdu(ids["mod"], "m.room.topic", {"topic": "x"}, ""))
    await room.accepted(room.message(ids["low"]))
    room, ids = await s.leveled({"state_default": 10, "events_default": 10}, mod=10, low=9)
    await room.refused(room.lpdu(ids["low"], "m.room.topic", {"topic": "x"}, ""), "10 is needed")
    await room.refused(room.message(ids["low"]), "10 is needed")
    await room.accepted(room.lpdu(ids["mod"], "m.room.topic", {"topic": "x"}, ""))
    await room.accepted(room.message(ids["mod"]))


@case("calc-power-levels/users-default")
async def default_levels_of_users(s: Stage) -> None:
    """A user who is not listed has the default, and 0 where none is set."""
    room, ids = await s.leveled({"users_default": 50}, member=0)
    await room.accepted(room.lpdu(ids["member"], "m.room.topic", {"topic": "x"}, ""))
    room, ids = await s.leveled({"events_default": 1}, member=0)
    await room.refused(room.message(ids["member"]), "1 is needed")


@case("auth-rules/8")
async def state_of_others(s: Stage) -> None:
    """State under a user's ID is that user's: nobody else sets it."""
    room, ids = await s.leveled({}, mod=50, other=0)
    await room.refused(room.lpdu(ids["mod"], "org.example", {}, ids["other"]), "the state key is another's")
    await room.refused(room.lpdu(ids["mod"], "org.example", {}, "@nobody"), "the state key begins with @")
    await room.accepted(room.lpdu(ids["mod"], "org.example", {}, ids["mod"]))


@case("auth-rules/9.1", "auth-rules/9.2", "auth-rules/9.3")
async def levels_that_are_none(s: Stage) -> None:
    """Levels that are no integers, and users that are no user IDs, are refused."""
    room, ids, levels = await _powerful(s)
    names = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
    values: tuple[object, ...] = ("50", 1.5, None, [], {}, True)
    for value in values:
        for name in names:
            await room.refused(room.lpdu(ids["mod"], LEVELS, {**levels, name: value}, ""), f"{name} is {value!r}")
        changed = {**levels, "events": {**levels["events"], "org.example": value}}
        await room.refused(room.lpdu(ids["mod"], LEVELS, changed, ""), f"a level of a type is {value!r}")
        changed = {**levels, "users": {**levels["users"], ids["low"]: value}}
        await room.refused(room.lpdu(ids["mod"], LEVELS, changed, ""), f"a level of a user is {value!r}")
    for name in ("alice", "@alice", "", "@Alice:example.org"):
        changed = {**levels, "users": {**levels["users"], name: 10}}
        await room.refused(room.lpdu(ids["mod"], LEVELS, changed, ""), f"{name!r} is no user ID")
    for name in ("events", "users"):
        for value in ([], "x", 5, None):
            await room.refused(room.lpdu(ids["mod"], LEVELS, {**levels, name: value}, ""), f"{name} is {value!r}")


@case("auth-rules/9.5")
async def levels_above_ones_own(s: Stage) -> None:
    """A level above the sender's own is neither changed nor removed, and none is set so high."""
    room, ids, levels = await _powerful(s, ban=60, kick=40)
    mod = ids["mod"]
    for what, changed in {
        "lowers one that is too high": {**levels, "ban": 50},
        "removes one that is too high": {key: value for key, value in levels.items() if key != "ban"},
        "raises one too high": {**levels, "kick": 51},
        "adds one that is too high": {**levels, "redact": 51},
    }.items():
        await room.refused(room.lpdu(mod, LEVELS, changed, ""), f"it {what}")
    await room.accepted(room.lpdu(mod, LEVELS, {**levels, "kick": 50, "redact": 50}, ""))


@case("auth-rules/9.6", "auth-rules/9.7")
async def levels_of_types_above_ones_own(s: Stage) -> None:
    """The same for the levels of event types."""
    events = {LEVELS: 50, "org.example.high": 60, "org.example.low": 10}
    room, ids, levels = await _powerful(s, events=events)
    mod = ids["mod"]
    for what, changed in {
        "lowers one that is too high": {**events, "org.example.high": 50},
        "removes one that is too high": {key: value for key, value in events.items() if key != "org.example.high"},
        "raises one too high": {**events, "org.example.low": 51},
        "adds one that is too high": {**events, "org.example.new": 51},
    }.items():
        await room.refused(room.lpdu(mod, LEVELS, {**levels, "events": changed}, ""), f"it {what}")
    changed = {LEVELS: 50, "org.example.high": 60, "org.example.new": 50}
    await room.accepted(room.lpdu(mod, LEVELS, {**levels, "events": changed}, ""))


@case("auth-rules/9.8", "auth-rules/9.9")
async def levels_of_users_above_ones_own(s: Stage) -> None:
    """The same for the levels of users; one's own may be lowered."""
    room, ids, levels = await _powerful(s)
    mod, high, low = ids["mod"], ids["high"], ids["low"]
    users = levels["users"]
    for what, changed in {
        "lowers a user with more power": {**users, high: 10},
        "removes a user with more power": {key: value for key, value in users.items() if key != high},
        "raises a user too high": {**users, low: 51},
        "raises itself": {**users, mod: 51},
        "adds a user with more power": {**users, s.peer.identity.user("new"): 51},
    }.items():
        await room.refused(room.lpdu(mod, LEVELS, {**levels, "users": changed}, ""), f"it {what}")
    raised = {**users, low: 50}
    await room.accepted(room.lpdu(mod, LEVELS, {**levels, "users": raised}, ""))
    await room.accepted(room.lpdu(mod, LEVELS, {**levels, "users": {**raised, mod: 20}}, ""))
    await room.refused(room.lpdu(mod, LEVELS, levels, ""), "it has given its power away")


@case("auth-rules/9.8", "auth-rules/9.10")
async def levels_of_equals(s: Stage) -> None:
    """A user of the same level may be lowered: what counts is "higher than"."""
    room, ids, levels = await _powerful(s)
    users = {**levels["users"], ids["equal"]: 10}
    await room.accepted(room.lpdu(ids["mod"], LEVELS, {**levels, "users": users}, ""))


@case("auth-rules/9.10", "auth-rules/10")
async def what_is_allowed(s: Stage) -> None:
    """What no rule forbids is allowed: changes below one's own level, custom events, custom state."""
    room, ids, levels = await _powerful(s)
    await room.accepted(room.lpdu(ids["mod"], LEVELS, {**levels, "events_default": 1, "org.example": "x"}, ""))
    await room.accepted(room.lpdu(ids["mod"], "org.example.event", {"any": ["thing"]}))
    await room.accepted(room.lpdu(ids["mod"], "org.example.state", {}, "any key"))


@case("auth-rules/3.1")
async def second_creation(s: Stage) -> None:
    """A room is created once."""
    room, ids = await s.leveled({"events": {"m.room.create": 0}, "state_default": 0}, mod=50)
    await room.refused(
        room.lpdu(ids["mod"], "m.room.create", {"room_version": room.version}, ""), "the room has been created"
    )
