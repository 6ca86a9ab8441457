"""What goes between servers beside rooms: EDUs, devices, one-time keys (I-D "Ephemeral Data Units (EDUs)", "MLS")."""

from __future__ import annotations

import json
import time
from random import Random
from urllib.parse import quote

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.conformance.mls import KEY_PACKAGE, Device, key_id
from tests.conformance.peer import Arrival, Peer, Reply
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import Failed, NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.wire_events import JsonObject

DAY = 24 * 60 * 60


async def _device(s: Stage, user: ClientUser) -> Device:
    """The device with which a user of the target is logged in."""
    answer = await user.request("GET", "/account/whoami")
    if answer.status != 200 or "device_id" not in answer.json:
        raise NotTested("the target's client API does not say which device it is")
    return Device(user.user_id, answer.json["device_id"], Random(f"{s.suite.run}{s.suite.number()}"))


async def _upload(user: ClientUser, **content: object) -> Answer:
    answer = await user.request("POST", "/keys/upload", content)
    if answer.errcode == "M_UNRECOGNIZED":
        raise NotTested("the target's client API takes no keys")
    return answer


async def _published(s: Stage, user: ClientUser) -> Device:
    """A device of a user of the target, whose device object the target has."""
    device = await _device(s, user)
    expect_answer(await _upload(user, device_keys=device.object()), 200)
    return device


async def _fresh_user(s: Stage) -> ClientUser:
    """The target's first user, logged in with a device that nobody has seen."""
    user = await s.operator.user()
    other = ClientUser(user.base_url, s.suite.http)
    localpart = user.user_id[1:].partition(":")[0]
    content = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": localpart},
        "password": s.operator.password_of(user),
    }
    answer = await other.call("POST", "/login", content)
    other.user_id, other.token = answer["user_id"], answer["access_token"]
    return other


def _packages(device: Device, count: int, *, last_resort: bool = False) -> dict[str, str]:
    now = int(time.time())
    made = [device.key_package(not_before=now - 60, not_after=now + DAY, last_resort=last_resort) for _ in range(count)]
    return {key_id(package): package for package in made}


# -- EDUs and to-device messages --------------------------------------------------------------------------------------


def _to_device(sender: str, target: str, device_id: str, message: JsonObject) -> JsonObject:
    return {
        "type": "m.direct_to_device",
        "sender": sender,
        "content": {
            "target": target,
            "target_device": device_id,
            "message_type": "m.room.encrypted",
            "message": message,
        },
    }


async def _received(user: ClientUser, since: str | None = None) -> tuple[list[JsonObject], str]:
    query = f"?since={quote(since)}" if since else ""
    answer = await user.call("GET", f"/sync{query}")
    return answer.get("to_device", {}).get("events", []), answer["next_batch"]


async def _until_received(s: Stage, user: ClientUser, since: str, wanted: JsonObject) -> list[JsonObject]:
    """What comes down to a user's device up to a message with some content, itself included."""
    events: list[JsonObject] = []
    for _ in range(100):
        more, since = await _received(user, since)
        events += more
        if any(event["content"] == wanted for event in events):
            return events
        await deferLater(s.suite.reactor, 0.05, lambda: None)
    raise Failed(f"the message did not come: {wanted}")


@case("transport-edus/straight-to-the-server", "transport-to-device/to-the-targets-server")
async def messages_from_the_target(s: Stage) -> None:
    """A message for a device of another server's user goes to that server, and not to the hub of a room of both."""
    hub, user = await s.participating()
    other = s.second
    member = other.identity.user(f"member{s.suite.number()}")
    joined = other.client.member(hub.room_id, member, "join", hub_server=s.peer.server_name, version=hub.version)
    await hub.push(hub.append(hub.complete(joined)))
    path = f"/sendToDevice/m.room.encrypted/{s.transaction_id()}"
    answer = await user.request("PUT", path, {"messages": {member: {"DEVICE": {"hello": member}}}})
    if answer.errcode == "M_UNRECOGNIZED":
        raise NotTested("the target's client API has no messages for devices")
    expect_answer(answer, 200)

    def found(peer: Peer) -> list[JsonObject]:
        return [edu for edu in peer.edus if edu.get("content", {}).get("message") == {"hello": member}]

    await other.until("EDU", lambda: found(other))
    [edu] = found(other)
    expect_equal("m.direct_to_device", edu.get("type"), "type")
    expect_equal(user.user_id, edu.get("sender"), "sender")
    for name, wanted in (("target", member), ("target_device", "DEVICE"), ("message_type", "m.room.encrypted")):
        expect_equal(wanted, edu["content"].get(name), name)
    expect(not found(s.peer), "the hub was sent it as well")


