"""A stored room is checked again: what is right passes, and whatever is changed behind the server's back is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.events.building import build_hub_event
from lmatrix.events.creation import Preset
from lmatrix.events.room_versions import room_version
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.room_examination import Examined, Finding, examine_room
from lmatrix.storage.examination import SqlExaminationStore
from tests.rooms.network import NetworkTestCase, Server, done, result_of


class ExaminationTestCase(NetworkTestCase):
    """Rooms that have seen something, and their examination."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()
        self.unknown: set[str] = set()

    def keys_of(self, server: str) -> Mapping[str, KnownKey]:
        if server in self.unknown:
            return {}
        keys = self.network.servers[server].identity.keys
        return {key.key_id: KnownKey(key.key_id, key.public) for key in keys}

    def examine(self, server: Server, room_id: str | None = None) -> tuple[Examined, list[Finding]]:
        """What is found in a room."""
        examined = Examined(room_id or self.room_id)

        def work(tx: Any) -> list[Finding]:
            store = SqlExaminationStore()
            return list(examine_room(tx, store, examined.room_id, server.name, self.keys_of, examined))

        return examined, result_of(server.database.read(work))

    def assert_sound(self, server: Server, room_id: str | None = None) -> Examined:
        examined, findings = self.examine(server, room_id)
        self.assertEqual([], [str(finding) for finding in findings], server.name)
        return examined

    def assert_found(self, server: Server, *words: str) -> None:
        """Each of these is among what is found."""
        _, findings = self.examine(server)
        said = "\n".join(map(str, findings))
        for word in words:
            self.assertIn(word, said)

    def sql(self, server: Server, statement: str, *parameters: object) -> None:
        """Change the database behind the server's back."""
        result_of(server.database.write(lambda tx: tx.execute(statement, parameters).fetchall()))

    def turns(self) -> None:
        for _ in range(100):
            self.network.clock.advance(0)
        self.network.settle()
        for _ in range(100):
            self.network.clock.advance(0)


class SoundRooms(ExaminationTestCase):
    def test_hub_and_participants(self) -> None:
        """A room with state, redactions, kicks and refusals is sound everywhere; the hub's reaches to its beginning."""
        redacted = self.say(self.north, self.room_id, self.bob, "never mind")
        result_of(self.hub.send(self.room_id, self.alice, "hello"))
        users = self.hub.floor.local_users
        done(users.redact(self.room_id, self.alice, redacted, None))
        done(users.send(self.room_id, self.alice, "m.room.topic", {"topic": "secret"}, state_key=""))
        [topic] = [pdu for pdu in self.hub.pdus(self.room_id) if pdu.type == "m.room.topic"]
        done(users.redact(self.room_id, self.alice, topic.event_id, None))
        self.network.settle()
        done(users.membership(self.room_id, self.alice, self.carol, "leave", "go"))
        self.network.settle()
        self.assertTrue(self.assert_sound(self.hub).from_the_beginning)
        for server in (self.north, self.south):
            examined = self.assert_sound(server)
            self.assertFalse(examined.from_the_beginning)
            self.assertEqual(0, examined.unjudged)

    def test_several_stays(self) -> None:
        """Leaving and coming back leaves a hole, or none; either is no fault."""
        self.say(self.south, self.room_id, self.carol, "one")
        for between in ([], ["missed", "that"]):
            leaving = Deferred.fromCoroutine(self.south.floor.local_users.leave(self.carol, self.room_id, None))
            self.network.settle()
            result_of(leaving)
            for text in between:
                self.say(self.hub, self.room_id, self.alice, text)
            self.south.join(self.carol, self.room_id, self.hub.name)
        self.say(self.south, self.room_id, self.carol, "back")
        self.assert_sound(self.south)

    def test_history_that_was_fetched(self) -> None:
        """History below a stay is chained and signed; once it reaches down to the beginning, it is replayed too."""
        room_id = self.hub.create_room(self.alice)
        for number in range(230):
            self.say(self.hub, room_id, self.alice, str(number))
        self.north.join(self.bob, room_id, self.hub.name)
        position = self.north.log(room_id)[0].position
        self.network.finished(self.north.floor.local_users.backfill_before(room_id, position, 50))
        examined = self.assert_sound(self.north, room_id)
        self.assertEqual((99, False), (examined.unjudged, examined.from_the_beginning))
        for _ in range(2):
            position = self.north.log(room_id)[0].position
            self.network.finished(self.north.floor.local_users.backfill_before(room_id, position, 100))
        examined = self.assert_sound(self.north, room_id)
        self.assertEqual((0, True), (examined.unjudged, examined.from_the_beginning))
        self.assertEqual(len(self.hub.log(room_id)), examined.events)

    def test_after_transfers(self) -> None:
        """A room that moved around is sound on every server, and the hubs hold it from its beginning."""
        for giver, taker in ((self.hub, self.north), (self.north, self.south), (self.south, self.hub)):
            moving = Deferred.fromCoroutine(giver.floor.transfer.transfer(self.room_id, taker.name))
            self.turns()
            self.successResultOf(moving)
            self.say(taker, self.room_id, {"north": self.bob, "south": self.carol}.get(taker.name[:5], self.alice), "!")
        for server in self.network.servers.values():
            self.assertTrue(self.assert_sound(server).from_the_beginning, server.name)

    def test_an_event_that_the_rules_refuse(self) -> None:
        """What a participant holds as rejected is refused again, and everything after it is sound."""
        state = done(self.hub.floor.rooms.load(self.room_id)).state
        bad = build_hub_event(
            room_version("I.1"),
            room_id=self.room_id,
            type="m.room.name",
            sender="@ghost:hub.example",
            content={"name": "boo"},
            origin_server_ts=1,
            hub_server=self.hub.name,
            auth_events=[state.get("m.room.create").event_id, state.get("m.room.power_levels").event_id],
            prev_events=[self.hub.log(self.room_id)[-1].event_id],
            keys=self.hub.identity.keys,
            state_key="",
        )
        self.north.receive(self.hub.name, "bad", [dict(bad.fields)])
        self.assert_sound(self.north)
        self.sql(self.north, "UPDATE events SET standing = 'accepted' WHERE event_id = ?", bad.event_id)
        self.assert_found(self.north, f"{bad.event_id}: rule ")


