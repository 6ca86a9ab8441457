"""What one case works with.

Owns: :class:`Stage`, requests and rooms for one case, and :class:`Room`, a room of the target that users of the suite
are in. What a case does through them, it does as another server; what it does through ``operator``, as a user of the
target.

Source: I-D "Transport".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from tests.conformance.operator import Operator
from tests.conformance.peer import Peer
from tests.conformance.suite import Suite
from tests.conformance.tiny_hub import TinyHub
from tests.conformance.verdicts import Failed, NotTested, expect, expect_answer
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_client import Query
from tests.end_to_end.wire_events import I1, JsonObject, event_id

UNSTABLE = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"
STABLE = {
    **dict.fromkeys(("send", "event", "backfill"), "v2"),
    **dict.fromkeys(("state", "state_ids", "make_join", "make_leave", "make_knock", "user"), "v1"),
    **dict.fromkeys(("version", "event_auth", "query"), "v1"),
    **dict.fromkeys(("invite", "send_join", "send_leave", "send_knock"), "v3"),
}
"""The version of each endpoint, by the first word of its path."""


def endpoint(name: str, *segments: str, query: Query = (), unstable: bool = False) -> str:
    """The request target of an endpoint.

    Args:
        name: its first word.
        segments: what follows, not yet encoded.
        query: names and values, not yet encoded.
        unstable: at the path that the I-D's implementation notes give, if the endpoint has one.
    """
    prefix = UNSTABLE if unstable and STABLE[name] != "v1" else f"/_matrix/federation/{STABLE[name]}"
    path = "/".join((prefix, name, *(quote(segment, safe="") for segment in segments)))
    return path + "?" + urlencode([(key, str(value)) for key, value in query], quote_via=quote) if query else path


@attrs.frozen(eq=False)
class Room:
    """A room of which the target is the hub.

    Attributes:
        stage: the case's.
        id: room ID.
        creator: the target's user who made it; ``None`` when the room was given.
        version: room version.
    """

    stage: Stage
    id: str
    creator: ClientUser | None
    version: str

    def lpdu(
        self, sender: str, type: str, content: JsonObject, state_key: str | None = None, **fields: Any
    ) -> JsonObject:
        """An LPDU of one of the suite's users, by the server that the user is of."""
        peer = self.stage.peer_of(sender)
        return peer.client.lpdu(
            self.id,
            sender,
            type,
            content,
            hub_server=self.stage.target,
            state_key=state_key,
            version=self.version,
            **fields,
        )

    def message(self, sender: str, text: str = "hello") -> JsonObject:
        """An LPDU of a message."""
        return self.lpdu(sender, "m.room.message", {"msgtype": "m.text", "body": text})

    def member(self, sender: str, membership: str, target: str | None = None, **content: object) -> JsonObject:
        """An LPDU of a membership, by default of the sender's own."""
        return self.lpdu(sender, "m.room.member", {"membership": membership, **content}, target or sender)

    async def join(self, localpart: str = "member", peer: Peer | None = None) -> str:
        """Let a new user of a suite's server join by the handshake; returns the user ID."""
        peer = peer or self.stage.peer
        user_id = peer.identity.user(f"{localpart}{self.stage.suite.number()}")
        await self.join_as(user_id)
        return user_id

    async def join_as(self, user_id: str) -> JsonObject:
        """Let a user of the suite's join by the handshake; returns the answer to ``send_join``."""
        template = await self.make("join", user_id)
        expect(template.status == 200, f"make_join of {user_id} is {template.status}: {template.body[:300]!r}")
        answer = await self.post("send_join", self.member(user_id, "join"))
        joined: JsonObject = expect_answer(answer, 200)
        return joined

    async def make(self, membership: str, user_id: str, versions: Sequence[str] | None = None) -> Answer:
        """Ask for a template."""
        query = () if membership == "leave" else [("ver", one) for one in versions or [self.version]]
        target = self.stage.endpoint(f"make_{membership}", self.id, user_id, query=query)
        return await self.stage.get(target, peer=self.stage.peer_of(user_id))

    async def post(self, name: str, lpdu: JsonObject) -> Answer:
        """Send a membership by ``send_join``, ``send_leave`` or ``send_knock``."""
        target = self.stage.endpoint(name, self.stage.transaction_id())
        return await self.stage.request("POST", target, lpdu, peer=self.stage.peer_of(lpdu["sender"]))

    async def send(self, *lpdus: JsonObject) -> JsonObject:
        """Send events in one transaction, by the server of the first one's sender; returns the answer."""
        return await self.stage.send(*lpdus, peer=self.stage.peer_of(lpdus[0]["sender"]))

    async def accepted(self, lpdu: JsonObject) -> JsonObject:
        """Send an LPDU that must be accepted; returns the PDU that comes back.

        Raises:
            Failed: it was not accepted.
        """
        failed = (await self.send(lpdu)).get("failed_pdus", {})
        if failed:
            raise Failed(f"{_what(lpdu)} was not accepted: {failed}")
        return await self.stage.peer_of(lpdu["sender"]).echo(lpdu)

    async def refused(self, lpdu: JsonObject, why: str) -> None:
        """Send an LPDU that must be rejected: it is named in ``failed_pdus``, and with a reason.

        Raises:
            Failed: it was not; ``why`` says why it must be.
        """
        failed = (await self.send(lpdu)).get("failed_pdus", {})
        expect(failed, f"{_what(lpdu)} was not refused: {why}")
        error = next(iter(failed.values()))
        expect(
            isinstance(error, dict) and isinstance(error.get("error"), str),
            f"an entry of failed_pdus without an error string: {failed}",
        )
        expect_equal_id(event_id(lpdu, self.version), failed)

    async def ignored(self, member: str, *lpdus: JsonObject) -> None:
        """Send events that must not be appended, whether they are named as failed or passed over in silence.

        Args:
            member: a user of the suite's who is in the room, and sends an event before and one after them.

        Raises:
            Failed: the room has one of them.
        """
        before = await self.accepted(self.message(member, "before"))
        after = self.message(member, "after")
        for batch in (
            [[*lpdus, after]] if self.version == I1 and len(lpdus) < 50 else [[one] for one in (*lpdus, after)]
        ):
            answer = await self.stage.send(*batch, peer=self.stage.peer_of(member))
            expect(event_id(after, self.version) not in answer.get("failed_pdus", {}), "the good event failed as well")
        echo = await self.stage.peer_of(member).echo(after)
        if echo["prev_events"] == [event_id(before, self.version)]:
            return
        events = await self.history(event_id(echo, self.version))
        ids = [event_id(event, self.version) for event in events]
        between = events[ids.index(event_id(before, self.version)) + 1 : -1]
        raise Failed(f"events that must not be in the room are in it: {between}")

    async def history(self, last: str) -> list[JsonObject]:
        """The room's events from the first one that is shown to one, page by page."""
        events: list[JsonObject] = []
        wanted: Sequence[str] = [last]
        while wanted:
            query = [("v", wanted[0]), ("limit", 100)]
            answer = await self.stage.get(self.stage.endpoint("backfill", self.id, query=query))
            page = expect_answer(answer, 200)["pdus"]
            expect(page, "backfill gave nothing")
            events[:0] = page
            wanted = page[0]["prev_events"]
        return events

    async def state(self, before: str) -> dict[tuple[str, str], JsonObject]:
        """The state just before an event, by type and state key."""
        answer = await self.stage.get(self.stage.endpoint("state", self.id, query=[("event_id", before)]))
        return {(one["type"], one["state_key"]): one for one in expect_answer(answer, 200)["pdus"]}


