"""Local users, their devices and tokens, client transactions, filters."""

from __future__ import annotations

from lmatrix.errors import Forbidden
from lmatrix.storage.accounts import SqlAccountStore
from tests.storage.logs import ALICE, BOB, ROOM, StorageTestCase, lpdu

DAY_MS = 24 * 3600 * 1000


class AccountTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.accounts = self.stores.accounts
        for user_id in (ALICE, BOB):
            self.write(lambda tx, user_id=user_id: self.accounts.create_user(tx, user_id, f"hash of {user_id}", 1))

    def log_in(self, user_id: str, device_id: str, token: str, name: str | None = None) -> None:
        self.write(lambda tx: self.accounts.add_token(tx, user_id, device_id, token, 2, name))

    def owner(self, token: str) -> tuple[str, str] | None:
        return self.read(lambda tx: self.accounts.user_of_token(tx, token))

    def test_users(self) -> None:
        """An account is made once, and keeps its password's hash."""
        self.assertTrue(self.read(lambda tx: self.accounts.user_exists(tx, ALICE)))
        self.assertFalse(self.read(lambda tx: self.accounts.user_exists(tx, "@nobody:x")))
        self.assertEqual(self.read(lambda tx: self.accounts.password_hash(tx, ALICE)), f"hash of {ALICE}")
        self.assertIsNone(self.read(lambda tx: self.accounts.password_hash(tx, "@nobody:x")))
        again = self.database.write(lambda tx: self.accounts.create_user(tx, ALICE, "other", 3))
        self.failureResultOf(again, Forbidden)
        self.assertEqual(self.read(lambda tx: self.accounts.password_hash(tx, ALICE)), f"hash of {ALICE}")

    def test_tokens(self) -> None:
        """A token leads to its user and device, until it is removed or the device logs in again."""
        self.log_in(ALICE, "PHONE", "t1", "Alice's phone")
        self.log_in(ALICE, "DESK", "t2")
        self.log_in(BOB, "PHONE", "t3")
        self.assertEqual(self.owner("t1"), (ALICE, "PHONE"))
        self.assertIsNone(self.owner("t9"))
        self.log_in(ALICE, "PHONE", "t4")
        self.assertIsNone(self.owner("t1"))
        self.assertEqual(self.owner("t4"), (ALICE, "PHONE"))
        self.write(lambda tx: self.accounts.remove_devices(tx, ALICE, ["DESK", "UNKNOWN"]))
        self.write(lambda tx: self.accounts.remove_devices(tx, ALICE, ["DESK"]))
        self.assertIsNone(self.owner("t2"))
        self.write(lambda tx: self.accounts.remove_devices(tx, ALICE, self.accounts.device_ids(tx, ALICE)))
        self.assertIsNone(self.owner("t4"))
        self.assertEqual(self.owner("t3"), (BOB, "PHONE"))

    def test_devices(self) -> None:
        """A user's devices have the names that the user gives them; nobody has somebody else's."""
        self.log_in(ALICE, "PHONE", "t1", "Alice's phone")
        self.log_in(ALICE, "DESK", "t2")
        self.log_in(BOB, "PAD", "t3")
        self.assertTrue(self.write(lambda tx: self.accounts.rename_device(tx, ALICE, "DESK", "at home")))
        self.assertFalse(self.write(lambda tx: self.accounts.rename_device(tx, ALICE, "PAD", "mine")))
        devices = self.read(lambda tx: self.accounts.devices(tx, ALICE))
        self.assertEqual(
            [(device.device_id, device.display_name) for device in devices],
            [("DESK", "at home"), ("PHONE", "Alice's phone")],
        )
        self.assertEqual(self.read(lambda tx: self.accounts.device_ids(tx, BOB)), ["PAD"])
        self.assertEqual(self.read(lambda tx: self.accounts.device_ids(tx, "@nobody:x")), [])

    def test_filters(self) -> None:
        """A filter is found by its owner only, byte for byte; the same filter has the same ID."""
        first = self.write(lambda tx: self.accounts.put_filter(tx, ALICE, b'{"a":1}'))
        second = self.write(lambda tx: self.accounts.put_filter(tx, ALICE, b'{"a":2}'))
        self.assertEqual(self.write(lambda tx: self.accounts.put_filter(tx, ALICE, b'{"a":1}')), first)
        self.assertNotEqual(first, second)
        self.assertEqual(self.read(lambda tx: self.accounts.filter(tx, ALICE, second)), b'{"a":2}')
        for user_id, filter_id in ((BOB, first), (ALICE, "x"), (ALICE, "-1"), (ALICE, "9" * 40), (ALICE, "²")):
            self.assertIsNone(self.read(lambda tx, u=user_id, f=filter_id: self.accounts.filter(tx, u, f)))


class ClientTransactionTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.accounts = SqlAccountStore()

    def put(self, txn_id: str, reference: str, now_ms: int = 0, device_id: str = "D") -> None:
        self.write(
            lambda tx: self.accounts.put_client_transaction(tx, ALICE, device_id, ROOM, txn_id, reference, now_ms)
        )

    def get(self, txn_id: str, device_id: str = "D") -> str | None:
        return self.read(lambda tx: self.accounts.client_transaction(tx, ALICE, device_id, ROOM, txn_id))

    def test_references(self) -> None:
        """A transaction leads to what it was made, and from an LPDU on to the event that this became."""
        self.put("t1", "$lpdu")
        self.put("t1", "$other", device_id="E")
        self.assertEqual(self.get("t1"), "$lpdu")
        self.assertIsNone(self.get("t2"))
        self.write(lambda tx: self.accounts.resolve_client_transaction(tx, "$lpdu", "$event"))
        self.assertEqual(self.get("t1"), "$event")
        self.assertEqual(self.get("t1", "E"), "$other")
        behind = self.read(
            lambda tx: self.accounts.transactions_behind(tx, ALICE, "D", ["$event", "$other", "$unknown"])
        )
        self.assertEqual(behind, {"$event": "t1"})

    def test_old_ones_are_forgotten(self) -> None:
        """Transactions are kept for a day at least, and their number does not grow for ever."""
        for n in range(100):
            self.put(f"t{n}", f"${n}", n * DAY_MS // 10)
        self.assertIsNotNone(self.get("t90"))
        self.assertIsNone(self.get("t80"))
        [(count,)] = self.read(lambda tx: tx.rows("SELECT COUNT(*) FROM client_transactions"))
        self.assertLess(count, 20)

    def test_pending_ones_are_not_forgotten(self) -> None:
        """While the hub has not answered, asking again finds the same LPDU, however long that takes."""
        waiting = lpdu(1)
        self.write(lambda tx: self.stores.pending_lpdus.add(tx, waiting, "h"))
        self.put("waiting", waiting.event_id)
        self.put("done", "$event")
        for n in range(9):
            self.put(f"t{n}", f"${n}", 9 * DAY_MS)
        self.assertEqual((self.get("waiting"), self.get("done")), (waiting.event_id, None))
