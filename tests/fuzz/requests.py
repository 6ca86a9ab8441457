"""Requests to the server under test: one for each of its routes, nearly right.

Owns: :class:`Call` and :func:`calls`. The routes come from the server itself, so that a new endpoint is fuzzed without
anybody thinking of it; what a good body of the known ones looks like is said here.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import attrs
from hypothesis import strategies as st

from lmatrix.canonical_json import encode
from lmatrix.config import Resource
from lmatrix.errors import LMatrixError
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from lmatrix.http.routes import Route
from tests.devices.builders import KEY_PACKAGE, Device
from tests.fuzz.events import lpdus, pdus, signed_again
from tests.fuzz.values import mutated, plain, text_of
from tests.fuzz.world import (
    ADMIN_TOKEN,
    ALICE,
    ALICES_DEVICE,
    BOB,
    BOBS_DEVICE,
    CARL,
    DORA,
    NOBODY,
    NORTH,
    PASSWORD,
    TOKENS,
    US,
    ZOE,
    World,
)

JsonObject = dict[str, Any]

HEAVY = frozenset({"send", "invite", "send_join", "hub_offer", "create_room", "put_state", "keys_upload", "sync"})
"""The endpoints behind which there is most, which come more often than the others."""

_ODD_SEGMENTS = ("", " ", "%", "%zz", "%00", "%ff", "%2F", "a" * 300, "é", "..", "!x:y", "@x:y", "$x", "#a:us.example")
_QUERY_NAMES = (
    *("ver", "v", "limit", "event_id", "minimum_valid_until_ts", "from", "to", "dir", "since", "timeout", "filter"),
    *("via", "server_name", "full_state", "set_presence", "kind", "username", "at", "membership", "not_membership"),
    *("format", "access_token", "key_id"),
)
_FEDERATION_QUERY: dict[str, tuple[str, ...]] = {
    "make_join": ("ver",),
    "make_knock": ("ver",),
    "state": ("event_id",),
    "state_ids": ("event_id",),
    "backfill": ("v", "limit"),
}


@attrs.frozen
class Call:
    """A request as it goes out.

    Attributes:
        route: the endpoint that it is meant for; ``None`` for none.
        content: what its body says, where that is JSON.
    """

    resource: Resource | None
    route: Route | None
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    content: Any = None

    def wire(self) -> bytes:
        """It as HTTP/1.1."""
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: {US}\r\nContent-Length: {len(self.body)}\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return (head + fields + "\r\n").encode("latin-1", "replace") + self.body


@st.composite
def calls(draw: st.DrawFn, world: World, resources: tuple[Resource, ...]) -> Call:
    """A request to one of the routes of some resources."""
    tables = world.us.server.listeners._tables
    routes = [(resource, route) for resource in resources for route in tables[resource].routes]
    heavy = [entry for entry in routes if entry[1].name in HEAVY]
    if heavy and draw(st.booleans()):
        routes = heavy
    resource, route = routes[draw(st.integers(0, len(routes) - 1))]
    path = "/".join(
        _segment(draw, world, part[1:-1]) if part.startswith("{") else part for part in route.path.split("/")
    )
    query = _query(draw, world, route)
    target = path + ("?" + query if query else "")
    content = _body(draw, world, resource, route)
    if content is None:
        body = draw(st.sampled_from((b"{}", b"[]", b"\xff", b"null"))) if rarely(draw, 12) else b""
    else:
        if draw(st.integers(0, 2)):
            content = draw(mutated(content, words(world)))
        if resource is Resource.FEDERATION and not rarely(draw, 4):
            with suppress(ValueError, RecursionError):
                content = signed_again(plain(content), world.north.key)
        body = text_of(content)
    method = draw(st.sampled_from(("GET", "POST", "PUT", "DELETE", "X"))) if rarely(draw, 25) else route.method
    headers = _headers(draw, world, resource, method, target, body)
    return Call(resource, route, method, target, headers, body, content)


def rarely(draw: st.DrawFn, times: int) -> bool:
    """True once in so many times; the simplest example has it false."""
    return draw(st.integers(0, times - 1)) == times - 1


def words(world: World) -> list[Any]:
    """Names that mean something here."""
    stage = world.stage
    assert stage is not None
    return [
        *(ALICE, ZOE, BOB, CARL, DORA, "@nobody:us.example", "@x:nobody.example", US, NORTH, NOBODY),
        *stage.rooms.values(),
        *(events[-1] for events in stage.events.values()),
        *(events[0] for events in stage.events.values()),
        *("I.1", "org.matrix.i-d.ralston-mimi-linearized-matrix.02", "10"),
        *("m.room.member", "m.room.create", "m.room.power_levels", "m.room.hub", "join", "leave", "ban", "invite"),
        *(ALICES_DEVICE, BOBS_DEVICE, KEY_PACKAGE, 50, 100, 2**53 - 1),
    ]


def _segment(draw: st.DrawFn, world: World, name: str) -> str:
    stage = world.stage
    assert stage is not None
    pools: dict[str, tuple[str, ...]] = {
        "roomId": tuple(stage.rooms.values()),
        "roomIdOrAlias": (*stage.rooms.values(), "#alias:us.example", "#alias:north.example"),
        "userId": (ALICE, ZOE, BOB, CARL, DORA, "@new:us.example", "@new:nobody.example"),
        "eventId": tuple(one for events in stage.events.values() for one in (events[0], events[-2], events[-1])),
        "deviceId": (ALICES_DEVICE, BOBS_DEVICE, "NONE"),
        "serverName": (US, NORTH, NOBODY, "localhost", "127.0.0.1"),
        "eventType": ("m.room.message", "m.room.topic", "m.room.member", "m.room.power_levels", "m.room.hub"),
        "stateKey": ("", ALICE, BOB, CARL, "x"),
        "receiptType": ("m.read", "m.read.private", "m.fully_read"),
        "filterId": ("0", "1", "-1", "99999999999999999999"),
        "txnId": ("1", "2", "3"),
    }
    if rarely(draw, 12):
        return draw(st.one_of(st.sampled_from(_ODD_SEGMENTS), st.text(max_size=10).map(lambda text: quote(text, ""))))
    return quote(draw(st.sampled_from(pools.get(name, (ALICE, "x")))), safe="")


def _query(draw: st.DrawFn, world: World, route: Route) -> str:
    names = list(_FEDERATION_QUERY.get(route.name, ())) if not rarely(draw, 12) else []
    if rarely(draw, 6):
        names += draw(st.lists(st.sampled_from(_QUERY_NAMES), max_size=3))
    stage = world.stage
    assert stage is not None
    parts = []
    for name in names:
        good = {
            "ver": ("I.1", "org.matrix.i-d.ralston-mimi-linearized-matrix.02"),
            "limit": ("1", "10", "100"),
            "v": tuple(events[-1] for events in stage.events.values()),
            "event_id": tuple(events[-1] for events in stage.events.values()),
            "timeout": ("0", "30000"),
            "since": ("s1", "s5_d1", "s999999"),
            "from": ("s1", "p1", "p5", "0"),
            "dir": ("b", "f"),
            "filter": ('{"room":{"timeline":{"limit":1}}}', "0", "{"),
            "via": (NORTH, NOBODY),
        }.get(name, ("1",))
        odd = ("", "-1", "99999999999999999999", "1.5", "x", "%00", "%ff", "%F0%9F%98%80", "[]", "null", "²")
        value = draw(st.sampled_from(odd if rarely(draw, 8) else good))
        parts.append(f"{name}={value if value.startswith('%') else quote(value, safe='')}")
    return "&".join(parts)


def _body(draw: st.DrawFn, world: World, resource: Resource, route: Route) -> Any:
    if route.method in ("GET", "DELETE"):
        return None
    stage = world.stage
    assert stage is not None
    lpdu, pdu = draw(lpdus(world)), draw(pdus(world))
    event = draw(st.sampled_from((lpdu, pdu)))
    room, now_ms = stage.rooms, int(world.clock.seconds() * 1000)
    if resource is Resource.FEDERATION:
        known: dict[str, Any] = {
            "send": {
                "pdus": [event, *draw(st.lists(st.sampled_from((lpdu, pdu)), max_size=2))],
                "edus": draw(st.lists(_edus(world), max_size=2)),
            },
            "invite": {
                "event": _as_member(event, "invite"),
                "room_version": draw(st.sampled_from(("I.1", "org.matrix.i-d.ralston-mimi-linearized-matrix.02"))),
                "invite_room_state": [
                    {"type": "m.room.create", "sender": BOB, "state_key": "", "content": {"room_version": "I.1"}}
                ],
            },
            "claim_keys": {"one_time_keys": {ALICE: {ALICES_DEVICE: KEY_PACKAGE}}},
            "hub_offer": {
                "room_id": room["north"],
                "room_version": "I.1",
                "head": stage.events["north"][-1],
                "valid_until_ts": now_ms + 30_000,
            },
            "hub_request": {"room_id": room["hub"], "user_id": BOB},
        }
        if route.name.startswith("send_"):
            return _as_member(lpdu, route.name.removeprefix("send_"))
        return known.get(route.name, {})
    if resource is Resource.KEYS:
        return {"server_keys": {NORTH: {world.north.key.key_id: {"minimum_valid_until_ts": now_ms}}, US: {}}}
    if resource is Resource.ADMIN:
        return {"to": NORTH, "server": NORTH}
    return _client_body(draw, world, route, lpdu)


def _client_body(draw: st.DrawFn, world: World, route: Route, lpdu: JsonObject) -> Any:
    device = Device(ALICE, ALICES_DEVICE)
    packages = device.keys(device.key_package(1), device.last_resort(2))
    password = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    known: dict[str, Any] = {
        "register": {"username": "new", "password": "secret", "auth": {"type": "m.login.dummy"}},
        "login": password,
        "put_filter": {"room": {"timeline": {"limit": 5, "types": ["m.*"]}, "rooms": []}, "event_fields": ["content"]},
        "create_room": {
            "preset": "public_chat",
            "name": "x",
            "topic": "y",
            "room_version": "I.1",
            "invite": [BOB, ZOE, "@x:nobody.example"],
            "initial_state": [{"type": "m.room.name", "state_key": "", "content": {"name": "z"}}],
            "creation_content": {"m.federate": True},
            "power_level_content_override": {"users": {ALICE: 100}},
            "is_direct": True,
        },
        **{name: {"user_id": BOB, "reason": "x"} for name in ("invite", "kick", "ban", "unban")},
        **{name: {"reason": "x", "via": [NORTH]} for name in ("join", "knock", "leave")},
        "keys_upload": {
            "device_keys": device.signed(device.fields()),
            "one_time_keys": dict(list(packages.items())[:1]),
            "fallback_keys": dict(list(packages.items())[1:]),
        },
        "keys_query": {"device_keys": {ALICE: [], BOB: [BOBS_DEVICE]}, "timeout": 1000},
        "keys_claim": {"one_time_keys": {ALICE: {ALICES_DEVICE: KEY_PACKAGE}, BOB: {BOBS_DEVICE: KEY_PACKAGE}}},
        "send_to_device": {"messages": {ALICE: {"*": {"a": 1}}, BOB: {BOBS_DEVICE: {"a": 1}}}},
        "rename_device": {"display_name": "x"},
        "delete_device": {"auth": password},
        "delete_devices": {"devices": [ALICES_DEVICE], "auth": password},
        "typing": {"typing": True, "timeout": 1000},
        "read_markers": {"m.fully_read": "$x", "m.read": "$x"},
        "put_state": lpdu["content"],
        "send": lpdu["content"],
    }
    return known.get(route.name, {})


def _as_member(event: JsonObject, membership: str) -> JsonObject:
    target = ALICE if membership == "invite" else event["sender"]
    return {**event, "type": "m.room.member", "state_key": target, "content": {"membership": membership}}


@st.composite
def _edus(draw: st.DrawFn, world: World) -> JsonObject:
    kind = draw(st.sampled_from(("m.direct_to_device", "m.device_list_update", "m.typing", "m.receipt", "x")))
    device = Device(BOB, BOBS_DEVICE)
    assert world.stage is not None
    content: dict[str, Any] = {
        "m.direct_to_device": {
            "target": ALICE,
            "target_device": ALICES_DEVICE,
            "message_type": "m.room.encrypted",
            "message": {"ciphertext": b64encode(b"x" * 30).decode()},
        },
        "m.device_list_update": {"changed": [device.signed(device.fields())], "removed": ["OLD"]},
        "m.typing": {"room_id": world.stage.rooms["hub"], "user_id": BOB, "typing": True},
        "m.receipt": {
            world.stage.rooms["hub"]: {
                "m.read": {BOB: {"event_ids": [world.stage.events["hub"][-1]], "data": {"ts": 1}}}
            }
        },
    }
    edu = {"type": kind, "sender": BOB, "sender_id": BOB, "content": content.get(kind, {})}
    return draw(mutated(edu, words(world), most=2))


def _headers(
    draw: st.DrawFn, world: World, resource: Resource, method: str, target: str, body: bytes
) -> tuple[tuple[str, str], ...]:
    if rarely(draw, 15):
        return tuple(draw(st.lists(st.tuples(st.sampled_from(_HEADER_NAMES), _header_values), max_size=3)))
    if rarely(draw, 25):
        return ()
    if resource is Resource.CLIENT:
        return (("Authorization", f"Bearer {TOKENS[draw(st.sampled_from((ALICE, ALICE, ZOE)))]}"),)
    if resource is Resource.ADMIN:
        return (("Authorization", f"Bearer {ADMIN_TOKEN}"),)
    if resource is Resource.FEDERATION:
        return (("Authorization", authorization(world, method, target, body)),)
    return ()


_HEADER_NAMES = ("Authorization", "Content-Type", "Expect", "X-Forwarded-For", "Accept-Encoding", "Content-Encoding")
_header_values = st.one_of(
    st.sampled_from(
        (
            "X-Matrix",
            "X-Matrix origin=",
            'X-Matrix origin="north.example",destination="us.example",key="ed25519:first",sig="AAAA"',
            'X-Matrix origin="north.example',
            "X-Matrix ,,,===",
            "x-matrix origin=north.example,destination=us.example,key=ed25519:first,sig=é",
            'X-Matrix origin="' + "\\\\" * 500,
            "Bearer ",
            "Bearer \xff",
            "Basic x",
            "100-continue",
        )
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=40),
)


def authorization(world: World, method: str, target: str, body: bytes) -> str:
    """The header with which the north vouches for a request, whatever its body is."""
    try:
        message = request_signing_bytes(method, target, NORTH, US, body or b"{}")
    except (LMatrixError, ValueError):
        message = encode({"method": method})
    key = world.north.key
    return format_authorization(XMatrix(NORTH, US, key.key_id, key.sign(message)))
