"""Evidence against hubs: what is exported can be judged by somebody who was not there, and proves what it proves."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred

from lmatrix.canonical_json import encode, parse_object
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import BadRequest, NotFound
from lmatrix.events.building import build_hub_event, build_lpdu, complete_lpdu
from lmatrix.events.forms import Pdu
from lmatrix.events.hashing import content_hash
from lmatrix.events.room_versions import room_version
from lmatrix.events.signatures import KnownKey
from lmatrix.rooms.evidence_document import EvidenceDocument, EvidenceItem
from lmatrix.rooms.evidence_export import EvidenceExporter
from lmatrix.rooms.evidence_judgement import Judgement, Weight, judge
from lmatrix.rooms.interfaces import Evidence
from lmatrix.storage.overview import SqlOverviewStore
from tests.rooms.network import MemoryKeyring, NetworkTestCase, Server, done, result_of

VERSION = room_version("I.1")


class EvidenceTestCase(NetworkTestCase):
    """A hub that does what it must not, and the north, which keeps what it sees."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.shared_room()

    def head(self) -> str:
        return self.hub.log(self.room_id)[-1].event_id

    def auth_events(self, sender: str) -> list[str]:
        state = done(self.hub.floor.rooms.load(self.room_id)).state
        wanted = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
        return [event.event_id for key in wanted if (event := state.get(*key)) is not None]

    def signed_by_the_hub(self, prev_event: str, body: str, **more: Any) -> Pdu:
        sender = more.pop("sender", self.alice)
        auth_events = more.pop("auth_events", None)
        return build_hub_event(
            VERSION,
            room_id=self.room_id,
            type=more.pop("type", "m.room.message"),
            sender=sender,
            content=more.pop("content", {"body": body}),
            origin_server_ts=17,
            hub_server=self.hub.name,
            auth_events=self.auth_events(sender) if auth_events is None else auth_events,
            prev_events=[prev_event],
            keys=self.hub.identity.keys,
            **more,
        )

    def said_by_bob(self, body: str) -> Pdu:
        """A message of the north's user, as the hub completes it."""
        lpdu = build_lpdu(
            VERSION,
            room_id=self.room_id,
            type="m.room.message",
            sender=self.bob,
            content={"body": body},
            origin_server_ts=18,
            hub_server=self.hub.name,
            server_name=self.north.name,
            keys=self.north.identity.keys,
        )
        return complete_lpdu(
            lpdu,
            auth_events=self.auth_events(self.bob),
            prev_events=[self.head()],
            server_name=self.hub.name,
            keys=self.hub.identity.keys,
        )

    def resigned(self, pdu: Pdu, **changes: Any) -> Pdu:
        """The hub's own version of an event: changed, hashed and signed anew."""
        fields = {**pdu.fields, **changes}
        fields["hashes"] = {**fields["hashes"], "sha256": content_hash(fields)}
        fields["signatures"] = {name: keys for name, keys in fields["signatures"].items() if name != self.hub.name}
        bare = Pdu.parse(fields, VERSION)
        own = {key.key_id: key.sign(bare.signing_bytes) for key in self.hub.identity.keys}
        return Pdu.parse({**fields, "signatures": {**fields["signatures"], self.hub.name: own}}, VERSION)

    def exporter(self, server: Server) -> EvidenceExporter:
        return EvidenceExporter(
            server.name, server.database, server.rooms, SqlOverviewStore(), MemoryKeyring(self.network)
        )

    def export(self, server: Server | None = None) -> EvidenceDocument:
        """What the server keeps, after a journey through JSON."""
        page = done(self.exporter(server or self.north).page(self.room_id, 0, 100))
        self.assertIsNone(page.last)
        return EvidenceDocument.parse(parse_object(encode(page.document.to_json())))

    def keep(self, kind: str, event: Pdu, against: Pdu | None = None) -> None:
        evidence = Evidence(
            self.room_id, kind, event.event_id, event.canonical, against.canonical if against else None, "because", 5
        )
        result_of(self.north.database.write(lambda tx: self.north.rooms.add_evidence(tx, evidence)))

    def judged(self, kind: str, event: Pdu, against: Pdu | None = None, /, **changes: Any) -> Judgement:
        """The judgement of a piece of evidence that the north keeps, perhaps changed on its way."""
        self.keep(kind, event, against)
        document = self.export()
        return judge(
            attrs.evolve(document.items[-1], **changes), document.room_id, document.room_version, document.keys
        )

    def assert_judged(self, weight: Weight, words: str, judgement: Judgement) -> None:
        self.assertEqual(weight, judgement.weight, judgement.words)
        self.assertIn(words, judgement.words)


