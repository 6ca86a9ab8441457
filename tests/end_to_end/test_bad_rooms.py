"""Requests that are in order, for rooms where they are not: unknown rooms, the wrong server, the wrong user.

Source: I-D "Event and State APIs", "Room Membership"; protocol notes, "Transport".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.end_to_end.bad_input import BadInputTestCase
from tests.end_to_end.processes import RealServer
from tests.end_to_end.signing_client import FORMS, path
from tests.end_to_end.wire_events import I1, V02, JsonObject, complete, event_id, signed_event

CHANGES = ("join", "leave", "knock")
Row = tuple[str, str, str, object, int, str]
"""What it is, method, target, body, and the status and errcode that it must get."""


class RoomTests(BadInputTestCase):
    """A server that is the hub of two rooms, and may be a participant of a third.

    Attributes:
        private: a room of ours that nobody else is in.
        hub: the third room's hub.
        theirs: the third room.
    """

    private: str
    hub: RealServer
    theirs: str

    async def stage_rooms(self) -> None:
        """Set the scene, without the third room."""
        await self.stage()
        await self.add_private_room()

    async def stage_three_rooms(self) -> None:
        """Set the scene, with the third room."""
        (self.hub,) = await self.stage("hub")
        carol = await self.user(self.hub, "carol")
        self.theirs = await carol.create_room(preset="public_chat")
        await self.alice.join(self.theirs, self.hub.server_name)
        await self.raw.client.join(self.hub.server_name, self.theirs, self.member)
        await self.alice.wait_for(self.theirs, await carol.say(self.theirs, "hello"))
        await self.add_private_room()
        self.their_head = (await self.alice.latest(self.theirs))["event_id"]

    async def add_private_room(self) -> None:
        """Make it, and remember what is stored."""
        self.private = await self.alice.create_room(preset="private_chat")
        await self.mark()

    async def ask_all(self, rows: Sequence[Row], **fields: object) -> None:
        """Ask each row under both of its paths, and judge the answers."""
        for what, method, target, content, status, errcode in rows:
            answer = await self.raw.client.request(self.us.server_name, method, target, content)
            self.judge(f"{method} {target}: {what}", answer, status, errcode)
            if fields:
                self.judge_fields(f"{method} {target}: {what}", answer, fields)

    def reads(self, form: str, room_id: str, known: str) -> dict[str, str]:
        """The targets of reads in a room: endpoint → target."""
        return {
            "state": path("state", room_id, form=form, query=[("event_id", known)]),
            "state_ids": path("state_ids", room_id, form=form, query=[("event_id", known)]),
            "backfill": path("backfill", room_id, form=form, query=[("v", known), ("limit", 10)]),
        }

    def invite(self, room_id: str, *, hub: str, sender: str | None = None, target: str = "") -> JsonObject:
        """The body of an invite by one of raw's users."""
        lpdu = self.raw.client.member(
            room_id, sender or self.member, "invite", target=target or self.alice.user_id, hub_server=hub
        )
        return {"event": lpdu, "room_version": I1, "invite_room_state": []}

    async def test_unknown_rooms(self) -> None:
        """Rooms and events that are unknown, or that the asker may not know of: 404 M_NOT_FOUND, and no difference."""
        await self.stage_rooms()
        us, client, member = self.us.server_name, self.raw.client, self.member
        unknown = f"!unknown:{us}"
        secret = (await self.alice.latest(self.private))["event_id"]
        rows: list[Row] = []
        for form in FORMS:
            for change in CHANGES:
                make = path(f"make_{change}", unknown, member, form=form, query=[("ver", I1)])
                lpdu = client.member(unknown, member, change, hub_server=us)
                rows += [
                    ("unknown", "GET", make, None, 404, "M_NOT_FOUND"),
                    ("unknown", "POST", path(f"send_{change}", "u", form=form), lpdu, 404, "M_NOT_FOUND"),
                ]
            invite = self.invite(unknown, hub=us)
            rows.append(("unknown", "POST", path("invite", "u", form=form), invite, 404, "M_NOT_FOUND"))
            for what, room_id, known in (
                ("an unknown room", unknown, self.head),
                ("an unknown event", self.room_id, "$" + "x" * 43),
                ("another room's event", self.room_id, secret),
                ("a private room", self.private, secret),
                ("a known event in a private room", self.private, self.head),
            ):
                rows += [
                    (what, "GET", target, None, 404, "M_NOT_FOUND")
                    for target in self.reads(form, room_id, known).values()
                ]
            for known in ("$" + "x" * 43, secret):
                rows.append(("event", "GET", path("event", known, form=form), None, 404, "M_NOT_FOUND"))
        await self.ask_all(rows)
        await self.assert_nothing_happened()

    async def test_wrong_server(self) -> None:
        """What only a hub may answer, asked of a participant: 400 M_WRONG_SERVER, which names the hub.

        LPDUs that are sent to it go nowhere, and neither do PDUs from anybody but the hub.
        """
        await self.stage_three_rooms()
        us, hub, client, member = self.us.server_name, self.hub.server_name, self.raw.client, self.member
        rows: list[Row] = []
        for form in FORMS:
            for change in CHANGES:
                make = path(f"make_{change}", self.theirs, member, form=form, query=[("ver", I1)])
                rows.append(("participant", "GET", make, None, 400, "M_WRONG_SERVER"))
                for named in (us, hub):
                    lpdu = client.member(self.theirs, member, change, hub_server=named)
                    target = path(f"send_{change}", "w", form=form)
                    rows.append((f"for {named}", "POST", target, lpdu, 400, "M_WRONG_SERVER"))
            for named in (us, hub):
                invite = self.invite(self.theirs, hub=named, target=f"@nobody:{us}")
                rows.append((f"for {named}", "POST", path("invite", "w", form=form), invite, 400, "M_WRONG_SERVER"))
            for name, target in self.reads(form, self.theirs, self.their_head).items():
                if name != "backfill":
                    rows.append(("participant", "GET", target, None, 400, "M_WRONG_SERVER"))
        await self.ask_all(rows, hub_server=hub)
        own: list[Row] = []
        for form in FORMS:
            for change in CHANGES:
                lpdu = client.member(self.room_id, member, change, hub_server=hub)
                own.append(("hub", "POST", path(f"send_{change}", "o", form=form), lpdu, 400, "M_WRONG_SERVER"))
            invite = self.invite(self.room_id, hub=hub, target=f"@nobody:{us}")
            own.append(("hub", "POST", path("invite", "o", form=form), invite, 400, "M_WRONG_SERVER"))
        await self.ask_all(own, hub_server=us)

        for_us = client.message(self.theirs, member, "for us", hub_server=us)
        for_hub = client.message(self.theirs, member, "for the hub", hub_server=hub)
        by_raw = complete(self.raw.identity, for_hub, auth_events=[self.their_head], prev_events=[self.their_head])
        answer = await client.send(us, "elsewhere", [for_us, for_hub, by_raw])
        self.judge("a participant's transaction", answer, 200)
        failed = answer.json["failed_pdus"]
        self.assertEqual([event_id(for_us)], list(failed))
        self.assertEqual(
            ("M_WRONG_SERVER", hub), (failed[event_id(for_us)]["errcode"], failed[event_id(for_us)]["hub_server"])
        )
        ours = client.message(self.room_id, member, "made complete by a participant", hub_server=us)
        complete_by_raw = complete(self.raw.identity, ours, auth_events=[self.head], prev_events=[self.head])
        answer = await client.send(us, "complete", [complete_by_raw])
        self.assertEqual({"failed_pdus": {}}, answer.json)
        await self.assert_nothing_happened()
        self.assertEqual(self.their_head, (await self.alice.latest(self.theirs))["event_id"])

    async def test_handshakes(self) -> None:
        """Templates and handshakes for the wrong user, version or membership, and what is not asked for properly."""
        await self.stage_rooms()
        us, client, room_id, member = self.us.server_name, self.raw.client, self.room_id, self.member
        newcomer, alice = self.raw.identity.user("newcomer"), self.alice.user_id
        version = [("ver", I1)]
        forbidden, malformed = (403, "M_FORBIDDEN"), (400, "M_BAD_JSON")
        rows: list[Row] = []
        for form in FORMS:

            def get(
                what: str, name: str, *segments: str, query: Sequence[tuple[str, object]] = version, form: str = form
            ) -> Row:
                return (what, "GET", path(name, *segments, form=form, query=query), None, 0, "")

            def post(what: str, name: str, content: object, form: str = form) -> Row:
                return (what, "POST", path(name, "h", form=form), content, 0, "")

            def member_of(room_id: str, user_id: str, membership: str, target: str | None = None) -> JsonObject:
                return client.member(room_id, user_id, membership, target=target, hub_server=us)

            table: Mapping[tuple[int, str], Sequence[Row]] = {
                forbidden: [
                    *(get("another server's user", f"make_{change}", room_id, alice) for change in CHANGES),
                    *(get("a stranger", f"make_{change}", self.private, newcomer) for change in CHANGES),
                    get("who is not in the room", "make_leave", room_id, newcomer),
                    get("a public room", "make_knock", room_id, newcomer),
                    *(
                        post("another server's user", f"send_{c}", member_of(room_id, "@x:other.example", c))
                        for c in CHANGES
                    ),
                    *(post("another user", f"send_{c}", member_of(room_id, member, c, newcomer)) for c in CHANGES),
                    post("a stranger", "send_join", member_of(self.private, newcomer, "join")),
                    post("a stranger", "send_knock", member_of(self.private, newcomer, "knock")),
                    post("who is not in the room", "send_leave", member_of(room_id, newcomer, "leave")),
                    post("a public room", "send_knock", member_of(room_id, newcomer, "knock")),
                ],
                malformed: [
                    *(get("no room ID", f"make_{change}", "room", newcomer) for change in CHANGES),
                    *(get("no user ID", f"make_{change}", room_id, "newcomer") for change in CHANGES),
                    get("too many versions", "make_join", room_id, newcomer, query=version * 101),
                    *(
                        post("another change", f"send_{change}", member_of(room_id, member, "ban"))
                        for change in CHANGES
                    ),
                    *(
                        post("a message", f"send_{c}", client.message(room_id, member, "x", hub_server=us))
                        for c in CHANGES
                    ),
                    *(post("no event", f"send_{change}", {}) for change in CHANGES),
                    *(
                        get("no v", "backfill", room_id, query=[("limit", 1)]),
                        get("no limit", "backfill", room_id, query=[("v", self.head)]),
                    ),
                    *(
                        get(f"limit {limit!r}", "backfill", room_id, query=[("v", self.head), ("limit", limit)])
                        for limit in (0, -1, "x", "", "1.5")
                    ),
                    get("no event ID", "backfill", room_id, query=[("v", "x"), ("limit", 1)]),
                    *(get("no event_id", name, room_id, query=()) for name in ("state", "state_ids")),
                    *(get("no event ID", name, room_id, query=[("event_id", "x")]) for name in ("state", "state_ids")),
                    *(get("no room ID", name, "x", query=[("event_id", self.head)]) for name in ("state", "state_ids")),
                    get("no event ID", "event", "x", query=()),
                ],
                (400, "M_INCOMPATIBLE_ROOM_VERSION"): [
                    get("no version", "make_join", room_id, newcomer, query=()),
                    get("no version", "make_knock", room_id, newcomer, query=()),
                    get("other versions", "make_join", room_id, newcomer, query=[("ver", "11"), ("ver", V02)]),
                ],
            }
            for (status, errcode), entries in table.items():
                rows += [(*row[:4], status, errcode) for row in entries]
        await self.ask_all(rows)
        await self.assert_nothing_happened()

    async def test_invites(self) -> None:
        """Invites that a hub does not carry out, and that a target's server does not take."""
        await self.stage_rooms()
        us, room_id, raw = self.us.server_name, self.room_id, self.raw
        good = self.invite(room_id, hub=us, target=f"@nobody:{us}")
        lpdu = good["event"]
        newcomer = raw.identity.user("newcomer")
        theirs = f"!theirs:{raw.server_name}"

        def made(lpdu: JsonObject) -> JsonObject:
            return complete(raw.identity, lpdu, auth_events=[self.head], prev_events=[self.head])

        pdu = made(self.invite(theirs, hub=raw.server_name)["event"])
        unsigned = {**pdu, "signatures": {}}
        unknown_user = self.invite(theirs, hub=raw.server_name, target=f"@nobody:{us}")["event"]
        not_ours = self.invite(theirs, hub=raw.server_name, target="@x:other.example")["event"]
        of_others = self.invite(theirs, hub="hub.example")["event"]
        leave = raw.client.member(theirs, self.member, "leave", target=self.alice.user_id, hub_server=raw.server_name)
        by_other = self.invite(room_id, hub=us, sender="@x:other.example")
        table: Mapping[tuple[int, str], Mapping[str, object]] = {
            (400, "M_BAD_JSON"): {
                "nothing": {},
                "no event": {"room_version": I1},
                **{f"event is {value!r}": {**good, "event": value} for value in (None, 1, "x", [], {})},
                "no room_version": {"event": lpdu},
                **{f"room_version is {value!r}": {**good, "room_version": value} for value in (None, 1, [], V02, "99")},
                **{f"state is {value!r}": {**good, "invite_room_state": value} for value in (None, 1, "x", {})},
                "no invite": {**good, "event": raw.client.member(room_id, self.member, "join", hub_server=us)},
                "a message": {**good, "event": raw.client.message(room_id, self.member, "x", hub_server=us)},
                "for another server's user": {**good, "event": made(not_ours)},
                "a PDU that is no invite": {**good, "event": made(leave)},
            },
            (403, "M_FORBIDDEN"): {
                "by another server's user": by_other,
                "by who is not in the room": self.invite(room_id, hub=us, sender=newcomer, target=f"@nobody:{us}"),
                "of who is in the room": self.invite(room_id, hub=us),
                "not signed": {**good, "event": {**lpdu, "signatures": {}}},
                "signed with an old key": {**good, "event": signed_event(self.retired, {**lpdu, "signatures": {}})},
                "a PDU that is not signed": {**good, "event": unsigned},
                "a PDU of another hub": {**good, "event": made(of_others)},
            },
            (404, "M_NOT_FOUND"): {
                "of nobody, by LPDU": good,
                "of nobody, by PDU": {**good, "event": made(unknown_user)},
            },
            (400, "M_INCOMPATIBLE_ROOM_VERSION"): {
                "a PDU of an unknown version": {**good, "event": pdu, "room_version": "99"},
            },
        }
        await self.ask_all(
            [
                (what, "POST", path("invite", "i", form=form), content, status, errcode)
                for (status, errcode), rows in table.items()
                for what, content in rows.items()
                for form in FORMS
            ]
        )
        await self.assert_nothing_happened()
