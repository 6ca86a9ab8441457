"""``event``, ``state``, ``state_ids`` and ``backfill`` (I-D "Event and State APIs")."""

from __future__ import annotations

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.verdicts import expect, expect_answer, expect_equal, expect_error
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_client import Query
from tests.end_to_end.wire_events import JsonObject, event_id, redacted

READERS = ("state", "state_ids", "backfill")


async def _ask(s: Stage, name: str, room_id: str, wanted: str, *, limit: int = 10) -> Answer:
    query: Query = [("v", wanted), ("limit", limit)] if name == "backfill" else [("event_id", wanted)]
    return await s.get(s.endpoint(name, room_id, query=query))


async def _talk(s: Stage, count: int = 5) -> tuple[Room, str, list[JsonObject]]:
    """A room, a member, and what the member said in it."""
    room = await s.room()
    member = await room.join()
    return room, member, [await room.accepted(room.message(member, f"n{number}")) for number in range(count)]


@case("api-get-event/gives-the-event", "pdu/event-id-is-reference-hash")
async def gives_events(s: Stage) -> None:
    """An event is given as it was sent: messages, state, and the room's creation."""
    room, _, said = await _talk(s, 1)
    history = await room.history(event_id(said[0], room.version))
    for event in (said[0], history[0], history[1]):
        found = expect_answer(await s.get(s.endpoint("event", event_id(event, room.version))), 200)
        found = found.get("pdu", found)
        for name in ("type", "sender", "content", "auth_events", "prev_events", "hashes", "signatures"):
            expect_equal(event[name], found.get(name), f"{name} of the event")


@case("api-get-event/404")
async def unknown_events(s: Stage) -> None:
    """An event that nobody has, and one of a room that the server never was in: 404 M_NOT_FOUND."""
    expect_answer(await s.get(s.endpoint("event", NOBODYS)), 404, "M_NOT_FOUND")
    room, _, said = await _talk(s, 1)
    wanted = s.endpoint("event", event_id(said[0], room.version))
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.history_visibility", {"history_visibility": "joined"})
    expect_answer(await s.get(wanted, peer=s.fresh("outsider")), 404, "M_NOT_FOUND")


@case("api-get-event/redacted-when-not-visible", "api-backfill/redacted-when-not-visible")
async def events_before_ones_time(s: Stage) -> None:
    """With the visibility "joined": what was said before a server came is given to it redacted, or not at all."""
    room = await s.room()
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.history_visibility", {"history_visibility": "joined"})
    secret = await user.say(room.id, "nobody of the others hears this")
    late = s.fresh("late")
    member = await room.join(peer=late)
    answer = await s.get(s.endpoint("event", secret), peer=late)
    if answer.status != 404:
        expect_equal({}, expect_answer(answer, 200)["content"], "content of what may not be seen")
    said = await room.accepted(room.message(member))
    target = s.endpoint("backfill", room.id, query=[("v", event_id(said, room.version)), ("limit", 50)])
    events = expect_answer(await s.get(target, peer=late), 200)["pdus"]
    expect_equal(event_id(said, room.version), event_id(events[-1], room.version), "the last event")
    for event in events:
        if event_id(event, room.version) == secret:
            expect_equal(redacted(event, room.version), event, "what may not be seen")


@case("api-get-event/no-lpdus", "api-get-state/no-lpdus", "api-backfill/no-lpdus")
async def no_lpdus(s: Stage) -> None:
    """An LPDU cannot be had by its own ID, neither one that was accepted nor one that was refused; pages have none."""
    room, member, _ = await _talk(s, 1)
    good, bad = room.message(member), room.lpdu(member, "m.room.name", {"name": "x"}, "")
    await room.send(good, bad)
    pdu = await s.peer.echo(good)
    for lpdu in (good, bad):
        wanted = event_id(lpdu, room.version)
        expect_answer(await s.get(s.endpoint("event", wanted)), 404, "M_NOT_FOUND")
        for name in READERS:
            expect_answer(await _ask(s, name, room.id, wanted), 404, "M_NOT_FOUND")
    last = event_id(pdu, room.version)
    events = expect_answer(await _ask(s, "backfill", room.id, last), 200)["pdus"]
    state = expect_answer(await _ask(s, "state", room.id, last), 200)
    for event in (*events, *state["pdus"], *state["auth_chain"]):
        expect({"auth_events", "prev_events"} <= event.keys() and "sha256" in event["hashes"], f"an LPDU: {event}")


@case("api-get-state/before-the-event", "state-events/latest-counts", "api-get-state/auth-chain")
async def state_before_an_event(s: Stage) -> None:
    """The state is the one before the event, the latest by order for each key; the auth chain is whole."""
    room, ids = await s.leveled({}, mod=50)
    mod, now = ids["mod"], s.peer.now_ms()
    events = [
        await room.accepted(room.lpdu(mod, "m.room.topic", {"topic": topic}, "", origin_server_ts=time))
        for topic, time in (("first", now + 60_000), ("second", now - 3_600_000), ("third", now - 60_000))
    ]
    for event, wanted in zip(events[1:], ("first", "second"), strict=True):
        state = await room.state(event_id(event, room.version))
        expect_equal(wanted, state["m.room.topic", ""]["content"]["topic"], "topic before the event")
    expect(("m.room.topic", "") not in await room.state(event_id(events[0], room.version)), "there is a topic already")
    answer = expect_answer(await _ask(s, "state", room.id, event_id(events[2], room.version)), 200)
    _check_chain(room, answer["pdus"], answer["auth_chain"])