@case("transport-to-device/delivered")
async def messages_for_the_target(s: Stage) -> None:
    """A message for a device of the target's user comes down to it, and says who sent it."""
    user = await s.operator.user()
    device = await _device(s, user)
    sender = s.peer.identity.user("sender")
    message = {"algorithm": "m.mls.v1.welcome.x", "number": s.suite.number()}
    _, since = await _received(user)
    await s.send(edus=[_to_device(sender, user.user_id, device.device_id, message)])
    events = await _until_received(s, user, since, message)
    found = [event for event in events if event["content"] == message]
    expect_equal(1, len(found), "number of messages")
    expect_equal((sender, "m.room.encrypted"), (found[0]["sender"], found[0]["type"]), "sender and type")


@case("transport-to-device/unknown-target-dropped")
async def messages_for_nobody(s: Stage) -> None:
    """Messages for users and devices that do not exist, and EDUs of other servers' users, are dropped."""
    user = await s.operator.user()
    device = await _device(s, user)
    sender, message = s.peer.identity.user("sender"), {"dropped": s.suite.number()}
    _, since = await _received(user)
    await s.send(
        edus=[
            _to_device(sender, f"@nobody-{s.suite.run}:{s.target}", device.device_id, message),
            _to_device(sender, user.user_id, "NODEVICE", message),
            _to_device(sender, s.second.identity.user("x"), device.device_id, message),
            _to_device(s.second.identity.user("x"), user.user_id, device.device_id, message),
            {"type": "m.direct_to_device", "sender": sender, "content": {}},
            {"type": "m.direct_to_device"},
            {"type": "org.example.unknown", "sender": sender, "content": {"a": 1}},
            {},
        ]
    )
    good = {"good": s.suite.number()}
    await s.send(edus=[_to_device(sender, user.user_id, device.device_id, good)])
    events = await _until_received(s, user, since, good)
    expect(not [event for event in events if event["content"] == message], "one that is for nobody came")


@case("txn-ids/same-answer", "api-send-txn/not-twice")
async def messages_in_a_transaction_that_comes_again(s: Stage) -> None:
    """A transaction that is repeated delivers its messages once."""
    user = await s.operator.user()
    device, sender = await _device(s, user), s.peer.identity.user("sender")
    once, after = {"once": s.suite.number()}, {"after": s.suite.number()}
    _, since = await _received(user)
    target = s.endpoint("send", s.transaction_id())
    content = {"pdus": [], "edus": [_to_device(sender, user.user_id, device.device_id, once)]}
    for _ in range(3):
        expect_answer(await s.request("PUT", target, content), 200)
    await s.send(edus=[_to_device(sender, user.user_id, device.device_id, after)])
    found = await _until_received(s, user, since, after)
    expect_equal(1, sum(event["content"] == once for event in found), "how often the message came")


# -- Devices ----------------------------------------------------------------------------------------------------------


@case("api-get-device/device-object")
async def device_of_the_target(s: Stage) -> None:
    """The object that a device has signed can be had, as it is."""
    user = await _fresh_user(s)
    device = await _device(s, user)
    published = device.object()
    expect_answer(await _upload(user, device_keys=published), 200)
    answer = await s.get(s.endpoint("user", user.user_id, "device", device.device_id))
    expect_equal(published, expect_answer(answer, 200), "the device object")


@case("api-get-device/404")
async def devices_that_are_not(s: Stage) -> None:
    """Another server's user, an unknown user and an unknown device: 404 M_NOT_FOUND."""
    user = await s.operator.user()
    for user_id in (s.peer.identity.user("somebody"), f"@nobody-{s.suite.run}:{s.target}", user.user_id):
        answer = await s.get(s.endpoint("user", user_id, "device", "NODEVICE"))
        expect_answer(answer, 404, "M_NOT_FOUND")


@case(
    "mls-credentials/all-fields",
    "mls-credentials/every-key-signs",
    "mls-credentials/credential-key",
)
async def invalid_devices_are_not_taken(s: Stage) -> None:
    """A device object that lacks a field, a key's signature, or the credential of its algorithm is not published."""
    user = await _fresh_user(s)
    device = await _device(s, user)
    good = device.object()
    for what, bad in _invalid(device, good).items():
        await _upload(user, device_keys=bad)
        answer = await s.get(s.endpoint("user", user.user_id, "device", device.device_id))
        expect(answer.status == 404, f"{what}: the device is published: {answer.status} {answer.body[:200]!r}")
    expect_answer(await _upload(user, device_keys=good), 200)


