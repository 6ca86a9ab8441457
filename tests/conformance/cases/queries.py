"""What the I-D leaves to Matrix: the queries that other Matrix servers make (Server-Server API v1.11)."""

from __future__ import annotations

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import expect, expect_answer, expect_equal, expect_error
from tests.end_to_end.wire_events import event_id


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