class Kept(EvidenceTestCase):
    def test_a_fork(self) -> None:
        """Two successors of one event, as a participant keeps them, prove by themselves what the hub did."""
        head = self.head()
        result_of(self.hub.send(self.room_id, self.alice, "to the north"))
        told = self.hub.pdus(self.room_id)[-1]
        other = self.signed_by_the_hub(head, "to the south")
        for number, pdu in enumerate((told, other)):
            self.north.receive(self.hub.name, f"t{number}", [dict(pdu.fields)])
        document = self.export()
        [item] = document.items
        judgement = judge(item, document.room_id, document.room_version, document.keys)
        self.assert_judged(Weight.PROVEN, f"hub.example signed both {other.event_id} and {told.event_id}", judgement)

    def test_what_the_rules_refuse(self) -> None:
        """An event that the events which it cites forbid proves itself, whoever says what the state was."""
        ghost = self.signed_by_the_hub(self.head(), "boo", sender="@ghost:hub.example")
        self.north.receive(self.hub.name, "t", [dict(ghost.fields)])
        document = self.export()
        [item] = document.items
        self.assertEqual("rejected", item.kind)
        judgement = judge(item, document.room_id, document.room_version, document.keys)
        self.assert_judged(Weight.PROVEN, "which the events that it cites forbid", judgement)

    def test_what_other_state_refuses(self) -> None:
        """An event that only uncited state forbids is proven to whoever believes that this was the state."""
        auth_events = self.auth_events(self.alice)
        levels = {"users": {self.alice: 0}, "events_default": 50}
        lowered = Deferred.fromCoroutine(
            self.hub.floor.local_users.send(self.room_id, self.alice, "m.room.power_levels", levels, state_key="")
        )
        result_of(lowered)
        self.network.settle()
        bad = self.signed_by_the_hub(self.head(), "still here", auth_events=auth_events)
        self.north.receive(self.hub.name, "t", [dict(bad.fields)])
        document = self.export()
        judgement = judge(document.items[-1], document.room_id, document.room_version, document.keys)
        self.assert_judged(Weight.NEEDS_THE_LOG, "which is refused if the state was what the file shows", judgement)

    def test_pages(self) -> None:
        """Evidence comes in pages, in the order in which it was found; of an unknown room there is none."""
        pdus = [self.signed_by_the_hub("$" + str(number) * 43, "x") for number in range(5)]
        for pdu in pdus:
            self.keep("gap", pdu)
        found: list[EvidenceItem] = []
        after: int | None = 0
        while after is not None:
            page = done(self.exporter(self.north).page(self.room_id, after, 2))
            found += page.document.items
            after = page.last
        self.assertEqual([pdu.event_id for pdu in pdus], [Pdu.parse(item.event, VERSION).event_id for item in found])
        self.failureResultOf(Deferred.fromCoroutine(self.exporter(self.north).page("!x:y", 0, 2)), NotFound)