def expect_equal_id(wanted: str, failed: JsonObject) -> None:
    """That the one event that failed is named by the ID of what was sent."""
    if list(failed) != [wanted]:
        raise Failed(f"failed_pdus names {list(failed)}, and not {wanted}, the ID of the event as it was sent")


class Stage:
    """What one case works with.

    Args:
        suite: the run.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite

    @property
    def target(self) -> str:
        """The target's server name."""
        return self.suite.target.server_name

    @property
    def version(self) -> str:
        """The room version of this run."""
        return self.suite.target.version

    @property
    def peer(self) -> Peer:
        """The suite's first server."""
        return self.suite.peer()

    @property
    def second(self) -> Peer:
        """Its second one."""
        return self.suite.peer("second")

    @property
    def operator(self) -> Operator:
        """The target's users.

        Raises:
            NotTested: they cannot be had.
        """
        if self.suite.operator is None:
            raise NotTested("it needs users of the target (--client)")
        return self.suite.operator

    def peer_of(self, user_id: str) -> Peer:
        """The suite's server of a user."""
        name = user_id.partition(":")[2]
        found = [peer for peer in self.suite.peers() if peer.server_name == name]
        return found[0] if found else self.peer

    def fresh(self, label: str) -> Peer:
        """A server that nobody has heard of."""
        return self.suite.peer(f"{label}{self.suite.number()}")

    def transaction_id(self) -> str:
        """A transaction ID that was not used before."""
        return f"{self.suite.run}-{self.suite.number()}"

    def endpoint(self, name: str, *segments: str, query: Query = ()) -> str:
        """See :func:`endpoint`; at the paths that the target is said to know."""
        return endpoint(name, *segments, query=query, unstable=self.suite.target.unstable)

    # -- Requests -----------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, target: str, content: object = None, *, peer: Peer | None = None, **settings: Any
    ) -> Answer:
        """Make a signed request; see :meth:`SigningClient.request`."""
        return await (peer or self.peer).client.request(self.target, method, target, content, **settings)

    async def get(self, target: str, *, peer: Peer | None = None, **settings: Any) -> Answer:
        """Make a signed ``GET``."""
        return await self.request("GET", target, peer=peer, **settings)

    async def plain(
        self, method: str, target: str, *, body: bytes | None = None, headers: dict[str, list[str]] | None = None
    ) -> Answer:
        """Make a request that is not signed."""
        fields = {"Host": [self.target], **(headers or {})}
        return await self.suite.http.request(method, self.suite.target.url, target, headers=fields, body=body)

    async def send(self, *pdus: JsonObject, edus: Sequence[JsonObject] = (), peer: Peer | None = None) -> JsonObject:
        """Send a transaction that must be answered with 200; returns the answer."""
        content: JsonObject = {"pdus": list(pdus)}
        if edus:
            content["edus"] = list(edus)
        answer = await self.request("PUT", self.endpoint("send", self.transaction_id()), content, peer=peer)
        sent: JsonObject = expect_answer(answer, 200)
        return sent

    # -- Rooms --------------------------------------------------------------------------------------------------------

    async def room(self, **settings: Any) -> Room:
        """A room on the target: a new one of its first user's, or the one that was given.

        Args:
            settings: for ``createRoom``; a public room without any.

        Raises:
            NotTested: there is no way to have one.
        """
        target = self.suite.target
        if self.suite.operator is None:
            if target.room is None:
                raise NotTested("it needs a room on the target (--client or --room)")
            if settings:
                raise NotTested("it needs a room on the target that is set up in a particular way (--client)")
            return Room(self, target.room, None, self.version)
        user = await self.operator.user()
        wanted = {"preset": "public_chat", "room_version": self.version, **settings}
        return Room(self, await user.create_room(**wanted), user, self.version)

    async def own_room(self, room: Room) -> ClientUser:
        """The user who made a room, and has power in it.

        Raises:
            NotTested: the room was given.
        """
        if room.creator is None:
            raise NotTested("it needs a user with power in the room (--client)")
        return room.creator

    async def leveled(self, levels: JsonObject, **members: int) -> tuple[Room, dict[str, str]]:
        """A public room with particular power levels and members of the suite's.

        Args:
            levels: content of ``m.room.power_levels``, without ``users``.
            members: local part → power level.

        Returns:
            the room; the members' user IDs by local part.
        """
        room = await self.room()
        user = await self.own_room(room)
        ids = {name: self.peer.identity.user(f"{name}{self.suite.number()}") for name in members}
        for user_id in ids.values():
            await room.join_as(user_id)
        users = {user.user_id: 100, **{ids[name]: level for name, level in members.items() if level}}
        event = await user.set_state(room.id, "m.room.power_levels", {**levels, "users": users})
        await self.peer.until(
            "power levels of the room",
            lambda: any(event_id(pdu, room.version) == event for pdu in self.peer.pdus if pdu["room_id"] == room.id),
        )
        return room, ids

    def hub(self, label: str = "room", **settings: Any) -> TinyHub:
        """A room of which the suite's first server is the hub, and nobody else has heard of."""
        room_id = f"!{label}{self.suite.run}-{self.suite.number()}:{self.peer.server_name}"
        return TinyHub(self.peer, self.target, room_id, self.version).create(**settings)

    async def participating(self, **settings: Any) -> tuple[TinyHub, ClientUser]:
        """A room of the suite's that the target's first user has joined."""
        user = await self.operator.user()
        hub = self.hub(**settings)
        await self.enter(hub, user)
        return hub, user

    async def enter(self, hub: TinyHub, user: ClientUser) -> None:
        """Let a user of the target be invited to a room of the suite's, and join."""
        expect_answer(await hub.invite(user.user_id), 200)
        answer = await user.request("POST", f"/join/{quote(hub.room_id, safe='')}", {})
        expect(answer.status == 200, f"the target's user could not join: {answer.status} {answer.body[:300]!r}")

    async def shown(self, user: ClientUser, room_id: str, wanted: str) -> JsonObject | None:
        """An event as a user of the target sees it; ``None`` when it is not shown."""
        path = f"/rooms/{quote(room_id, safe='')}/event/{quote(wanted, safe='')}"
        answer = await user.request("GET", path)
        if answer.status == 200:
            event: JsonObject = answer.json
            return event
        return None


def _what(lpdu: JsonObject) -> str:
    membership = lpdu.get("content", {}).get("membership") if isinstance(lpdu.get("content"), dict) else None
    return f"{lpdu.get('type')}{f' ({membership})' if membership else ''} of {lpdu.get('sender')}"
