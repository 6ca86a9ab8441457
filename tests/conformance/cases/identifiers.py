"""Server names, room IDs, user IDs and device IDs (I-D "Architecture")."""

from __future__ import annotations

import ipaddress
import re

from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import NotApplicable, expect, expect_answer, expect_error
from tests.end_to_end.wire_events import I1, event_id

LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
IMPROPER = ("bad name", "under_score.example", "a/b", "a.example:123456", "", "ü.example", "a.example:port")
LOCAL = ("localhost", "localhost.localdomain")


def _host(s: Stage) -> tuple[str, str]:
    host, _, port = s.target.partition(":")
    return host, port


@case("server-names/grammar")
async def own_name(s: Stage) -> None:
    """The target's name is a host name."""
    host, port = _host(s)
    expect(all(LABEL.fullmatch(label) for label in host.split(".")), f"{host} is not a host name")
    expect(":" not in s.target or re.fullmatch(r"[0-9]{1,5}", port), f"{port} is not a port")


@case("server-names/grammar", "server-names/improper-is-uncontactable", "pdu/sender", seconds=40)
async def improper_names(s: Stage) -> None:
    """Senders of servers with improper names send nothing, and users of such servers are not invited."""
    room = await s.room()
    member = await room.join()
    lpdus = [room.lpdu(f"@bob:{name}", "m.room.message", {"body": name}) for name in IMPROPER]
    await room.ignored(member, *lpdus)
    for name in IMPROPER[:4]:
        content = {"event": room.member(member, "invite", f"@bob:{name}"), "room_version": room.version}
        answer = await s.request("POST", s.endpoint("invite", s.transaction_id()), content)
        expect(answer.status != 200 and answer.errcode, f"an invite to {name!r}: {answer.status} {answer.body[:200]!r}")


@case("server-names/no-ip-literal")
async def own_name_is_no_address(s: Stage) -> None:
    """The target's name is not an IP address."""
    host, _ = _host(s)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        expect(not s.target.startswith("["), f"{s.target} is an IPv6 address")
        return
    expect(False, f"{s.target} is an IPv4 address")


@case("server-names/no-port")
async def own_name_without_port(s: Stage) -> None:
    """The target's name has no port."""
    host, port = _host(s)
    if host in LOCAL:
        raise NotApplicable("a server on loopback is found by its port")
    expect(not port, f"{s.target} has a port")


@case("server-names/lower-case", "server-names/at-most-230")
async def own_name_in_lower_case(s: Stage) -> None:
    """The target's name is in lower case, and not too long."""
    expect(s.target == s.target.lower(), f"{s.target} is not in lower case")
    expect(len(s.target) <= 230, f"{s.target} has {len(s.target)} characters")


@case("room-id/grammar", "room-id/at-most-255")
async def own_room_ids(s: Stage) -> None:
    """A room that the target makes has an ID by the grammar."""
    room = await s.room()
    expect(re.fullmatch(r"![A-Za-z0-9.~_-]+:[A-Za-z0-9.:-]+", room.id), f"{room.id} is not a room ID")
    expect(len(room.id.encode()) <= 255, f"{room.id} is too long")


@case("room-id/grammar", "room-id/at-most-255", "pdu/room-id", "api-send-txn/unknown-room")
async def bad_room_ids(s: Stage) -> None:
    """Room IDs that are none, or too long, are refused wherever they stand."""
    user_id = s.peer.identity.user("somebody")
    too_long = f"!{'a' * 256}:{s.target}"
    for room_id in (too_long, "room", f"#room:{s.target}", "!room", f"!:{s.target}", f"!a b:{s.target}", "!a:b c"):
        answer = await s.get(s.endpoint("make_join", room_id, user_id, query=[("ver", I1)]))
        expect_error(answer, f"make_join of {room_id[:60]!r}")
        lpdu = s.peer.client.message(room_id, user_id, "x", hub_server=s.target)
        failed = (await s.send(lpdu)).get("failed_pdus", {})
        expect(failed, f"an event of the room {room_id[:60]!r} was not rejected")


