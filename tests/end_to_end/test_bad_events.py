"""Bad events for a real server, as the hub of a room and as a participant, and transactions that come twice.

An LPDU that is refused among others in ``/send`` is named in ``failed_pdus`` with a reason; alone, in ``send_join`` or
``invite``, it is the request that is refused (I-D "Sending Events", "Receiving Events/PDUs", "Room Membership").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred, gatherResults

from tests.end_to_end.bad_input import BadInputTestCase
from tests.end_to_end.processes import eventually
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_client import path
from tests.end_to_end.wire_events import I1, Identity, JsonObject, event_id, rehashed, signed_event

LONG = "x" * 256
WRONG_TYPES: Mapping[str, tuple[object, ...]] = {
    "room_id": (None, 1, [], {}),
    "sender": (None, 1, [], {}),
    "type": (None, 1, [], {}, LONG),
    "state_key": (None, 1, [], {}, LONG),
    "content": (None, 1, [], "text"),
    "origin_server_ts": (None, "1", 1.5, [], True),
    "hub_server": (None, 1, [], {}, "", "two words", "a/b", "a:123456"),
    "hashes": (None, 1, [], "text", {}, {"lpdu": {}}, {"lpdu": 1}, {"lpdu": {"sha256": 1}}),
    "signatures": (None, 1, [], "text", {"a": 1}, {"a": {"b": 1}}),
}
GRAMMAR: Mapping[str, tuple[str, ...]] = {
    "sender": ("alice", "@alice", "@:a.example", "@ALICE:a.example", "@a b:a.example", f"@{LONG}:a.example"),
}


class EventTests(BadInputTestCase):
    """What a hub is sent."""

    strange = "@strange:localhost:1"
    sent = 0

    def lpdu(self) -> JsonObject:
        """A join of our member, anew."""
        return self.raw.client.member(self.room_id, self.member, "join", hub_server=self.us.server_name)

    def malformed(self) -> Iterator[tuple[str, JsonObject]]:
        """LPDUs without the shape of one."""
        for key in ("room_id", "sender", "type", "content", "origin_server_ts", "hub_server", "hashes", "signatures"):
            yield f"no {key}", {name: value for name, value in self.lpdu().items() if name != key}
        for key, values in (*WRONG_TYPES.items(), *GRAMMAR.items()):
            for value in values:
                yield f"{key} is {value!r:.40}", {**self.lpdu(), key: value}

    def unsigned(self) -> Iterator[tuple[str, JsonObject]]:
        """LPDUs that are not signed as they must be."""
        good, mine, name = self.lpdu(), self.raw.identity, self.raw.server_name
        forged = Identity(name, generate_signing_key(mine.key.version))
        other = Identity("other.example", generate_signing_key("other"))
        bare = {key: value for key, value in good.items() if key != "signatures"}
        yield "no signature", {**bare, "signatures": {}}
        yield "no key", {**bare, "signatures": {name: {}}}
        yield "signed by another server", signed_event(other, bare)
        yield "a forged key", signed_event(forged, bare)
        yield "a key that has expired", signed_event(self.retired, bare)
        yield "no base64", {**bare, "signatures": {name: {mine.key_id: "*"}}}
        yield "another event's signature", {**self.lpdu(), "signatures": good["signatures"]}
        yield "another time than signed", {**good, "origin_server_ts": good["origin_server_ts"] + 1}

        # What follows is signed with keys that the server, which has just been asked, does not publish.
        yield "an unlisted key", signed_event(Identity(name, generate_signing_key("unlisted")), bare)
        signature = good["signatures"][name][mine.key_id]
        yield "the signature under another key", {**bare, "signatures": {name: {"ed25519:other": signature}}}
        yield "the signature under no key", {**bare, "signatures": {name: {"rsa:1": signature, "": signature}}}

    async def send(self, *pdus: object) -> Answer:
        """Send a transaction of its own."""
        self.sent += 1
        target = path("send", f"bad{self.sent}")
        return await self.raw.client.request(self.us.server_name, "PUT", target, {"pdus": list(pdus)})

    async def post(self, name: str, content: object) -> Answer:
        """Ask something that carries a transaction ID of its own."""
        self.sent += 1
        return await self.raw.client.request(self.us.server_name, "POST", path(name, f"bad{self.sent}"), content)

    def judge_failed(self, what: str, answer: Answer, lpdu: JsonObject | None = None, **fields: object) -> None:
        """That exactly one event failed, for a reason that is given, and none was accepted."""
        self.judge(what, answer, 200)
        failed = answer.json.get("failed_pdus", {}) if answer.status == 200 else {}
        named = next(iter(failed), None)
        entry: Any = failed.get(named, {})
        good = len(failed) == 1 and isinstance(entry.get("error"), str) and len(entry["error"]) > 3
        if not good or "org.lmatrix.accepted" in answer.json or (lpdu is not None and named != event_id(lpdu)):
            self.wrong.append(f"{what}: {answer.body[:300]!r}")
        if any(entry.get(key) != value for key, value in fields.items()):
            self.wrong.append(f"{what}: {entry} instead of {fields}")

    async def test_lpdus(self) -> None:
        """What has not the shape of an LPDU, is not signed by its sender's server, or is not allowed, does not get in.

        In a transaction it fails by itself, and the good event beside it is accepted; in ``send_join`` it is refused:
        400 M_BAD_JSON for its shape, 403 M_FORBIDDEN for its signatures.
        """
        await self.stage()
        for what, lpdu in self.malformed():
            self.judge_failed(f"send: {what}", await self.send(lpdu))
            self.judge(f"send_join: {what}", await self.post("send_join", lpdu), 400, "M_BAD_JSON")
        for what, lpdu in self.unsigned():
            self.judge_failed(f"send: {what}", await self.send(lpdu), lpdu)
            self.judge(f"send_join: {what}", await self.post("send_join", lpdu), 403, "M_FORBIDDEN")
        content = {"membership": "join", "reason": "x" * 66_000}
        large = rehashed(self.raw.identity, {**self.lpdu(), "content": content})
        self.judge_failed("send: too large", await self.send(large), large)
        self.judge("send_join: too large", await self.post("send_join", large), 413, "M_TOO_LARGE")
        await self.assert_nothing_happened()

        client, us = self.raw.client, self.us.server_name
        good = client.message(self.room_id, self.member, "good", hub_server=us)
        bad = [lpdu for _, lpdu in (*list(self.malformed())[:5], *self.unsigned())]
        answer = await self.send(*bad[:8], good, *bad[8:])
        self.judge("a good one among bad ones", answer, 200)
        accepted = answer.json["org.lmatrix.accepted"]
        self.assertEqual([event_id(good)], list(accepted))
        latest = await self.alice.latest(self.room_id)
        self.assertEqual((accepted[event_id(good)], "good"), (latest["event_id"], latest["content"]["body"]))

    async def test_what_is_not_allowed(self) -> None:
        """Events that are well made, but that the sender may not send: failed in a transaction, with the reason."""
        await self.stage()
        client, us, room_id, member = self.raw.client, self.us.server_name, self.room_id, self.member
        strange, alice = self.raw.identity.user("strange"), self.alice.user_id
        table: Mapping[str, JsonObject] = {
            "not in the room": client.message(room_id, strange, "hi", hub_server=us),
            "no power for state": client.lpdu(
                room_id, member, "m.room.name", {"name": "x"}, hub_server=us, state_key=""
            ),
            "another's state": client.lpdu(room_id, member, "org.example", {}, hub_server=us, state_key=alice),
            "a kick": client.member(room_id, member, "leave", target=alice, hub_server=us),
            "a ban": client.member(room_id, member, "ban", target=alice, hub_server=us),
            "a join for another": client.member(room_id, member, "join", target=strange, hub_server=us),
            "a knock": client.member(room_id, strange, "knock", hub_server=us),
            "a leave of a stranger": client.member(room_id, strange, "leave", hub_server=us),
            "an unknown membership": client.member(room_id, member, "guest", hub_server=us),
            "no membership": client.lpdu(room_id, member, "m.room.member", {}, hub_server=us, state_key=member),
            "a second creation": client.lpdu(
                room_id, member, "m.room.create", {"room_version": I1}, hub_server=us, state_key=""
            ),
            "another's user": rehashed(
                self.raw.identity, client.message(room_id, "@x:localhost:1", "x", hub_server=us)
            ),
            "an unknown room": client.message("!unknown:" + us, member, "x", hub_server=us),
        }
        for what, lpdu in table.items():
            self.judge_failed(what, await self.send(lpdu), lpdu)
        for name in (self.raw.server_name, "hub.example"):
            lpdu = client.message(room_id, member, "x", hub_server=name)
            wrong = {"errcode": "M_WRONG_SERVER", "hub_server": us}
            self.judge_failed(f"for the hub {name}", await self.send(lpdu), lpdu, **wrong)
        await self.assert_nothing_happened()

    async def test_tampered_content(self) -> None:
        """Content that does not match its hash: the event goes on as its redacted copy, and the content nowhere.

        What an old key signed while it was in use is taken.
        """
        await self.stage()
        client, us = self.raw.client, self.us.server_name
        lpdu = client.message(self.room_id, self.member, "what was signed", hub_server=us)
        answer = await self.send({**lpdu, "content": {"msgtype": "m.text", "body": "what was not"}})
        self.judge("tampered", answer, 200)
        latest = await self.alice.latest(self.room_id)
        self.assertEqual([latest["event_id"]], list(answer.json["org.lmatrix.accepted"].values()))
        self.assertEqual({}, latest["content"])
        log = self.us.place.database.read_bytes()
        self.assertNotIn(b"what was not", log)

        content = {"msgtype": "m.text", "body": "signed long ago"}
        bare = client.lpdu(
            self.room_id, self.member, "m.room.message", content, hub_server=us, origin_server_ts=1_700_000_000_000
        )
        bare = {key: value for key, value in bare.items() if key != "signatures"}
        answer = await self.send(signed_event(self.retired, bare))
        self.judge("an old key's", answer, 200)
        self.assertEqual("signed long ago", (await self.alice.latest(self.room_id))["content"]["body"])
        self.assertEqual([], self.wrong)

    async def test_transactions(self) -> None:
        """A transaction's shape and bounds; the same again has the same answer; another in flight is M_BAD_STATE.

        While one is carried out that takes long, for another server's key is waited for, the same transaction under
        either path shares its answer, another one of the same server is refused, and other servers are not concerned.
        """
        await self.stage()
        client, us, room_id, member = self.raw.client, self.us.server_name, self.room_id, self.member
        edu = {"type": "org.example", "sender": member, "content": {}}
        for what, content in (
            ("no pdus", {}),
            *((f"pdus are {value!r}", {"pdus": value}) for value in (None, {}, "x", 1, [1], ["x"], [[]], [None])),
            *((f"edus are {value!r}", {"pdus": [], "edus": value}) for value in (None, {}, "x", 1, [1], ["x"], [[]])),
            ("51 pdus", {"pdus": [{}] * 51}),
            ("101 edus", {"pdus": [], "edus": [edu] * 101}),
        ):
            for form in ("stable", "unstable"):
                answer = await client.request(us, "PUT", path("send", "shape", form=form), content)
                self.judge(f"{form}: {what}", answer, 400, "M_BAD_JSON")
        answer = await client.request(us, "PUT", path("send", "x" * 256), {"pdus": []})
        self.judge("a transaction ID that is too long", answer, 400, "M_BAD_JSON")
        most = {"pdus": [], "edus": [edu] * 100}
        self.judge("100 edus", await client.request(us, "PUT", path("send", "most"), most), 200)
        await self.assert_nothing_happened()

        said = client.message(room_id, member, "said once", hub_server=us)
        answers = [await client.send(us, "once", [said], form=form) for form in ("stable", "unstable", "stable")]
        self.judge("a transaction", answers[0], 200)
        self.assertEqual([answers[0].body] * 3, [answer.body for answer in answers])
        again = await client.send(us, "another ID", [said])
        self.assertEqual(answers[0].json, again.json)
        other = client.message(room_id, member, "under an ID that was used", hub_server=us)
        self.judge("another body under the same ID", await client.send(us, "once", [other]), 200)
        bodies = [event["content"].get("body") for event in await self.alice.timeline(room_id)]
        self.assertEqual(["said once", "under an ID that was used"], bodies[-2:])
        self.assertEqual(1, bodies.count("said once"))

        # A transaction ID counts for its own endpoint, under either of its paths.
        for change in ("join", "leave"):
            lpdu = client.member(room_id, member, change, hub_server=us)
            targets = [path(f"send_{change}", "once", form=form) for form in ("stable", "unstable")]
            first, second = [await client.request(us, "POST", target, lpdu) for target in targets]
            self.judge(f"send_{change}", first, 200)
            self.assertEqual(first.json, second.json)
            latest = await self.alice.latest(room_id)
            self.assertEqual(
                (change, lpdu["origin_server_ts"]), (latest["content"]["membership"], latest["origin_server_ts"])
            )
        await client.join(us, room_id, member)

        slow, third = self.signing_server(), self.signing_server()
        slow.key_gate = Deferred()
        unknown = slow.client.message(room_id, slow.identity.user("slow"), "x", hub_server=us)
        held = [Deferred.fromCoroutine(client.send(us, "held", [unknown], form=f)) for f in ("stable", "unstable")]
        await eventually("the key is waited for", lambda: slow.keys_asked)
        self.judge("another one in flight", await client.send(us, "other", []), 400, "M_BAD_STATE")
        self.judge("another body in flight", await client.send(us, "held", []), 400, "M_BAD_STATE")
        self.judge("another server's", await third.client.send(us, "other", []), 200)
        self.judge("another endpoint", await client.request(us, "GET", path("event", self.head)), 200)
        slow.key_gate.callback(None)
        shared = await gatherResults(held, consumeErrors=True)
        self.judge_failed("the one that took long", shared[0], unknown)
        self.assertEqual(shared[0].body, shared[1].body)
        self.judge("and after it", await client.send(us, "other", []), 200)
        self.assertEqual([], self.wrong)
