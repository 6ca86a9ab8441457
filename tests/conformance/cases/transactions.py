"""``PUT /send``, as the target takes it and as it makes it (I-D "Sending Events", "Transaction Identifiers")."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.conformance.peer import Arrival, Peer, Reply
from tests.conformance.registry import case
from tests.conformance.stage import Room, Stage
from tests.conformance.verdicts import NotApplicable, NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.wire_events import I1, JsonObject, event_id


async def _put(s: Stage, transaction_id: str, *pdus: JsonObject, peer: Peer | None = None) -> Answer:
    return await s.request("PUT", s.endpoint("send", transaction_id), {"pdus": list(pdus)}, peer=peer)


async def _times(room: Room, said: str, last: JsonObject) -> int:
    """How often something was said in a room."""
    events = await room.history(event_id(last, room.version))
    return sum(event["content"].get("body") == said for event in events)


# -- Taking -----------------------------------------------------------------------------------------------------------


@case("txn-ids/same-answer", "api-send-txn/not-twice")
async def the_same_again(s: Stage) -> None:
    """The same transaction three times has the same answer three times, and happens once."""
    room = await s.room()
    member, transaction_id = await room.join(), s.transaction_id()
    good, bad = room.message(member, "once"), room.lpdu(member, "m.room.name", {"name": "x"}, "")
    answers = [await _put(s, transaction_id, good, bad) for _ in range(3)]
    first = expect_answer(answers[0], 200)
    expect_equal([event_id(bad, room.version)], list(first["failed_pdus"]), "failed_pdus")
    for answer in answers[1:]:
        expect_equal(first, expect_answer(answer, 200), "the answer to the same transaction")
    after = await room.accepted(room.message(member, "after"))
    expect_equal(1, await _times(room, "once", after), "how often it was said")


@case("txn-ids/same-answer")
async def handshakes_again(s: Stage) -> None:
    """A send_join that is repeated has the same event in its answer, and joins once."""
    room = await s.room()
    member = s.peer.identity.user(f"again{s.suite.number()}")
    lpdu, target = room.member(member, "join"), s.endpoint("send_join", s.transaction_id())
    answers = [expect_answer(await s.request("POST", target, lpdu), 200) for _ in range(2)]
    expect_equal(answers[0]["event"], answers[1]["event"], "event of the second answer")
    after = await room.accepted(room.message(member))
    expect_equal([event_id(answers[0]["event"], room.version)], after["prev_events"], "what follows the join")


@case("txn-ids/per-endpoint-and-server", "txn-ids/idempotence-only")
async def one_id_for_many_things(s: Stage) -> None:
    """One transaction ID, used by two servers, and for several endpoints, is several requests."""
    room, transaction_id = await s.room(), s.transaction_id()
    members = [s.peer.identity.user(f"one{s.suite.number()}"), s.second.identity.user(f"two{s.suite.number()}")]
    for member, peer in zip(members, (s.peer, s.second), strict=True):
        joined = await s.request(
            "POST", s.endpoint("send_join", transaction_id), room.member(member, "join"), peer=peer
        )
        expect_answer(joined, 200)
    for member, peer in zip(members, (s.peer, s.second), strict=True):
        lpdu = room.message(member, f"by {member}")
        expect(not expect_answer(await _put(s, transaction_id, lpdu, peer=peer), 200)["failed_pdus"], "it failed")
        await peer.echo(lpdu)
    left = await s.request("POST", s.endpoint("send_leave", transaction_id), room.member(members[0], "leave"))
    expect_answer(left, 200)


@case("txn-ids/idempotence-only")
async def any_transaction_id(s: Stage) -> None:
    """Nothing is read out of a transaction ID: an event ID, a number, odd characters are as good."""
    for transaction_id in ("$event-id_0", "0", "a/b", "with space", "ü", "%", "x" * 100):
        expect_answer(await _put(s, f"{transaction_id}{s.transaction_id()}"), 200)


@case("api-send-txn/edus-optional")
async def edus_may_be_left_out(s: Stage) -> None:
    """A transaction without edus, and one with none, are taken."""
    contents: tuple[JsonObject, ...] = ({"pdus": []}, {"pdus": [], "edus": []})
    for content in contents:
        answer = await s.request("PUT", s.endpoint("send", s.transaction_id()), content)
        expect_answer(answer, 200)


@case("api-send-txn/at-most-50-pdus", "api-send-txn/at-most-100-edus")
async def large_transactions(s: Stage) -> None:
    """50 events and 100 EDUs are taken; one more of either is refused, and none of them counts."""
    room = await s.room()
    member = await room.join()
    if room.version == I1:
        lpdus = [room.message(member, f"number {number}") for number in range(50)]
        failed = (await room.send(*lpdus)).get("failed_pdus")
        expect(not failed, f"of 50 events failed {failed}")
        await s.peer.echo(lpdus[-1])
    many = [room.message(member, f"too many {number}") for number in range(51)]
    answer = await s.request("PUT", s.endpoint("send", s.transaction_id()), {"pdus": many})
    expect(answer.status == 400, f"51 events were answered with {answer.status}")
    edu = {"type": "org.example", "sender": member, "content": {}}
    for number in (100, 101):
        content = {"pdus": [], "edus": [edu] * number}
        answer = await s.request("PUT", s.endpoint("send", s.transaction_id()), content)
        expect(answer.status == (200 if number == 100 else 400), f"{number} EDUs were answered with {answer.status}")
    after = await room.accepted(room.message(member, "after"))
    expect_equal(0, await _times(room, "too many 0", after), "how often the first of 51 was said")


@case("api-send-txn/unknown-room")
async def unknown_rooms(s: Stage) -> None:
    """Events of rooms that nobody knows are rejected; the others of the transaction are not concerned."""
    room = await s.room()
    member = await room.join()
    unknown = s.peer.client.message(f"!nobodys:{s.target}", member, "x", hub_server=s.target)
    good = room.message(member)
    failed = (await room.send(unknown, good))["failed_pdus"]
    expect_equal([event_id(unknown)], list(failed), "failed_pdus")
    await s.peer.echo(good)


@case("api-send-txn/unknown-room")
async def rooms_that_were_left(s: Stage) -> None:
    """Events of a room that the target has left are skipped: they are not named as failed."""
    hub, user = await s.participating()
    await user.change(hub.room_id, "leave")
    await s.peer.until("leave", lambda: any(one["content"].get("membership") == "leave" for one in hub.lpdus))
    event = hub.make("m.room.message", {"body": "nobody there"})
    answer = expect_answer(await hub.push(event), 200)
    expect(not answer.get("failed_pdus"), f"it is named as failed: {answer}")


@case("api-send-txn/lpdu-at-a-participant")
async def lpdus_for_another_hub(s: Stage) -> None:
    """An LPDU of a room that has another hub is skipped: it is neither shown nor named as failed."""
    hub, user = await s.participating()
    member = s.second.identity.user("member")
    joined = hub.append(
        hub.complete(
            s.second.client.member(hub.room_id, member, "join", hub_server=s.peer.server_name, version=hub.version)
        )
    )
    await hub.push(joined)
    lpdu = s.second.client.message(hub.room_id, member, "psst", hub_server=s.peer.server_name, version=hub.version)
    answer = await s.send(lpdu, peer=s.second)
    expect(not answer.get("failed_pdus"), f"it is named as failed: {answer}")
    said = await hub.say("m.room.message", {"body": "hello"})
    expect(await s.shown(user, hub.room_id, hub.id(said)), "what the hub says is not shown")
    bodies = [event["content"].get("body") for event in await user.timeline(hub.room_id)]
    expect("psst" not in bodies, "the LPDU is shown")


@case("api-send-txn/failed-by-own-id", "api-send-txn/error-string", "api-send-txn/accepted-not-in-failed")
async def what_failed(s: Stage) -> None:
    """failed_pdus names exactly those that were rejected, by the IDs of the LPDUs, each with an error in words."""
    room = await s.room()
    member = await room.join()
    good = [room.message(member, "one"), room.message(member, "two")]
    bad = [room.lpdu(member, "m.room.name", {"name": "x"}, ""), room.member(member, "ban", f"@nobody:{s.target}")]
    failed = (await room.send(good[0], bad[0], bad[1], good[1]))["failed_pdus"]
    expect_equal(sorted(event_id(one, room.version) for one in bad), sorted(failed), "failed_pdus")
    for entry in failed.values():
        expect(isinstance(entry.get("error"), str) and entry["error"], f"an entry without error: {entry}")


@case("api-send-txn/after-all-are-processed")
async def answered_after_processing(s: Stage) -> None:
    """When the answer is there, what was sent is in the room."""
    room = await s.room()
    user, member = await s.own_room(room), await room.join()
    for number in range(3):
        await room.send(room.message(member, f"number {number}"))
        latest = await user.latest(room.id)
        expect_equal(f"number {number}", latest["content"].get("body"), "the latest message")


@case("api-send-txn/not-after-the-fan-out")
async def answered_before_the_fan_out(s: Stage) -> None:
    """A participant that does not answer holds nobody up."""
    slow, room = s.fresh("slow"), await s.room()
    member, _ = await room.join(), await room.join(peer=slow)
    gate: Deferred[None] = Deferred()

    async def held(arrival: Arrival) -> Reply:
        if not gate.called:
            await _opened(gate)
        return await slow.take(arrival)

    with slow.answering(send=held):
        for number in range(3):
            await room.send(room.message(member, f"number {number}"))
        lpdu = room.message(member, "the last")
        await room.send(lpdu)
        await s.peer.echo(lpdu)
        gate.callback(None)
    await slow.echo(lpdu)


async def _opened(gate: Deferred[None]) -> None:
    waiting: Deferred[None] = Deferred()
    gate.chainDeferred(waiting)
    await waiting


async def _waiting(s: Stage, room: Room) -> tuple[Peer, JsonObject]:
    """A server whose key is not handed out yet, and an LPDU of it, on which a transaction can be made to wait."""
    slow = s.fresh("slow")
    slow.key_gate = Deferred()
    user_id = slow.identity.user("slow")
    return slow, slow.client.message(room.id, user_id, "x", hub_server=s.target, version=room.version)


@case("api-send-txn/bad-state")
async def another_in_flight(s: Stage) -> None:
    """While a transaction is in flight, another of that server is 400 M_BAD_STATE, and the same has its answer."""
    room = await s.room()
    slow, lpdu = await _waiting(s, room)
    assert slow.key_gate is not None
    first, other = s.transaction_id(), s.transaction_id()
    held = [Deferred.fromCoroutine(_put(s, first, lpdu))]
    await slow.until("request for the key of a server that the target does not know", lambda: slow.keys_asked)
    held.append(Deferred.fromCoroutine(_put(s, first, lpdu)))
    if held[0].called:
        raise NotTested("the target answers before it has the key, so that nothing can be kept in flight")
    refused = await _put(s, other)
    another_server = await _put(s, other, peer=s.second)
    slow.key_gate.callback(None)
    answers = await gatherResults(held, consumeErrors=True)
    expect_answer(refused, 400, "M_BAD_STATE")
    expect_answer(another_server, 200)
    one, again = [expect_answer(answer, 200) for answer in answers]
    expect_equal(one, again, "the answer to the same transaction")
    expect_answer(await _put(s, other), 200)


@case("api-send-txn/goes-on-when-the-sender-is-gone")
async def sender_gone(s: Stage) -> None:
    """A transaction whose sender has hung up is carried out all the same."""
    peer, room = s.fresh("gone"), await s.room()
    member = await room.join(peer=peer)
    slow, lpdu = await _waiting(s, room)
    assert slow.key_gate is not None
    good = room.message(member, "said and gone")
    target = s.endpoint("send", s.transaction_id())
    sending = Deferred.fromCoroutine(s.request("PUT", target, {"pdus": [lpdu, good]}, peer=peer))
    sending.addErrback(lambda failure: None)
    await slow.until("request for the key of a server that the target does not know", lambda: slow.keys_asked)
    if sending.called:
        raise NotTested("the target answers before it has the key, so that nothing can be kept in flight")
    sending.cancel()
    await deferLater(s.suite.reactor, 0.05, lambda: None)
    slow.key_gate.callback(None)
    await peer.echo(good)


# -- Making -----------------------------------------------------------------------------------------------------------


@case("api-send-txn/one-at-a-time", "api-send-txn/at-most-50-pdus", "pdu/one-prev-event", seconds=60)
async def one_at_a_time(s: Stage) -> None:
    """While a participant does not answer, it is sent nothing else; what has piled up comes in 50s, and in order."""
    peer, room = s.fresh("busy"), await s.room()
    user = await s.own_room(room)
    await room.join(peer=peer)
    gate: Deferred[None] = Deferred()

    async def held(arrival: Arrival) -> Reply:
        if not gate.called:
            await _opened(gate)
        return await peer.take(arrival)

    await user.say(room.id, "before")
    await peer.event("what was said before", content={"msgtype": "m.text", "body": "before"}, room_id=room.id)
    came = len(peer.came("send"))
    with peer.answering(send=held):
        for start in range(0, 60, 12):
            saying = [Deferred.fromCoroutine(user.say(room.id, f"n{number}")) for number in range(start, start + 12)]
            said = await gatherResults(saying, consumeErrors=True)
        await peer.until("transaction", lambda: len(peer.came("send")) > came)
        await deferLater(s.suite.reactor, 0.2, lambda: None)
        waiting = peer.came("send")[came:]
        gate.callback(None)
    expect_equal(1, len({one.segments[0] for one in waiting}), "number of transactions in flight")
    await peer.until(
        "last of 60 messages", lambda: {*said} <= {event_id(pdu, room.version) for pdu in peer.pdus}, seconds=30
    )
    expect(peer.largest[0] <= 50, f"a transaction had {peer.largest[0]} events")
    mine = [pdu for pdu in peer.pdus if pdu["room_id"] == room.id]
    for before, after in pairwise(mine):
        expect_equal([event_id(before, room.version)], after["prev_events"], "what an event follows")


@case("api-send-txn/retries")
async def retries(s: Stage) -> None:
    """A transaction that is not answered with 200 is made again: the same ID, the same body."""
    peer, room = s.fresh("failing"), await s.room()
    user, _ = await s.own_room(room), await room.join(peer=peer)
    failures: list[Arrival] = []

    async def failing(arrival: Arrival) -> Reply:
        failures.append(arrival)
        if len(failures) == 1:
            return 500, {"errcode": "M_UNKNOWN", "error": "not now"}
        return await peer.take(arrival)

    with peer.answering(send=failing):
        said = await user.say(room.id, "again and again")
        await peer.until(
            "second try",
            lambda: any(event_id(pdu, room.version) == said for pdu in peer.pdus) and len(failures) > 1,
            seconds=20,
        )
    expect_equal(failures[0].segments, failures[1].segments, "the transaction ID of the second try")
    expect_equal(failures[0].body, failures[1].body, "the body of the second try")


@case("requests-responses/content-type-of-requests", "resolve-domain/host-header")
async def headers_of_the_targets_requests(s: Stage) -> None:
    """The target's own requests name the type of their body, and the server that they are for."""
    room = await s.room()
    member = await room.join()
    await room.accepted(room.message(member))
    for arrival in s.peer.came("send"):
        types = [one.partition(";")[0] for one in arrival.headers.get("content-type", ())]
        expect_equal(["application/json"], types, "Content-Type of a transaction")
        hosts = list(arrival.headers.get("host", ()))
        if ":" in s.peer.server_name:
            expect_equal([s.peer.server_name], hosts, "Host of a transaction")


