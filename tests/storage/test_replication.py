"""What is remembered of mirrors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmatrix.errors import Forbidden
from lmatrix.storage.replication import StoredDagEvent
from tests.storage.logs import ALICE, ROOM, StorageTestCase, pdu, placed


class MirrorStoreTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.mirrors = self.stores.mirrors
        self.nid = self.write(lambda tx: self.mirrors.add_mirror(tx, ROOM, "!dag", "open").nid)

    def tell(self, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        return self.write(lambda tx: method(tx, self.nid, *args, **more))

    def test_one_mirror_for_a_room(self) -> None:
        """A pair is made once, and a room of either side is in one pair only."""
        again = self.write(lambda tx: self.mirrors.add_mirror(tx, ROOM, "!dag", "invited"))
        self.assertEqual((again.nid, again.stage), (self.nid, "open"))
        for lm_room_id, dag_room_id in ((ROOM, "!other"), ("!other:x", "!dag")):
            failing = self.database.write(
                lambda tx, a=lm_room_id, b=dag_room_id: self.mirrors.add_mirror(tx, a, b, "open")
            )
            self.failureResultOf(failing, Forbidden)

    def test_the_list(self) -> None:
        """What is placed waits in the order in which it was placed, until it is settled; a second time changes
        nothing.
        """
        self.tell(self.mirrors.place, [("$b", 7, 3, True), ("$a", 8, 4, False)], 10)
        self.tell(self.mirrors.place, [("$c", 9, 1, True)], 20)
        self.tell(self.mirrors.place, [("$b", 7, 3, True)], 30)
        self.assertEqual(self.tell(self.mirrors.waiting, 9), ["$b", "$c"])
        lag = self.tell(self.mirrors.inward_lag)
        self.assertEqual((lag.events, lag.since_ts), (2, 10))
        self.tell(self.mirrors.settle, "$b", refused=True)
        self.assertEqual(self.tell(self.mirrors.waiting, 9), ["$c"])
        self.assertEqual(
            self.tell(self.mirrors.dag_events, ["$a", "$b", "$x"]),
            {"$a": StoredDagEvent("$a", 8, 4, False, False), "$b": StoredDagEvent("$b", 7, 3, False, True)},
        )
        [row] = self.write(self.mirrors.mirrors)
        self.assertEqual(row.horizon, 4)

    def test_links(self) -> None:
        """Counterparts are found both ways, the latest first; what is linked does not wait, also when it comes
        later.
        """
        self.tell(self.mirrors.place, [("$d1", 1, 1, True)], 0)
        self.tell(self.mirrors.link, "$l1", "$d1", None, 0)
        self.tell(self.mirrors.link, "$l1", "$d2", 100, 0)
        self.tell(self.mirrors.place, [("$d2", 2, 2, True)], 0)
        self.assertEqual(self.tell(self.mirrors.waiting, 9), [])
        self.assertEqual(self.tell(self.mirrors.dag_of, ["$l1", "$x"]), {"$l1": "$d2"})
        self.assertEqual(self.tell(self.mirrors.lm_of, ["$d1", "$d2"]), {"$d1": "$l1", "$d2": "$l1"})
        self.assertTrue(self.tell(self.mirrors.linked, "$l1", "$d1"))
        self.assertFalse(self.tell(self.mirrors.linked, "$l1", "$d3"))
        self.assertEqual(self.tell(self.mirrors.dag_events, ["$d2"])["$d2"].stream, 2)

    def test_outward_lag(self) -> None:
        """It is what the log has beyond the outward position."""
        self.assertEqual(self.tell(self.mirrors.outward_lag).events, 0)
        self.make_room()
        self.append(placed(1, pdu(1)), placed(2, pdu(2)), placed(3, pdu(3)))
        self.tell(self.mirrors.set_outward, 1)
        self.assertEqual(self.tell(self.mirrors.outward_lag).events, 2)

    def test_losses(self) -> None:
        """Each lost event counts once."""
        for event_id, cause in (("$a", "encryption"), ("$a", "encryption"), ("$b", "encryption"), ("$c", "alias")):
            self.tell(self.mirrors.lose, event_id, cause)
        self.assertEqual(self.tell(self.mirrors.losses), {"encryption": 2, "alias": 1})

    def test_the_stream(self) -> None:
        """How far it was read, and nothing before the first time."""
        self.assertIsNone(self.write(self.mirrors.stream_position))
        for position in (7, 9):
            self.write(lambda tx, position=position: self.mirrors.set_stream_position(tx, position))
        self.assertEqual(self.write(self.mirrors.stream_position), 9)

    def test_names(self) -> None:
        """Hashed names are remembered."""
        self.write(lambda tx: self.mirrors.add_names(tx, {}))
        for _ in range(2):
            self.write(lambda tx: self.mirrors.add_names(tx, {"@lm.+0:x": "@u:y"}))
        self.assertEqual(self.write(self.mirrors.names), {"@lm.+0:x": "@u:y"})

    def test_pending_invites(self) -> None:
        """Invites of all users that are still pending."""
        invites = self.stores.invites
        for room_id in ("!a:y", "!b:y"):
            self.write(lambda tx, room_id=room_id: invites.put(tx, ALICE, room_id, "I.1", "y", pdu(50), []))
        self.write(lambda tx: invites.remove(tx, ALICE, "!a:y"))
        self.assertEqual([invite.room_id for invite in self.write(self.mirrors.pending_invites)], ["!b:y"])
