"""What an event of one side is on the other."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.replication.content import Unmappable, references
from lmatrix.replication.interfaces import SOURCE
from lmatrix.replication.names import Names
from lmatrix.replication.translation import DagContext, Silent, Source, Translated, to_dag, to_lm

US = "us.example"
BOB = "@bob:north.example"
GHOST = f"@lm.bob=3anorth.example:{US}"
NAMES = Names(US, f"@bridge:{US}")
CONTEXT = DagContext((), {})
EVENTS = {"$lm": "$dag"}
BACK = {"$dag": "$lm"}


def outward(event_type: str, content: dict[str, Any], state_key: str | None = None, redacts: str | None = None) -> Any:
    return to_dag(Source(event_type, state_key, content, redacts), NAMES, EVENTS, CONTEXT)


def inward(event_type: str, content: dict[str, Any], state_key: str | None = None, redacts: str | None = None) -> Any:
    return to_lm(Source(event_type, state_key, content, redacts), NAMES, BACK, CONTEXT)


class TranslationTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """What both sides can say comes back as it was: messages, media, edits, reactions, replies, threads, pins."""
        rich = {
            "msgtype": "m.text",
            "body": "hi bob",
            "formatted_body": '<a href="https://matrix.to/#/@bob:north.example">bob</a> https://matrix.to/#/!r:x/$e',
            "m.mentions": {"user_ids": [BOB], "room": True},
        }
        for event_type, state_key, content in (
            ("m.room.message", None, rich),
            ("m.room.message", None, {"msgtype": "m.image", "body": "x", "url": "mxc://north.example/abc"}),
            (
                "m.room.message",
                None,
                {**rich, "m.new_content": rich, "m.relates_to": {"rel_type": "m.replace", "event_id": "$lm"}},
            ),
            ("m.reaction", None, {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$lm", "key": "+"}}),
            ("m.room.message", None, {**rich, "m.relates_to": {"m.in_reply_to": {"event_id": "$lm"}}}),
            (
                "m.room.message",
                None,
                {
                    **rich,
                    "m.relates_to": {
                        "rel_type": "m.thread",
                        "event_id": "$lm",
                        "is_falling_back": True,
                        "m.in_reply_to": {"event_id": "$lm"},
                    },
                },
            ),
            ("m.room.name", "", {"name": "Room"}),
            ("m.room.topic", "", {"topic": "Things"}),
            ("m.room.avatar", "", {"url": "mxc://north.example/abc"}),
            ("m.room.history_visibility", "", {"history_visibility": "joined"}),
            ("m.room.join_rules", "", {"join_rule": "knock"}),
            ("m.room.pinned_events", "", {"pinned": ["$lm"]}),
            ("m.room.member", BOB, {"membership": "ban", "reason": "rude", "displayname": "Bob"}),
            ("m.room.power_levels", "", {"users": {BOB: 50}, "ban": 60}),
            ("org.example.thing", None, {"any": {"thing": [1, None, "x"]}}),
            ("org.example.own", BOB, {"x": 1}),
        ):
            there = outward(event_type, content, state_key)
            self.assertEqual(there.state_key, GHOST if state_key == BOB else state_key)
            back = inward(there.type, there.content, there.state_key)
            self.assertEqual(back, Translated(event_type, state_key, content))

    def test_names_on_the_dag_side(self) -> None:
        """Users and events within the content are those of the DAG side."""
        content = {
            "formatted_body": '<a href="https://matrix.to/#/%40bob%3anorth.example">b</a>',
            "m.mentions": {"user_ids": [BOB, 7]},
            "m.relates_to": {"m.in_reply_to": {"event_id": "$lm"}},
        }
        there = outward("m.room.message", content)
        self.assertEqual(
            there.content,
            {
                "formatted_body": f'<a href="https://matrix.to/#/@lm.bob=3anorth.example:{US}">b</a>',
                "m.mentions": {"user_ids": [GHOST]},
                "m.relates_to": {"m.in_reply_to": {"event_id": "$dag"}},
            },
        )

    def test_unknown_targets(self) -> None:
        """A reply to, or an edit of, what the other side does not have stays a message; a reaction says nothing."""
        edit = {
            "body": "* new",
            "m.new_content": {"body": "new"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"},
        }
        self.assertEqual(outward("m.room.message", edit).content, {"body": "* new"})
        reply = {"body": "yes", "m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}
        self.assertEqual(outward("m.room.message", reply).content, {"body": "yes"})
        thread = {"body": "yes", "m.relates_to": {"rel_type": "m.thread", "event_id": "$x", "is_falling_back": True}}
        self.assertEqual(outward("m.room.message", thread).content, {"body": "yes"})
        with self.assertRaises(Unmappable) as raised:
            outward("m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$x", "key": "+"}})
        self.assertEqual(raised.exception.cause, "unknown_target")

    def test_redactions(self) -> None:
        """A redaction names its target on the other side; of an unknown target there is nothing to redact."""
        there = outward("m.room.redaction", {"redacts": "$lm", "reason": "oops"}, redacts="$lm")
        self.assertEqual(there, Translated("m.room.redaction", None, {"redacts": "$dag", "reason": "oops"}))
        # Before room version 11 the target is not in the content.
        back = inward("m.room.redaction", {"reason": "oops"}, redacts="$dag")
        self.assertEqual(back.content, {"redacts": "$lm", "reason": "oops"})
        self.assertRaises(Unmappable, outward, "m.room.redaction", {"redacts": "$x"}, None, "$x")

    def test_join_rules_of_the_dag_side(self) -> None:
        """What only the DAG side knows becomes the nearest rule that lets in nobody more."""
        for theirs, ours in {"restricted": "invite", "knock_restricted": "knock", "odd": "invite"}.items():
            there = inward("m.room.join_rules", {"join_rule": theirs, "allow": [{"room_id": "!x"}]}, "")
            self.assertEqual(there.content, {"join_rule": ours})
        self.assertEqual(inward("m.room.join_rules", {"join_rule": 7}, "").content, {"join_rule": "invite"})

    def test_memberships(self) -> None:
        """Of a membership only what both sides understand is carried over."""
        content = {"membership": "join", "join_authorised_via_users_server": "@a:b", "third_party_invite": {}}
        self.assertEqual(inward("m.room.member", content, GHOST).content, {"membership": "join"})
        self.assertRaises(Unmappable, inward, "m.room.member", {"membership": "odd"}, GHOST)

    def test_each_side_has_its_own(self) -> None:
        """Create events, hubs and our own bookkeeping stay where they are, and are no loss."""
        for event_type in ("m.room.create", "m.room.hub", "org.lmatrix.mirror"):
            self.assertEqual(inward(event_type, {}, ""), Silent())
            self.assertEqual(outward(event_type, {}, ""), Silent())

    def test_the_bot_is_not_there(self) -> None:
        """That the bot is invited or comes is nothing that the LM side misses."""
        self.assertEqual(inward("m.room.member", {"membership": "invite"}, f"@bridge:{US}"), Silent())

    def test_what_has_no_equivalent(self) -> None:
        """It is named, never silently dropped."""
        for event_type, cause in {
            "m.room.encryption": "encryption",
            "m.room.encrypted": "encryption",
            "m.room.server_acl": "server_acl",
            "m.room.tombstone": "upgrade",
            "m.space.child": "space",
        }.items():
            for direction in (inward, outward):
                with self.assertRaises(Unmappable) as raised:
                    direction(event_type, {}, "")
                self.assertEqual(raised.exception.cause, cause)

    def test_forged_marks(self) -> None:
        """A mark of ours that a user puts into an event is not carried over."""
        self.assertEqual(inward("m.room.message", {SOURCE: {"event_id": "$x"}, "body": "b"}).content, {"body": "b"})

    def test_references(self) -> None:
        """What is looked up is what the translation may need."""
        content = {"m.relates_to": {"event_id": "$a", "m.in_reply_to": {"event_id": "$b"}}, "pinned": ["$c"]}
        self.assertEqual(references("m.room.message", content), {"$a", "$b"})
        self.assertEqual(references("m.room.pinned_events", content), {"$a", "$b", "$c"})
        self.assertEqual(references("m.room.message", {"m.relates_to": {"event_id": 7, "m.in_reply_to": []}}), set())