class DamagedRooms(ExaminationTestCase):
    """One change in the database for each test."""

    def last(self, server: Server) -> str:
        return server.log(self.room_id)[-1].event_id

    def setUp(self) -> None:
        super().setUp()
        self.event_id = self.say(self.north, self.room_id, self.bob, "hello")
        self.say(self.hub, self.room_id, self.alice, "hello yourself")

    def change(self, server: Server, event_id: str, **changes: Any) -> None:
        """Change fields of a stored event's JSON."""
        [event] = [one for one in server.log(self.room_id) if one.event_id == event_id]
        fields = parse_object(event.canonical) | changes
        self.sql(server, "UPDATE events SET canonical = ? WHERE event_id = ?", encode(fields), event_id)

    def test_content(self) -> None:
        """A changed content does not fit the hashes."""
        self.change(self.hub, self.event_id, content={"msgtype": "m.text", "body": "goodbye"})
        self.assert_found(self.hub, f"{self.event_id}: its content is not what its hashes say")

    def test_what_is_signed(self) -> None:
        """A changed sender is no longer signed for, nor what the ID and the columns say."""
        self.change(self.hub, self.event_id, sender=self.carol)
        self.assert_found(self.hub, "its hash gives it the event ID", "the column sender says", "signature of")

    def test_bytes(self) -> None:
        """The same JSON in other bytes, and what is no JSON at all."""
        self.sql(
            self.hub, "UPDATE events SET canonical = CAST(canonical || ' ' AS BLOB) WHERE event_id = ?", self.event_id
        )
        self.assert_found(self.hub, "its bytes are not canonical JSON")
        self.sql(self.hub, "UPDATE events SET canonical = x'00' WHERE event_id = ?", self.event_id)
        self.assert_found(self.hub, "it is no event")

    def test_a_signature_is_missing(self) -> None:
        """Without the participant's signature, or without its key, nobody knows that it said this."""
        self.unknown.add(self.north.name)
        self.assert_found(self.hub, f"{self.event_id}: signature of {self.north.name}: none of its keys is known")
        self.unknown.clear()
        self.change(self.hub, self.event_id, signatures={})
        self.assert_found(self.hub, f"{self.event_id}: signature of")

    def test_an_event_is_missing(self) -> None:
        """A hole in the log."""
        self.sql(self.hub, "DELETE FROM events WHERE event_id = ?", self.event_id)
        self.assert_found(self.hub, "nothing is held at", "it follows")

    def test_the_head(self) -> None:
        """The end of the log is cut off, or the head is elsewhere."""
        self.sql(self.hub, "DELETE FROM events WHERE event_id = ?", self.last(self.hub))
        self.assert_found(self.hub, "its head is said to be")

    def test_beyond_the_head(self) -> None:
        """An event after the head."""
        self.sql(self.hub, "UPDATE rooms SET head_position = head_position - 1, head_event_id = ?", self.event_id)
        self.assert_found(self.hub, "it lies beyond the end of the log")

    def test_state(self) -> None:
        """The current state, and its history, are what the log makes them."""
        self.sql(self.hub, "UPDATE current_state SET event_nid = NULL WHERE type = 'm.room.join_rules'")
        self.assert_found(self.hub, "current state: (m.room.join_rules, '') is nothing; replayed it is $")
        self.sql(self.north, "UPDATE current_state SET membership = 'leave' WHERE state_key = ?", self.bob)
        self.assert_found(self.north, "says 'leave' in its column")
        self.sql(self.south, "UPDATE state_changes SET position = position + 1 WHERE state_key = ?", self.carol)
        self.assert_found(self.south, "the history of the state has nothing in its place", "the log does not")

    def test_a_snapshot(self) -> None:
        """An event of the state with which a participant began is checked as well."""
        self.sql(self.south, "UPDATE events SET canonical = x'7b7d' WHERE type = 'm.room.create'")
        self.assert_found(self.south, "it is no event")

    def test_deliveries(self) -> None:
        """The hub's log goes to everybody who takes part, and to nobody else."""
        self.sql(self.hub, "UPDATE server_spans SET until_position = 5 WHERE server = ?", self.south.name)
        self.assert_found(self.hub, f"{self.south.name} takes part, and its log would not be sent there")
        self.sql(self.hub, "UPDATE server_spans SET server = 'x.example', until_position = NULL WHERE server LIKE 's%'")
        self.assert_found(self.hub, "its log would be sent to x.example, which it is not owed")

    def test_redactions(self) -> None:
        """Only a redaction of the room takes content away, and it takes it from everybody."""
        done(self.hub.floor.local_users.redact(self.room_id, self.alice, self.event_id, None))
        self.network.settle()
        self.assert_sound(self.north)
        self.sql(self.north, "UPDATE events SET redacted_by = '$other' WHERE event_id = ?", self.event_id)
        self.assert_found(self.north, "it was redacted by $other, which is no redaction of this room")
        other = self.last(self.north)
        self.sql(self.north, "UPDATE events SET redacted_by = ? WHERE type = 'm.room.topic'", other)
        [join] = [pdu for pdu in self.north.pdus(self.room_id) if pdu.state_key == self.bob]
        self.sql(self.north, "UPDATE events SET redacted_by = ? WHERE event_id = ?", other, join.event_id)
        self.assert_found(self.north, f"{join.event_id}: it was redacted by {other}, which may not do that")

    def test_a_redaction_that_was_not_carried_out(self) -> None:
        """What is redacted in the room has no content left in the database."""
        [before] = [event for event in self.hub.log(self.room_id) if event.event_id == self.event_id]
        done(self.hub.floor.local_users.redact(self.room_id, self.alice, self.event_id, None))
        self.sql(
            self.hub,
            "UPDATE events SET canonical = ?, redacted_by = NULL WHERE event_id = ?",
            before.canonical,
            self.event_id,
        )
        self.assert_found(self.hub, f"{self.event_id}: {self.last(self.hub)} redacts it, and it still has its content")

    def test_said_once_in_the_room_twice(self) -> None:
        """One LPDU is one event."""
        [event] = [one for one in self.hub.pdus(self.room_id) if one.event_id == self.event_id]
        self.sql(
            self.hub,
            "UPDATE events SET lpdu_hash = ?, sender = ? WHERE event_id = ?",
            event.lpdu_hash,
            self.bob,
            self.last(self.hub),
        )
        self.assert_found(self.hub, f"what {self.bob} sent once is in the room as {self.event_id} too")

    def test_no_such_room(self) -> None:
        """A room that is not held, and one of a version that is not known."""
        _, [finding] = self.examine(self.hub, "!other:hub.example")
        self.assertIn("does not hold", finding.reason)
        self.sql(self.hub, "UPDATE rooms SET room_version = 'X.9'")
        self.assert_found(self.hub, "it cannot be checked: unsupported room version")


class TolerantVersion(ExaminationTestCase):
    def test_v02(self) -> None:
        """Rooms of the prototypes' version are checked by its own rules."""
        version = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"
        self.room_id = self.shared_room(version, preset=Preset.PUBLIC_CHAT)
        self.say(self.north, self.room_id, self.bob, "hello")
        for server in self.network.servers.values():
            self.assert_sound(server)
