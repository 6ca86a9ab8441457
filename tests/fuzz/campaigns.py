"""The campaigns: what is tried, one example at a time.

Owns: the campaigns, each a function of Hypothesis's data that raises when something is wrong, and :func:`run`. Without
a seed the examples are the same every time; with one they are other ones, and the same again for the same seed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, note
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from lmatrix.config import Resource
from lmatrix.errors import LMatrixError
from tests.fuzz.lies import lying_replies, lying_requests
from tests.fuzz.oracle import Watch, Wrong
from tests.fuzz.requests import Call, calls
from tests.fuzz.world import (
    ALICE,
    BOB,
    BOBS_DEVICE,
    CARL,
    DORA,
    NORTH,
    TOKENS,
    US,
    ZOE,
    World,
    the_stage,
)

Campaign = Callable[[st.DataObject], None]


def run(campaign: Campaign, examples: int, seed: int | None = None, *, simplify: bool = True) -> None:
    """Try so many examples.

    Raises:
        what the campaign raises for the simplest example that it could find; Hypothesis says how it came about, and by
        which ``@reproduce_failure`` it can be had again.
    """
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if simplify else (Phase.generate,),
    )
    test = settings(hypothesis.given(st.data())(campaign))
    (test if seed is None else hypothesis.seed(seed)(test))()


def _in_a_world(play: Callable[[st.DataObject, World, Watch], None]) -> Campaign:
    def campaign(data: st.DataObject) -> None:
        directory = Path(tempfile.mkdtemp(prefix="lmatrix-fuzz-"))
        try:
            world = World(the_stage(), directory)
            watch = Watch(world)
            try:
                play(data, world, watch)
            except BaseException:
                watch.close()
                raise
            watch.end()
        finally:
            shutil.rmtree(directory)

    campaign.__name__ = play.__name__
    campaign.__doc__ = play.__doc__
    return campaign


def _some_calls(data: st.DataObject, world: World, watch: Watch, *resources: Resource, most: int = 5) -> None:
    for _ in range(data.draw(st.integers(1, most), label="requests")):
        watch.play(data.draw(calls(world, resources)))


@_in_a_world
def servers(data: st.DataObject, world: World, watch: Watch) -> None:
    """Requests of another server, nearly all properly signed, to the federation and key endpoints."""
    _some_calls(data, world, watch, Resource.FEDERATION, Resource.FEDERATION, Resource.KEYS)


@_in_a_world
def clients(data: st.DataObject, world: World, watch: Watch) -> None:
    """Requests of local users; the other server answers well."""
    _some_calls(data, world, watch, Resource.CLIENT)


@_in_a_world
def operators(data: st.DataObject, world: World, watch: Watch) -> None:
    """Requests to the admin API, the metrics and the health check."""
    _some_calls(data, world, watch, Resource.ADMIN, Resource.METRICS, Resource.HEALTH, most=8)


@_in_a_world
def lying_servers(data: st.DataObject, world: World, watch: Watch) -> None:
    """What users and operators want, from a server that answers with lies."""
    lying_replies(data, world, honest=2)
    for _ in range(data.draw(st.integers(1, 4), label="wishes")):
        watch.play(data.draw(_wishes(world)))
        if data.draw(st.booleans(), label="whether time passes"):
            world.settle(data.draw(st.sampled_from((1.0, 60.0)), label="seconds"))


@_in_a_world
def lying_hubs(data: st.DataObject, world: World, watch: Watch) -> None:
    """Things happen in rooms that both servers are in, and what the other server sends and answers are lies."""
    lying_requests(data, world)
    if data.draw(st.booleans(), label="whether it answers with lies, too"):
        lying_replies(data, world, honest=5)
    for _ in range(data.draw(st.integers(1, 6), label="happenings")):
        work = _happening(data, world)
        note(f"{work}")
        running = Deferred.fromCoroutine(work())  # type: ignore[arg-type]
        running.addErrback(lambda failure: failure.trap(LMatrixError))
        world.settle(data.draw(st.sampled_from((0.1, 5.0, 60.0)), label="seconds"))
        watch.check_log()


@_in_a_world
def bytes_on_the_wire(data: st.DataObject, world: World, watch: Watch) -> None:
    """What is hardly HTTP, or not at all, over HTTP/1.1 and HTTP/2."""
    wire = world.us.connect()
    if data.draw(st.booleans(), label="HTTP/2"):
        wire.transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        parts = data.draw(HTTP2_PARTS, label="bytes")
        if data.draw(st.integers(0, 5), label="preface"):
            wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    else:
        parts = data.draw(HTTP1_PARTS, label="bytes")
    for part in parts:
        if wire.closed:
            break
        wire.send(part)
        world.settle(data.draw(st.sampled_from((0.0, 0.5)), label="seconds"))
        watch.check_log()
    world.settle(400)
    text = wire.transport.value()
    if b" 500 " in text[:40]:
        raise Wrong(f"{parts} is answered with {text!r}")
    wire.hang_up()


CAMPAIGNS: dict[str, Campaign] = {
    "servers": servers,
    "clients": clients,
    "operators": operators,
    "lying_servers": lying_servers,
    "lying_hubs": lying_hubs,
    "bytes_on_the_wire": bytes_on_the_wire,
}


@st.composite
def _wishes(draw: st.DrawFn, world: World) -> Call:
    """What makes us ask the north something."""
    stage = world.stage
    assert stage is not None
    room = stage.rooms
    api, to, messages = "/_matrix/client/v3", {BOB: {BOBS_DEVICE: {"a": 1}}}, {"msgtype": "m.text", "body": "x"}
    key = "m.mls.v1.key_package.dhkemx25519-aes128gcm-sha256-ed25519"
    wishes: list[tuple[str, str, Any]] = [
        ("POST", f"{api}/join/{room['north_other']}?via={NORTH}", {}),
        ("POST", f"{api}/join/{room['north_private']}", {}),
        ("POST", f"{api}/knock/{room['north_other']}?server_name={NORTH}", {}),
        ("POST", f"{api}/rooms/{room['north_private']}/leave", {}),
        ("POST", f"{api}/rooms/{room['hub']}/invite", {"user_id": CARL}),
        ("POST", f"{api}/rooms/{room['ours_private']}/invite", {"user_id": DORA}),
        ("POST", f"{api}/rooms/{room['north']}/invite", {"user_id": ZOE}),
        ("POST", f"{api}/rooms/{room['north']}/invite", {"user_id": "@x:nobody.example"}),
        ("PUT", f"{api}/rooms/{room['north']}/send/m.room.message/1", messages),
        ("PUT", f"{api}/rooms/{room['north_v02']}/send/m.room.message/1", messages),
        ("PUT", f"{api}/rooms/{room['north']}/state/m.room.name", {"name": "x"}),
        ("PUT", f"{api}/rooms/{room['north']}/state/m.room.hub", {}),
        ("PUT", f"{api}/rooms/{room['hub']}/state/m.room.hub", {"org.lmatrix.server": NORTH}),
        ("PUT", f"{api}/rooms/{room['hub']}/send/m.room.message/1", messages),
        ("GET", f"{api}/rooms/{room['north']}/messages?dir=b&limit=50", None),
        ("GET", f"{api}/rooms/{room['north_v02']}/messages?dir=b&limit=50", None),
        ("POST", f"{api}/keys/query", {"device_keys": {BOB: [], CARL: []}, "timeout": 10_000}),
        ("POST", f"{api}/keys/claim", {"one_time_keys": {BOB: {BOBS_DEVICE: key}}}),
        ("PUT", f"{api}/sendToDevice/m.room.encrypted/1", {"messages": to}),
        ("GET", f"{api}/profile/{BOB}", None),
        ("GET", f"{api}/sync?timeout=1000", None),
        ("POST", f"/_lmatrix/admin/v1/rooms/{room['hub']}/transfer", {"to": NORTH, "server": NORTH}),
        ("GET", f"/_matrix/key/v2/query/{NORTH}?minimum_valid_until_ts=1", None),
        ("GET", "/_matrix/key/v2/query/nobody.example", None),
    ]
    method, target, content = wishes[draw(st.integers(0, len(wishes) - 1))]
    token = "the_operators_secret_token" if target.startswith("/_lm") else TOKENS[ALICE]
    body = b"" if content is None else json.dumps(content).encode()
    target = target.replace("@", "%40").replace("!", "%21")
    return Call(None, None, method, target, (("Authorization", f"Bearer {token}"),), body, content)


def _happening(data: st.DataObject, world: World) -> Callable[[], Awaitable[Any]]:
    """Something that a user of the north, or of ours, does in a room."""
    stage = world.stage
    assert stage is not None
    room, north, us = stage.rooms, world.north.users, world.us.users
    where = data.draw(st.sampled_from(("hub", "hub_v02", "north", "north_v02")), label="room")
    message = {"msgtype": "m.text", "body": "x"}
    happenings: list[Callable[[], Awaitable[Any]]] = [
        lambda: north.send(room[where], BOB, "m.room.message", message),
        lambda: north.send(room[where], BOB, "m.room.name", {"name": "x"}, state_key=""),
        lambda: north.redact(room[where], BOB, stage.events[where][-1], None),
        lambda: north.join(CARL, room[where], (US,), None),
        lambda: north.leave(BOB, room[where], None),
        lambda: north.invite(room[where], BOB, DORA, None),
        lambda: north.invite(room[where], BOB, ZOE, None),
        lambda: north.membership(room[where], BOB, ALICE, "ban", None),
        lambda: north.membership(room[where], BOB, ALICE, "leave", None),
        lambda: north.knock(DORA, room["ours_knock"], (US,), None),
        lambda: north.join(CARL, room["ours_private"], (US,), None),
        lambda: north.leave(CARL, room["ours_private"], None),
        lambda: north.leave(CARL, room["ours_knock"], None),
        lambda: north.invite(room["north_private"], BOB, ZOE, None),
        lambda: us.send(room[where], ALICE, "m.room.message", message),
        lambda: us.leave(ALICE, room[where], None),
        lambda: us.join(ALICE, room["north_private"], (NORTH,), None),
        lambda: us.invite(room[where], ALICE, CARL, None),
        lambda: north.send(room["north"], BOB, "m.room.hub", {"org.lmatrix.server": US}, state_key=""),
        lambda: us.send(room["hub"], ALICE, "m.room.hub", {"org.lmatrix.server": NORTH}, state_key=""),
    ]
    return happenings[data.draw(st.integers(0, len(happenings) - 1), label="happening")]


_pieces1 = st.one_of(
    st.sampled_from(
        (
            *(
                b"GET ",
                b"PUT ",
                b"POST ",
                b"/",
                b"/_matrix/federation/v2/send/1",
                b"/_matrix/client/v3/sync",
                b"?a=%ff",
            ),
            *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b" "),
            *(
                b"Host: us.example\r\n",
                b"Content-Length: 2\r\n",
                b"Content-Length: -1\r\n",
                b"Content-Length: 99999999999\r\n",
            ),
            *(
                b"Content-Length: 1\r\nContent-Length: 2\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Expect: 100-continue\r\n",
            ),
            *(
                b"2\r\n{}\r\n0\r\n\r\n",
                b"ffffffffffff\r\n",
                b"zz\r\n",
                b"{}",
                b"Authorization: X-Matrix\r\n",
                b"a" * 20_000,
            ),
            *(
                b"Authorization: \xff\xfe\r\n",
                b": x\r\n",
                b"x\r\n",
                b" folded\r\n",
                b"OPTIONS * HTTP/1.1\r\n",
                b"PRI * HTTP/2.0\r\n",
            ),
        )
    ),
    st.binary(max_size=30),
)
HTTP1_PARTS = st.lists(st.lists(_pieces1, min_size=1, max_size=8).map(b"".join), min_size=1, max_size=4)


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


_HEADERS = bytes.fromhex("828784") + b"\x41\x0aus.example"
_frames = st.builds(
    _frame,
    st.integers(0, 12),
    st.sampled_from((0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF)),
    st.sampled_from((0, 1, 1, 1, 2, 3, 5, 2**31 - 1)),
    st.one_of(
        st.just(_HEADERS),
        st.just(_HEADERS[:-2]),
        st.sampled_from((b"", b"\x00" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"{}", b"x" * 20_000)),
        st.binary(max_size=40),
    ),
)
HTTP2_PARTS = st.lists(st.one_of(_frames, _frames, st.binary(max_size=30)), min_size=1, max_size=8)