@case("transport-auth/header-for-each-key")
async def headers_for_all_keys(s: Stage) -> None:
    """The target's own requests have an Authorization header for each of its active keys."""
    keys = (await s.plain("GET", "/_matrix/key/v2/server")).json["verify_keys"]
    room = await s.room()
    member = await room.join()
    await room.accepted(room.message(member))
    for arrival in s.peer.came("send")[-3:]:
        headers = arrival.headers.get("authorization", ())
        expect_equal(len(keys), len(headers), "number of Authorization headers")


@case("transport-auth/what-is-signed", "api-send-txn/one-at-a-time", "transport-auth/destination-matches", last=True)
async def all_that_came(s: Stage) -> None:
    """All requests that the target made in this run were properly signed, and no two transactions overlapped."""
    peers = s.suite.peers()
    if not any(peer.arrivals for peer in peers):
        raise NotApplicable("the target made no requests")
    complaints = [one for peer in peers for one in peer.complaints]
    expect(not complaints, f"{len(complaints)} requests: {complaints[:3]}")
    overlaps = [one for peer in peers for one in peer.overlaps]
    expect(not overlaps, f"{len(overlaps)} transactions: {overlaps[:3]}")


@case("api-send-txn/at-most-50-pdus", "api-send-txn/at-most-100-edus", last=True)
async def sizes_of_all_that_came(s: Stage) -> None:
    """No transaction that the target made in this run had more than 50 events or 100 EDUs."""
    for peer in s.suite.peers():
        pdus, edus = peer.largest
        expect(pdus <= 50 and edus <= 100, f"a transaction had {pdus} events, one had {edus} EDUs")
