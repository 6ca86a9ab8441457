"""What waits for others: pending LPDUs, invites, answers to transactions; and other servers' keys."""

from __future__ import annotations

from lmatrix.rooms.interfaces import PendingInvite, StoredAnswer
from lmatrix.rooms.key_store import StoredKey, StoredResponse, StoredServerKeys
from lmatrix.storage.transactions import SqlTransactionStore
from tests.storage.logs import ALICE, BOB, ROOM, VERSION, StorageTestCase, lpdu, pdu


class PendingLpduTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pending = self.stores.pending_lpdus

    def test_order_and_settling(self) -> None:
        """Pending LPDUs come in the order in which they were added, by hub, until they are settled."""
        lpdus = [lpdu(n) for n in range(5)]
        numbers = [
            self.write(lambda tx, one=one, hub=hub: self.pending.add(tx, one, hub))
            for one, hub in zip(lpdus, ["h", "h", "i", "h", "h"], strict=True)
        ]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(self.read(self.pending.hubs), ["h", "i"])
        found = self.read(lambda tx: self.pending.for_hub(tx, "h", 0, 3))
        self.assertEqual([one.lpdu_event_id for one in found], [lpdus[n].event_id for n in (0, 1, 3)])
        rest = self.read(lambda tx: self.pending.for_hub(tx, "h", found[-1].pending_id, 3))
        self.assertEqual([one.lpdu_event_id for one in rest], [lpdus[4].event_id])
        one = found[0]
        self.assertEqual((one.room_id, one.room_version, one.hub_server), (ROOM, VERSION.identifier, "h"))
        self.assertEqual((one.sender, one.lpdu_hash, one.canonical), (BOB, "lpdu-0", lpdus[0].canonical))
        self.write(lambda tx: self.pending.settle(tx, [lpdus[2].event_id, lpdus[0].event_id, "$unknown"]))
        self.assertEqual(self.read(self.pending.hubs), ["h"])
        self.assertEqual(len(self.read(lambda tx: self.pending.for_hub(tx, "h", 0, 9))), 3)

    def test_by_hash(self) -> None:
        """The LPDU behind a PDU is found by room, sender and hash."""
        one = lpdu(1)
        self.write(lambda tx: self.pending.add(tx, one, "h"))
        found = self.read(lambda tx: self.pending.by_hash(tx, ROOM, BOB, "lpdu-1"))
        assert found is not None
        self.assertEqual(found.lpdu_event_id, one.event_id)
        self.assertIsNone(self.read(lambda tx: self.pending.by_hash(tx, ROOM, ALICE, "lpdu-1")))

    def test_the_same_twice(self) -> None:
        """An LPDU that is pending already keeps its number; a number is not given out again after settling."""
        first = self.write(lambda tx: self.pending.add(tx, lpdu(1), "h"))
        self.assertEqual(self.write(lambda tx: self.pending.add(tx, lpdu(1), "h")), first)
        self.write(lambda tx: self.pending.settle(tx, [lpdu(1).event_id]))
        self.assertGreater(self.write(lambda tx: self.pending.add(tx, lpdu(2), "h")), first)


class InviteTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.invites = self.stores.invites

    def test_an_invite_and_its_end(self) -> None:
        """An invite is pending until it is removed; a newer one replaces it; its end by a leave is told of."""
        stripped = [{"type": "m.room.name", "state_key": "", "sender": ALICE, "content": {"name": "\U0001f600"}}]
        first, second, left = pdu(1), pdu(2), pdu(3)
        self.assertEqual(self.write(lambda tx: self.invites.put(tx, BOB, ROOM, "I.1", "h", first, [])), 1)
        self.assertEqual(self.write(lambda tx: self.invites.put(tx, BOB, ROOM, "I.1", "i", second, stripped)), 2)
        expected = PendingInvite(BOB, ROOM, "I.1", "i", second.canonical, stripped, 2)
        self.assertEqual(self.read(lambda tx: self.invites.get(tx, BOB, ROOM)), expected)
        self.assertEqual(self.read(lambda tx: self.invites.for_user(tx, BOB)), [expected])
        self.assertEqual(self.read(lambda tx: self.invites.for_user(tx, ALICE)), [])
        self.assertEqual(self.write(lambda tx: self.invites.remove(tx, BOB, ROOM, left)), 3)
        self.assertIsNone(self.read(lambda tx: self.invites.get(tx, BOB, ROOM)))
        [ended] = self.read(lambda tx: self.timeline.ended_invites(tx, BOB, 2, 3))
        self.assertEqual((ended.room_id, ended.canonical, ended.stream), (ROOM, left.canonical, 3))
        self.assertEqual(self.read(lambda tx: self.timeline.ended_invites(tx, BOB, 3, 9)), [])

    def test_joining(self) -> None:
        """An invite that ended by joining is gone without a word."""
        self.write(lambda tx: self.invites.put(tx, BOB, ROOM, "I.1", "h", pdu(1), []))
        self.assertEqual(self.write(lambda tx: self.invites.remove(tx, BOB, ROOM)), 2)
        self.assertEqual(self.read(lambda tx: self.invites.for_user(tx, BOB)), [])
        self.assertEqual(self.read(lambda tx: self.timeline.ended_invites(tx, BOB, 0, 9)), [])

    def test_nothing_to_remove(self) -> None:
        """Removing what is not pending says so, and does not overwrite how it ended."""
        self.assertIsNone(self.write(lambda tx: self.invites.remove(tx, BOB, ROOM)))
        self.write(lambda tx: self.invites.put(tx, BOB, ROOM, "I.1", "h", pdu(1), []))
        self.write(lambda tx: self.invites.remove(tx, BOB, ROOM, pdu(2)))
        self.assertIsNone(self.write(lambda tx: self.invites.remove(tx, BOB, ROOM)))
        [ended] = self.read(lambda tx: self.timeline.ended_invites(tx, BOB, 0, 9))
        self.assertEqual(ended.canonical, pdu(2).canonical)


class TransactionTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.transactions = SqlTransactionStore(kept_ms=1000, kept_per_origin=100)

    def put(self, origin: str, transaction_id: str, now_ms: int, endpoint: str = "send") -> None:
        answer = StoredAnswer(f"hash of {transaction_id} at {now_ms}", 200, b'{"pdus":{}}')
        self.write(lambda tx: self.transactions.put_answer(tx, origin, endpoint, transaction_id, answer, now_ms))

    def get(self, origin: str, transaction_id: str, endpoint: str = "send") -> str | None:
        found = self.read(lambda tx: self.transactions.answer(tx, origin, endpoint, transaction_id))
        return None if found is None else found.body_hash

    def count(self) -> int:
        [(count,)] = self.read(lambda tx: tx.rows("SELECT COUNT(*) FROM received_transactions"))
        return int(count)

    def test_answers(self) -> None:
        """An answer is found by origin, endpoint and ID, and replaced by a later one to the same."""
        self.put("a", "1", 5)
        self.put("a", "1", 6, "invite")
        self.put("b", "1", 7)
        self.put("a", "1", 8)
        self.assertEqual(self.get("a", "1"), "hash of 1 at 8")
        self.assertEqual(self.get("a", "1", "invite"), "hash of 1 at 6")
        self.assertEqual(self.get("b", "1"), "hash of 1 at 7")
        self.assertIsNone(self.get("a", "2"))

    def test_ids(self) -> None:
        """The IDs of what was answered to an origin at an endpoint, and no others."""
        for origin, transaction_id, endpoint in (
            ("a", "1", "send"),
            ("a", "2", "send"),
            ("a", "3", "x"),
            ("b", "4", "send"),
        ):
            self.put(origin, transaction_id, 5, endpoint)
        ids = self.read(lambda tx: self.transactions.transaction_ids(tx, "a", "send"))
        self.assertEqual({"1", "2"}, set(ids))

    def test_pruned_by_age(self) -> None:
        """Answers older than the bound go as new ones come, whoever they were for; younger ones stay."""
        for n in range(60):
            self.put(f"origin-{n % 7}", str(n), n)
        for n in range(60, 90):
            self.put("a", str(n), 5000 + n)
        self.assertEqual(self.count(), 30)
        self.assertIsNotNone(self.get("a", "60"))

    def test_pruned_by_number(self) -> None:
        """One origin cannot have more answers kept than its share, and does not cost others theirs."""
        self.put("b", "x", 0)
        for n in range(400):
            self.put("a", str(n), n)
        self.assertLessEqual(self.count(), 151)
        self.assertIsNotNone(self.get("b", "x"))
        self.assertIsNotNone(self.get("a", "300"))
        self.assertIsNone(self.get("a", "100"))


class ServerKeyTests(StorageTestCase):
    def test_keys_are_never_forgotten(self) -> None:
        """A later answer replaces the keys that it names, and leaves the others."""
        store = self.stores.server_keys
        one, two = StoredKey("ed25519:1", "a", 100, None), StoredKey("ed25519:2", "b", 100, None)
        self.assertIsNone(self.read(lambda tx: store.get(tx, "s")))
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (one, two), 5, b"first")))
        expired = StoredKey("ed25519:1", "a", 0, 50)
        three = StoredKey("ed25519:3", "c", 200, None)
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (expired, three), 6, b"second")))
        self.write(lambda tx: store.put(tx, StoredServerKeys("t", (), 7, b"")))
        found = self.read(lambda tx: store.get(tx, "s"))
        self.assertEqual(found, StoredServerKeys("s", (expired, two, three), 6, b"second"))

    def test_keys_on_a_notarys_word(self) -> None:
        """Keys of a server that never answered are kept without a response; they leave the response of one that did
        as it is."""
        store = self.stores.server_keys
        told = StoredKey("ed25519:1", "a", 100, None, "notary.example")
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (told,), 0, None)))
        self.assertEqual(self.read(lambda tx: store.get(tx, "s")), StoredServerKeys("s", (told,), 0, None))
        self.assertEqual(self.read(lambda tx: store.responses(tx, "s")), [])
        known = StoredKey("ed25519:1", "a", 200, None)
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (known,), 5, b"own")))
        other = StoredKey("ed25519:2", "b", 0, 9, "notary.example")
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (known, other), 0, None)))
        found = self.read(lambda tx: store.get(tx, "s"))
        self.assertEqual(found, StoredServerKeys("s", (known, other), 5, b"own"))

    def test_past_responses(self) -> None:
        """The last response comes first, then the past ones in their order; these are replaced all at once, and each
        server has its own."""
        store = self.stores.server_keys
        past = [StoredResponse(3, b"three"), StoredResponse(9, b"nine"), StoredResponse(1, b"one")]
        self.write(lambda tx: store.put_past(tx, "s", past))
        self.assertEqual(self.read(lambda tx: store.responses(tx, "s")), past)
        self.write(lambda tx: store.put(tx, StoredServerKeys("s", (), 5, b"last")))
        self.write(lambda tx: store.put_past(tx, "t", past[:1]))
        self.assertEqual(self.read(lambda tx: store.responses(tx, "s")), [StoredResponse(5, b"last"), *past])
        self.write(lambda tx: store.put_past(tx, "s", past[2:]))
        self.assertEqual(self.read(lambda tx: store.responses(tx, "s")), [StoredResponse(5, b"last"), past[2]])
        self.assertEqual(self.read(lambda tx: store.responses(tx, "t")), past[:1])
