"""What the I-D leaves to Matrix: the queries that other Matrix servers make (Server-Server API v1.11)."""

from __future__ import annotations

from urllib.parse import quote

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.peer import Arrival, Reply
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import NotTested, expect, expect_answer, expect_equal, expect_error
from tests.end_to_end.client_user import ClientUser, place
from tests.end_to_end.wire_events import JsonObject, event_id


@case("matrix-version/names-the-server")
async def version(s: Stage) -> None:
    """Name and version of the server are told to whoever asks."""
    answer = await s.plain("GET", s.endpoint("version"))
    server = expect_answer(answer, 200).get("server", {})
    for name in ("name", "version"):
        expect(isinstance(server.get(name), str) and server[name], f"it does not tell its {name}: {server}")


@case("matrix-event-auth/complete-chain", "matrix-event-auth/authenticated")
async def event_auth(s: Stage) -> None:
    """The auth chain of an event holds its auth events, and theirs, down to the create event; only if signed for."""
    room = await s.room()
    member = await room.join()
    said = await room.accepted(room.message(member))
    target = s.endpoint("event_auth", room.id, event_id(said, room.version))
    chain = expect_answer(await s.get(target), 200)["auth_chain"]
    held = {event_id(event, room.version): event for event in chain}
    needed = {*said["auth_events"], *(one for event in chain for one in event["auth_events"])}
    expect_equal(sorted(needed), sorted(held), "the auth chain")
    expect("m.room.create" in [event["type"] for event in chain], "there is no create event in the auth chain")
    expect_answer(await s.plain("GET", target), 401)


@case("matrix-event-auth/hidden")
async def event_auth_of_what_is_hidden(s: Stage) -> None:
    """No auth chain of unknown events, of events of other rooms, and of rooms that the server has no part in."""
    room, other = await s.room(), await s.room()
    member, there = await room.join(), await other.join()
    said, elsewhere = await room.accepted(room.message(member)), await other.accepted(other.message(there))
    for room_id, wanted in (
        (room.id, NOBODYS),
        (room.id, event_id(elsewhere, other.version)),
        (f"!nobodys:{s.target}", event_id(said, room.version)),
    ):
        expect_error(await s.get(s.endpoint("event_auth", room_id, wanted)), f"{room_id} {wanted}")
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = await user.say(room.id, "hidden")
    answer = await s.get(s.endpoint("event_auth", room.id, hidden), peer=s.fresh("outsider"))
    expect_error(answer, "an outsider's request")


# -- Profiles ---------------------------------------------------------------------------------------------------------


async def _named_user(s: Stage) -> ClientUser:
    """A user of the target who is in no other case's rooms."""
    return await s.operator.user(2)


async def _set(user: ClientUser, field: str, value: str) -> None:
    answer = await user.request("PUT", place("profile", user.user_id, field), {field: value})
    if answer.errcode == "M_UNRECOGNIZED":
        raise NotTested("the target's client API has no profiles")
    expect_answer(answer, 200)


@case("matrix-query-profile/tells-the-profile", "matrix-query-profile/one-field", "matrix-query-profile/authenticated")
async def profiles(s: Stage) -> None:
    """What a user has set is told, all of it or one field; only if signed for."""
    user = await _named_user(s)
    told = {"displayname": f"Näme {s.suite.number()}", "avatar_url": f"mxc://{s.target}/picture{s.suite.number()}"}
    for field, value in told.items():
        await _set(user, field, value)
    target = s.endpoint("query", "profile", query=[("user_id", user.user_id)])
    found = expect_answer(await s.get(target), 200)
    expect_equal(told, {field: found.get(field) for field in told}, "the profile")
    for field, value in told.items():
        query = [("user_id", user.user_id), ("field", field)]
        found = expect_answer(await s.get(s.endpoint("query", "profile", query=query)), 200)
        expect_equal({field: value}, found, f"the field {field}")
    expect_answer(await s.plain("GET", target), 401)


@case("matrix-query-profile/404")
async def profiles_of_nobody(s: Stage) -> None:
    """Nobody has no profile; another server's user and no user at all are errors."""
    nobody = s.endpoint("query", "profile", query=[("user_id", f"@nobody-{s.suite.run}:{s.target}")])
    expect_answer(await s.get(nobody), 404, "M_NOT_FOUND")
    for user_id in (s.peer.identity.user("one"), "nonsense"):
        answer = await s.get(s.endpoint("query", "profile", query=[("user_id", user_id)]))
        expect_error(answer, f"the profile of {user_id}")
    expect_error(await s.get(s.endpoint("query", "profile")), "the profile of no user")


@case("matrix-names/asks-for-profiles")
async def profiles_of_others(s: Stage) -> None:
    """A user of the target who asks for the profile of a user of the suite's is told what the suite's server tells."""
    user = await s.operator.user()
    other = s.peer.identity.user(f"other{s.suite.number()}")
    asked: list[Arrival] = []

    async def profile(arrival: Arrival) -> Reply:
        asked.append(arrival)
        return 200, {"displayname": "The Other", "avatar_url": "mxc://example.org/other"}

    with s.peer.answering(query=profile):
        answer = await user.request("GET", place("profile", other))
    found = expect_answer(answer, 200)
    expect_equal("The Other", found.get("displayname"), "the display name")
    expect_equal([("profile",)], [arrival.segments for arrival in asked], "what was asked for")
    expect_equal([other], list(asked[0].query["user_id"]), "user_id")