def _invalid(device: Device, good: JsonObject) -> dict[str, JsonObject]:
    plain = {f"ed25519:{device.device_id}": "A" * 43, **good["keys"]}
    return {
        **{f"no {name}": {key: value for key, value in good.items() if key != name} for name in good},
        "no signatures in it": {**good, "signatures": {}},
        "no signature of the user": {**good, "signatures": {device.user_id: {}}},
        "changed after signing": {**good, "algorithms": [*good["algorithms"], "org.example"]},
        "a key that has not signed": device.object(keys=plain),
        "no credential": device.object(keys={f"org.example:{device.device_id}": "x"}),
        "another user's": {**good, "user_id": f"@x{device.user_id[1:]}"},
    }


@case("transport-devices/updates-are-sent")
async def updates_of_the_target(s: Stage) -> None:
    """When a device of the target's user comes, and when it goes, servers that share a room are told."""
    room = await s.room()
    await room.join()
    user = await _fresh_user(s)
    device = await _published(s, user)

    def updates() -> list[JsonObject]:
        return [
            edu
            for edu in s.peer.edus
            if edu.get("type") == "m.device_list_update" and user.user_id in (edu.get("sender_id"), edu.get("sender"))
        ]

    def changed() -> list[JsonObject]:
        return [
            one
            for edu in updates()
            for one in edu["content"].get("changed", [])
            if one["device_id"] == device.device_id
        ]

    await s.peer.until("m.device_list_update with the device", changed)
    expect_equal(device.object(), changed()[-1], "the device object")
    await user.call("POST", "/logout", {})
    await s.peer.until(
        "m.device_list_update without it",
        lambda: any(device.device_id in edu["content"].get("removed", []) for edu in updates()),
    )


@case("transport-devices/updates-are-taken", "mls-credentials/every-key-signs")
async def updates_for_the_target(s: Stage) -> None:
    """What a server says of its user's devices is what the target's users get to see; invalid devices are not."""
    room = await s.room()
    user = await s.own_room(room)
    member = await room.join()
    rng = Random(f"{s.suite.run}{s.suite.number()}")
    good, bad = Device(member, "GOOD", rng), Device(member, "BAD", rng)
    objects = {"GOOD": good.object(), "BAD": {**bad.object(), "signatures": {member: {}}}}

    async def devices(arrival: Arrival) -> Reply:
        if arrival.segments[1:2] != ("device",):
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "the I-D has no such endpoint"}
        wanted = objects.get(arrival.segments[-1])
        return (404, {"errcode": "M_NOT_FOUND"}) if wanted is None else (200, wanted)

    content = {"changed": list(objects.values()), "removed": []}
    update = {"type": "m.device_list_update", "sender_id": member, "sender": member, "content": content}
    since = (await user.call("GET", "/sync"))["next_batch"]
    with s.peer.answering(user=devices):
        await s.send(edus=[update])
        told = False
        for _ in range(50):
            answer = await user.call("GET", f"/sync?since={quote(since)}")
            told = told or member in answer.get("device_lists", {}).get("changed", [])
            if told:
                break
            await deferLater(s.suite.reactor, 0.05, lambda: None)
        expect(told, "the target's user is not told")
        found = await user.call("POST", "/keys/query", {"device_keys": {member: ["GOOD"]}})
        known = found["device_keys"].get(member, {})
        expect("GOOD" in known, f"the device is not known: {json.dumps(found)[:300]}")
        expect_equal(objects["GOOD"]["keys"], known["GOOD"]["keys"], "keys of the device")
        found = await user.call("POST", "/keys/query", {"device_keys": {member: ["BAD"]}})
        expect("BAD" not in found["device_keys"].get(member, {}), "an invalid device is shown")
        gone = {**update, "content": {"changed": [], "removed": ["GOOD"]}}
        objects.pop("GOOD")
        await s.send(edus=[gone])
        found = await user.call("POST", "/keys/query", {"device_keys": {member: ["GOOD"]}})
        expect("GOOD" not in found["device_keys"].get(member, {}), "a device that was removed is shown")


# -- One-time keys ----------------------------------------------------------------------------------------------------


async def _claim(s: Stage, wanted: JsonObject) -> JsonObject:
    answer = await s.request("POST", s.endpoint("user", "keys", "claim"), {"one_time_keys": wanted})
    found = expect_answer(answer, 200).get("one_time_keys")
    expect(isinstance(found, dict), f"one_time_keys is not there: {answer.body[:200]!r}")
    assert isinstance(found, dict)
    return found


async def _claim_one(s: Stage, device: Device) -> str | None:
    found = await _claim(s, {device.user_id: {device.device_id: KEY_PACKAGE}})
    keys: dict[str, str] = found.get(device.user_id, {}).get(device.device_id, {})
    return next(iter(keys.values()), None)