@case("room-id/case-sensitive")
async def case_of_room_ids(s: Stage) -> None:
    """A room ID in other case is another room, which is unknown."""
    room = await s.room()
    opaque, _, server = room.id.partition(":")
    other = f"{opaque.swapcase()}:{server}"
    if other == room.id:
        raise NotApplicable("the room ID has no letters")
    answer = await s.get(s.endpoint("make_join", other, s.peer.identity.user("x"), query=[("ver", room.version)]))
    expect_answer(answer, 404, "M_NOT_FOUND")


@case("room-id/opaque", "room-versions/opaque-identifiers")
async def opaque_room_ids(s: Stage) -> None:
    """A room with an ID as odd as the grammar allows can be taken part in."""
    hub, user = await s.participating(label="A-b.C~d_0..")
    event = await hub.say("m.room.message", {"body": "hello"})
    expect(await s.shown(user, hub.room_id, hub.id(event)), "an event of the room is not shown")


@case("room-versions/implements-i1")
async def implements_i1(s: Stage) -> None:
    """A user of another server can join a room of version I.1, and talk in it."""
    if s.version != I1:
        raise NotApplicable("this run is about another room version")
    room = await s.room()
    member = await room.join()
    await room.accepted(room.message(member))


@case("room-versions/creates-i1")
async def creates_i1(s: Stage) -> None:
    """A room whose creator names no version is of version I.1."""
    user = await s.operator.user()
    room_id = await user.create_room(preset="public_chat")
    state = await user.state(room_id)
    found = state["m.room.create", ""].get("room_version")
    expect(found == I1, f"it is of version {found}")


@case("user-id/at-most-255", "user-id/no-uppercase", "pdu/sender")
async def bad_user_ids(s: Stage) -> None:
    """User IDs that are none, are too long, or have uppercase letters are refused."""
    room = await s.room()
    member, name = await room.join(), s.peer.server_name
    bad = ("alice", "@alice", f"@:{name}", f"@Alice:{name}", f"@a b:{name}", f"@{'a' * 256}:{name}", f"@ü:{name}")
    for user_id in bad:
        answer = await s.get(s.endpoint("make_join", room.id, user_id, query=[("ver", room.version)]))
        expect_error(answer, f"make_join for {user_id[:40]!r}")
    lpdus = [room.member(user_id, "join") for user_id in bad]
    await room.ignored(member, *lpdus)


@case("user-id/case-sensitive")
async def case_of_user_ids(s: Stage) -> None:
    """A user whose ID differs in case from a member's is no member."""
    room = await s.room()
    member = await room.join()
    localpart, _, server = member.partition(":")
    other = f"{localpart}:{server.swapcase()}"
    if other == member:
        raise NotApplicable("the suite's server name has no letters")
    await room.ignored(member, room.message(other))


@case("device-id/grammar")
async def bad_device_ids(s: Stage) -> None:
    """Devices with IDs that no device can have are not found."""
    user_id = f"@somebody:{s.target}"
    for device_id in ("a-b", "a b", "ü", "a:b", "x" * 300):
        answer = await s.get(s.endpoint("user", user_id, "device", device_id))
        expect_error(answer, f"the device {device_id[:20]!r}")


@case("pdu/event-id-is-reference-hash", "reference-hashes/reference-hash")
async def event_ids(s: Stage) -> None:
    """An event is found under the ID that is calculated from it; its ID is made of URL-safe characters."""
    room = await s.room()
    member = await room.join()
    pdu = await room.accepted(room.message(member))
    found = expect_answer(await s.get(s.endpoint("event", event_id(pdu, room.version))), 200)
    expect(event_id(found, room.version) == event_id(pdu, room.version), "another event is found")
    for bad in ("nothing", "$", "$a+b/c", "$" + "a" * 300):
        expect_error(await s.get(s.endpoint("event", bad)), f"the event {bad[:20]!r}")