@case("matrix-names/member-events", "matrix-names/changes-are-told")
async def names_in_rooms(s: Stage) -> None:
    """Who joins is named; a new name is told to the room."""
    user = await _named_user(s)
    first, second = f"First {s.suite.number()}", f"Second {s.suite.number()}"
    await _set(user, "displayname", first)
    hub = s.hub()
    expect_answer(await user.request("POST", place("join", hub.room_id, query={"via": s.peer.server_name}), {}), 200)

    def name() -> object:
        events = [one for one in hub.events if one["type"] == "m.room.member" and one["state_key"] == user.user_id]
        return events[-1]["content"].get("displayname") if events else None

    expect_equal(first, name(), "the display name in the join")
    await _set(user, "displayname", second)
    await s.peer.until("member event with the new name", lambda: name() == second)
    await user.change(hub.room_id, "leave")


# -- Aliases ----------------------------------------------------------------------------------------------------------


@case("matrix-query-directory/room-and-servers", "matrix-query-directory/404", "matrix-query-directory/authenticated")
async def aliases(s: Stage) -> None:
    """An alias is told with its room and servers, until it is removed; only if signed for."""
    name = f"conformance-{s.suite.run}-{s.suite.number()}"
    alias = f"#{name}:{s.target}"
    target = s.endpoint("query", "directory", query=[("room_alias", alias)])
    expect_answer(await s.get(target), 404, "M_NOT_FOUND")
    room = await s.room(room_alias_name=name)
    found = expect_answer(await s.get(target), 200)
    expect_equal(room.id, found.get("room_id"), "room_id")
    expect(s.target in found.get("servers", ()), f"the hub is not among the servers: {found}")
    expect_answer(await s.plain("GET", target), 401)
    user = await s.own_room(room)
    expect_answer(await user.request("DELETE", place("directory", "room", alias)), 200)
    expect_answer(await s.get(target), 404, "M_NOT_FOUND")
    for wrong in (f"#{name}:{s.peer.server_name}", "nonsense"):
        answer = await s.get(s.endpoint("query", "directory", query=[("room_alias", wrong)]))
        expect_error(answer, f"the alias {wrong}")


@case("matrix-names/asks-for-aliases")
async def aliases_of_others(s: Stage) -> None:
    """A user of the target joins a room of the suite's by its alias; the suite's server is asked for it."""
    user, hub = await s.operator.user(), s.hub()
    alias = f"#room{s.suite.number()}-{s.suite.run}:{s.peer.server_name}"
    asked: list[Arrival] = []

    async def directory(arrival: Arrival) -> Reply:
        asked.append(arrival)
        return 200, {"room_id": hub.room_id, "servers": [s.peer.server_name]}

    with s.peer.answering(query=directory):
        answer = await user.request("POST", f"/join/{quote(alias, safe='')}", {})
    expect_equal(hub.room_id, expect_answer(answer, 200).get("room_id"), "the room")
    expect_equal([("directory",)], [arrival.segments for arrival in asked], "what was asked for")
    expect_equal([alias], list(asked[0].query["room_alias"]), "room_alias")
    await user.change(hub.room_id, "leave")


# -- The list of rooms ------------------------------------------------------------------------------------------------


async def _listed(s: Stage, term: str) -> list[JsonObject]:
    body = {"filter": {"generic_search_term": term}, "limit": 50}
    answer = await s.request("POST", "/_matrix/federation/v1/publicRooms", body)
    listed: list[JsonObject] = expect_answer(answer, 200)["chunk"]
    return listed


@case(
    "matrix-public-rooms/lists-public-rooms",
    "matrix-public-rooms/others-are-not",
    "matrix-public-rooms/search",
    "matrix-public-rooms/authenticated",
)
async def public_rooms(s: Stage) -> None:
    """A public room is found by its name, another one is not; only if signed for."""
    name = f"Röom {s.suite.run} {s.suite.number()}"
    room = await s.room(visibility="public", name=name, topic="a topic")
    await s.room(name=name)
    await room.join()
    answer = expect_answer(await s.get("/_matrix/federation/v1/publicRooms?limit=500"), 200)
    expect(isinstance(answer.get("chunk"), list), "there is no chunk in the answer")
    for term in (name, name.upper()):
        found = await _listed(s, term)
        expect_equal([room.id], [one.get("room_id") for one in found], f"the rooms called {term!r}")
        shown = {key: found[0].get(key) for key in ("name", "topic", "world_readable", "guest_can_join")}
        expected = {"name": name, "topic": "a topic", "world_readable": False, "guest_can_join": False}
        expect_equal(expected, shown, "what is told of the room")
        expect(isinstance(found[0].get("num_joined_members"), int), f"num_joined_members is no number: {found[0]}")
    expect_equal([], await _listed(s, f"no room {s.suite.run}"), "rooms with a term that none has")
    expect_answer(await s.plain("GET", "/_matrix/federation/v1/publicRooms"), 401)