class Judged(EvidenceTestCase):
    def test_altered_content(self) -> None:
        """A hub that signs another content than the participant did."""
        said = self.said_by_bob("hello")
        altered = self.resigned(said, content={"body": "goodbye"})
        self.assert_judged(
            Weight.PROVEN, "with another content than north.example did", self.judged("altered", altered)
        )
        self.assert_judged(Weight.NOT_PROVEN, "are right", self.judged("altered", said))

    def test_a_forged_sender(self) -> None:
        """A hub that signs in the name of somebody whose server did not; without that server's key nobody can tell."""
        said = self.said_by_bob("hello")
        forged = self.resigned(said, sender="@mallory:north.example")
        self.assert_judged(Weight.PROVEN, "in the name of @mallory:north.example", self.judged("dropped", forged))
        document = self.export()
        keys = {self.hub.name: document.keys[self.hub.name]}
        judgement = judge(document.items[-1], self.room_id, "I.1", keys)
        self.assert_judged(Weight.NOT_PROVEN, "no key of north.example", judgement)

    def test_changed_after_the_hub_signed(self) -> None:
        """What does not fit the hub's own content hash may have been changed by anybody."""
        said = self.said_by_bob("hello")
        changed = Pdu.parse({**said.fields, "content": {"body": "goodbye"}}, VERSION)
        self.assert_judged(Weight.NOT_PROVEN, "who changed it cannot be told", self.judged("altered", changed))

    def test_not_signed_by_the_hub(self) -> None:
        """Without the hub's signature anybody could have made it; nor does another key do."""
        pdu = self.signed_by_the_hub(self.head(), "x")
        bare = Pdu.parse({**pdu.fields, "signatures": {}}, VERSION)
        self.assert_judged(Weight.NOT_PROVEN, "anybody could have made", self.judged("dropped", bare))
        self.keep("dropped", pdu)
        other = SigningKey.generate("1", b"x" * 32)
        judgement = judge(
            self.export().items[-1], self.room_id, "I.1", {self.hub.name: {"ed25519:1": KnownKey("1", other.public)}}
        )
        self.assert_judged(Weight.NOT_PROVEN, "it does not verify", judgement)

    def test_forks_that_are_none(self) -> None:
        """One event twice, events with different predecessors, events of another room, of other hubs."""
        pdu = self.signed_by_the_hub(self.head(), "x")
        elsewhere = self.signed_by_the_hub("$" + "x" * 43, "y")
        self.assert_judged(Weight.NOT_PROVEN, "both are one event", self.judged("fork", pdu, pdu))
        self.assert_judged(Weight.NOT_PROVEN, "follow different events", self.judged("fork", pdu, elsewhere))
        other = {**pdu.fields, "room_id": "!other:hub.example"}
        self.assert_judged(Weight.NOT_PROVEN, "belongs to", self.judged("fork", pdu, pdu, against=other))
        usurped = build_hub_event(
            VERSION,
            room_id=self.room_id,
            type="m.room.message",
            sender=self.carol,
            content={},
            origin_server_ts=1,
            hub_server=self.south.name,
            auth_events=[],
            prev_events=[self.head()],
            keys=self.south.identity.keys,
        )
        self.assert_judged(Weight.NEEDS_THE_LOG, "one of the two was not the hub", self.judged("fork", pdu, usurped))

    def test_what_cannot_be_shown(self) -> None:
        """A gap, a kind that is not known, an event that the rules allow, an event that is none, an unknown version."""
        pdu = self.signed_by_the_hub(self.head(), "x")
        self.assert_judged(Weight.NOT_PROVEN, "cannot be seen in a file", self.judged("gap", pdu))
        self.assert_judged(Weight.NOT_PROVEN, "nothing in the file shows", self.judged("strange", pdu))
        self.assert_judged(Weight.NOT_PROVEN, "does not show why", self.judged("rejected", pdu))
        known = self.hub.pdus(self.room_id)[-1]
        self.assert_judged(Weight.NOT_PROVEN, "the rules allow", self.judged("rejected", known))
        self.assert_judged(Weight.NOT_PROVEN, "cannot be read", self.judged("gap", pdu, event={"type": 1}))
        self.assert_judged(
            Weight.NOT_PROVEN, "unsupported room version", judge(self.export().items[0], self.room_id, "X.1", {})
        )

    def test_documents_that_are_none(self) -> None:
        """A file of whatever content is a document, or a BadRequest that says why not."""
        self.keep("gap", self.signed_by_the_hub(self.head(), "x"))
        good = self.export().to_json()
        item = good["evidence"][0]
        for change in (
            {"format": "other"},
            {"room_id": 1},
            {"evidence": {}},
            {"evidence": [1]},
            {"evidence": [{**item, "event": None}]},
            {"evidence": [{**item, "number": "1"}]},
            {"evidence": [{**item, "state": "x"}]},
            {"keys": []},
            {"keys": {"no server!": {}}},
            {"keys": {"hub.example": []}},
            {"keys": {"hub.example": {"ed25519:1": 1}}},
            {"keys": {"hub.example": {"ed25519:1": {"key": "short"}}}},
            {"keys": {"hub.example": {"ed25519:1": {"key": "x", "expired_ts": "y"}}}},
        ):
            self.assertRaises(BadRequest, EvidenceDocument.parse, {**good, **change})