def _check_chain(room: Room, state: list[JsonObject], chain: list[JsonObject]) -> None:
    held = {event_id(event, room.version): event for event in chain}
    wanted = [one for event in state for one in event["auth_events"]]
    while wanted:
        one = wanted.pop()
        expect(one in held, f"the auth chain lacks {one}")
        wanted += held[one]["auth_events"]
    keys = [(event["type"], event["state_key"]) for event in state]
    expect_equal(len(set(keys)), len(keys), "number of state events")


@case("api-get-state-ids/same-as-state")
async def state_ids(s: Stage) -> None:
    """state_ids gives the IDs of what state gives, and the same errors."""
    room, _, said = await _talk(s, 1)
    last = event_id(said[0], room.version)
    whole = expect_answer(await _ask(s, "state", room.id, last), 200)
    ids = expect_answer(await _ask(s, "state_ids", room.id, last), 200)
    for name, name_of_ids in (("pdus", "pdu_ids"), ("auth_chain", "auth_chain_ids")):
        wanted = sorted(event_id(event, room.version) for event in whole[name])
        expect_equal(wanted, sorted(ids.get(name_of_ids, ())), name_of_ids)
    expect_answer(await _ask(s, "state_ids", room.id, NOBODYS), 404, "M_NOT_FOUND")


@case("api-get-state/404", "api-get-state-ids/same-as-state", "api-backfill/404")
async def what_cannot_be_read(s: Stage) -> None:
    """An unknown room or event, an event of another room, and a room that the server never was in: 404 M_NOT_FOUND."""
    room, _, said = await _talk(s, 1)
    other, _, elsewhere = await _talk(s, 1)
    known = event_id(said[0], room.version)
    user = await s.own_room(room)
    await user.set_state(room.id, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = await user.say(room.id, "hidden")
    outsider = s.fresh("outsider")
    for name in READERS:
        expect_answer(await _ask(s, name, f"!nobodys:{s.target}", known), 404, "M_NOT_FOUND")
        expect_answer(await _ask(s, name, room.id, NOBODYS), 404, "M_NOT_FOUND")
        expect_answer(await _ask(s, name, room.id, event_id(elsewhere[0], other.version)), 404, "M_NOT_FOUND")
        query: Query = [("v", hidden), ("limit", 5)] if name == "backfill" else [("event_id", hidden)]
        answer = await s.get(s.endpoint(name, room.id, query=query), peer=outsider)
        expect_answer(answer, 404, "M_NOT_FOUND")


@case("api-get-state/event-id-required", "api-backfill/parameters-required")
async def parameters(s: Stage) -> None:
    """A request without the parameters that are required, or with nonsense in them, is an error."""
    room, _, said = await _talk(s, 1)
    known = event_id(said[0], room.version)
    for name in ("state", "state_ids"):
        expect_error(await s.get(s.endpoint(name, room.id)), f"{name} without event_id")
    for query in (
        [],
        [("v", known)],
        [("limit", 5)],
        [("v", known), ("limit", "many")],
        [("v", known), ("limit", -1)],
    ):
        expect_error(await s.get(s.endpoint("backfill", room.id, query=query)), f"backfill with {query}")


@case("api-backfill/oldest-first", "api-backfill/at-most-limit")
async def pages(s: Stage) -> None:
    """A page ends with the event that was asked for, is in order, and has as many events as were asked for."""
    room, _, said = await _talk(s, 5)
    ids = [event_id(event, room.version) for event in said]
    for limit in (1, 2, 5):
        answer = await _ask(s, "backfill", room.id, ids[-1], limit=limit)
        found = [event_id(event, room.version) for event in expect_answer(answer, 200)["pdus"]]
        expect_equal(ids[-limit:], found, f"a page of {limit}")
    answer = await _ask(s, "backfill", room.id, ids[2], limit=2)
    found = [event_id(event, room.version) for event in expect_answer(answer, 200)["pdus"]]
    expect_equal(ids[1:3], found, "a page from the middle")


@case("api-backfill/own-maximum", seconds=60)
async def largest_page(s: Stage) -> None:
    """However much is asked for, there is a bound: with 250 events in the room, not all come at once."""
    room = await s.room()
    member = await room.join()
    last: JsonObject = {}
    for _ in range(5):
        lpdus = [room.message(member, "x") for _ in range(50)]
        await room.send(*lpdus)
        last = lpdus[-1]
    pdu = await s.peer.echo(last)
    answer = await _ask(s, "backfill", room.id, event_id(pdu, room.version), limit=1_000_000)
    events = expect_answer(answer, 200)["pdus"]
    expect(len(events) < 250, f"{len(events)} events came at once")


@case("api-get-state/wrong-server", "api-get-state-ids/same-as-state", "hub-selection/server-of-the-creator")
async def not_the_hub(s: Stage) -> None:
    """Of a room that has another hub, the target gives no state: 400 M_WRONG_SERVER."""
    hub, _ = await s.participating()
    last = hub.id(hub.events[-1])
    for name in ("state", "state_ids"):
        expect_answer(await _ask(s, name, hub.room_id, last), 400, "M_WRONG_SERVER")