@case("key-claim/request-one-time-keys")
async def claims_of_nothing(s: Stage) -> None:
    """A claim without one_time_keys, or with something else there, is 400 M_BAD_JSON."""
    contents: tuple[object, ...] = ({}, {"one_time_keys": []}, {"one_time_keys": None}, {"one_time_keys": {"@a:b": []}})
    for content in contents:
        answer = await s.request("POST", s.endpoint("user", "keys", "claim"), content)
        expect_answer(answer, 400, "M_BAD_JSON")


@case("key-claim/answer-one-time-keys", "key-claim/unknown-ignored")
async def claims_of_nobodys_keys(s: Stage) -> None:
    """Users and devices that do not exist, and other servers' users, are passed over; the answer is an empty map."""
    user = await s.operator.user()
    wanted = {
        s.peer.identity.user("somebody"): {"DEVICE": KEY_PACKAGE},
        f"@nobody-{s.suite.run}:{s.target}": {"DEVICE": KEY_PACKAGE},
        user.user_id: {"NODEVICE": KEY_PACKAGE},
    }
    found = await _claim(s, wanted)
    expect(not any(any(devices.values()) for devices in found.values()), f"keys of nobody: {found}")
    expect_equal({}, await _claim(s, {}), "one_time_keys")


@case("key-claim/answer-one-time-keys", "key-claim/never-twice")
async def claims(s: Stage) -> None:
    """Each key is given out once, under its algorithm; then there are none."""
    user = await _fresh_user(s)
    device = await _published(s, user)
    packages = _packages(device, 3)
    expect_answer(await _upload(user, one_time_keys=packages), 200)
    given = []
    for _ in packages:
        found = await _claim(s, {device.user_id: {device.device_id: KEY_PACKAGE}})
        keys = found[device.user_id][device.device_id]
        expect_equal([KEY_PACKAGE], list(keys), "names of the keys")
        given.append(keys[KEY_PACKAGE])
    expect_equal(sorted(packages.values()), sorted(given), "the keys that were given")
    expect_equal(None, await _claim_one(s, device), "a key when there is none left")


@case("key-claim/never-twice")
async def claims_at_once(s: Stage) -> None:
    """When many ask at the same time, no two get the same key, also when the client uploads it again."""
    user = await _fresh_user(s)
    device = await _published(s, user)
    packages = _packages(device, 10)
    expect_answer(await _upload(user, one_time_keys=packages), 200)
    claiming = [Deferred.fromCoroutine(_claim_one(s, device)) for _ in range(20)]
    given = [one for one in await gatherResults(claiming, consumeErrors=True) if one is not None]
    expect_equal(len(set(given)), len(given), "number of different keys")
    expect_equal(sorted(packages.values()), sorted(given), "the keys that were given")
    await _upload(user, one_time_keys=packages)
    expect_equal(None, await _claim_one(s, device), "a key that was given before, and uploaded again")


@case("key-claim/last-resort-last", "key-claim/never-twice")
async def claims_of_the_last_resort(s: Stage) -> None:
    """A key of last resort is given when no other is left, and then again and again."""
    user = await _fresh_user(s)
    device = await _published(s, user)
    ordinary, last = _packages(device, 2), _packages(device, 1, last_resort=True)
    expect_answer(await _upload(user, one_time_keys=ordinary, fallback_keys=last), 200)
    given = [await _claim_one(s, device) for _ in range(4)]
    expect_equal(sorted(ordinary.values()), sorted(one or "" for one in given[:2]), "the first keys")
    expect_equal([*last.values()] * 2, given[2:], "the keys after those")


@case("key-claim/not-expired")
async def claims_of_expired_keys(s: Stage) -> None:
    """A key that has expired since it was uploaded is not given."""
    user = await _fresh_user(s)
    device = await _published(s, user)
    now = int(time.time())
    short = device.key_package(not_before=now - 60, not_after=now + 1)
    answer = await _upload(user, one_time_keys={key_id(short): short})
    # Where all is slow, it may have expired on its way.
    expect(answer.status == 200 or time.time() > now + 1, f"a good key is refused: {answer.body[:200]!r}")
    await deferLater(s.suite.reactor, max(0.0, now + 2.1 - time.time()), lambda: None)
    expect_equal(None, await _claim_one(s, device), "a key that has expired")
    gone = device.key_package(not_before=now - 600, not_after=now - 300)
    await _upload(user, one_time_keys={key_id(gone): gone})
    expect_equal(None, await _claim_one(s, device), "a key that had expired before it was uploaded")
