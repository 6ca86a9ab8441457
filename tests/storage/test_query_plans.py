"""Every statement of the stores finds its rows by an index: costs do not grow with the length of a log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmatrix.devices.device_objects import DeviceObject
from lmatrix.devices.edus import Receipt
from lmatrix.devices.interfaces import FetchedList
from lmatrix.devices.key_uploads import UploadedKey
from lmatrix.directory.interfaces import StoredAlias
from lmatrix.directory.profiles import Profile
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.rooms.interfaces import RoomAppend, SpanChange, StoredAnswer
from lmatrix.rooms.key_store import StoredKey, StoredResponse, StoredServerKeys
from lmatrix.storage.engine import Cursor, Row, Transaction
from tests.storage.logs import ALICE, BOB, ROOM, StorageTestCase, lpdu, member, pdu, placed

MAY_SCAN = (
    "SELECT room_id FROM rooms ORDER BY",  # every room, on purpose
    "SELECT DISTINCT hub_server FROM pending_lpdus",  # start-up; through an index
    "SELECT DISTINCT c.destination",  # start-up
    "SELECT mirror_nid, lm_room_id, dag_room_id, stage, reason, outward_position, baseline, horizon FROM mirrors ORDER",
    "SELECT ghost, user_id FROM mirror_names",  # both at start-up
    "SELECT user_id, room_id, room_version, hub_server, canonical, stripped_state, stream FROM invites WHERE pending",
    "SELECT user_id FROM profiles WHERE announced < changes",  # start-up; through an index that has few rows
    "SELECT p.room_id, r.room_nid FROM published_rooms",  # all that are listed, on purpose
)

PARENTS = ("INSERT INTO events", "INSERT INTO rooms")
"""Their plans show a look for orphaned rows, which is only made while a foreign key is violated: never."""


class Recorder:
    """Stands in for a transaction, and notes every statement."""

    def __init__(self, tx: Transaction, statements: set[str]) -> None:
        self._tx = tx
        self._statements = statements
        self.take_numbers = tx.take_numbers

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        self._statements.add(sql)
        return self._tx.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> Cursor:
        self._statements.add(sql)
        return self._tx.executemany(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self._statements.add(sql)
        return self._tx.rows(sql, parameters)

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        self._statements.add(sql)
        return self._tx.row(sql, parameters)


class QueryPlanTests(StorageTestCase):
    def test_no_statement_scans_a_table(self) -> None:
        """The planner finds a range of an index for every table of every statement, but for those that mean "all"."""
        statements: set[str] = set()
        self.write(lambda tx: self.use_rooms(Recorder(tx, statements)))
        self.write(lambda tx: self.use_delivery(Recorder(tx, statements)))
        self.write(lambda tx: self.use_timeline(Recorder(tx, statements)))
        self.write(lambda tx: self.use_others(Recorder(tx, statements)))
        self.write(lambda tx: self.use_devices(Recorder(tx, statements)))
        self.write(lambda tx: self.use_mirrors(Recorder(tx, statements)))
        self.write(lambda tx: self.use_directory(Recorder(tx, statements)))
        self.assertGreater(len(statements), 80)
        for sql in sorted(statements):
            plan = self.read(lambda tx, sql=sql: tx.rows(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")))
            if sql.startswith(MAY_SCAN) or sql.startswith(PARENTS):
                continue
            for _, _, _, detail in plan:
                if detail.startswith("SCAN") and "CONSTANT ROW" not in detail and detail != "SCAN all_kinds":
                    # The oldest rows of a table, by its own number: bounded by LIMIT, in the table's order.
                    self.assertIn("_nid LIMIT ?", sql, f"{detail}: {sql}")

    def test_the_indexes_that_matter(self) -> None:
        """Where two indexes would do, the selective one is used."""
        for sql, index in (
            ("SELECT 1 FROM current_state AS s WHERE s.type = 'm.room.member' AND s.state_key = ?", "of_user"),
            ("SELECT MAX(stream) FROM events WHERE stream IS NOT NULL", "events_stream"),
        ):
            plan = self.read(lambda tx, sql=sql: tx.rows(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")))
            self.assertIn(index, plan[0][3], sql)

    def test_appending_costs_the_same_everywhere(self) -> None:
        """The database's work for an append depends neither on the length of the log nor on the number of members, and
        that for looking up state, spans and duplicates not on the length of the log."""
        small, long, crowded = "!small:x", "!long:x", "!crowded:x"
        for room_id in (small, long, crowded):
            self.make_room(room_id=room_id)
            for n in range(2):
                self.append(placed(n + 1, member(n, f"@m{n}:x", "join", room_id=room_id)), room_id=room_id)
        for start in range(3, 3000, 500):
            self.append_messages(range(start, start + 500), room_id=long)
        for start in range(3, 600, 100):
            joins = [member(n, f"@m{n}:s{n}", "join", room_id=crowded) for n in range(start, start + 100)]
            spans = [SpanChange(f"s{n}", n, True) for n in range(start, start + 100)]
            self.append(*map(placed, range(start, start + 100), joins), room_id=crowded, spans=spans)
        costs = [self.steps_of_appending(room_id, at) for room_id, at in ((small, 3), (long, 3003), (crowded, 603))]
        self.assertLess(max(costs), 1.2 * min(costs), costs)
        looks = [self.steps_of_looking(room_id, at) for room_id, at in ((small, 3), (long, 3003))]
        self.assertLess(max(looks), 1.2 * min(looks), looks)

    def steps_of_appending(self, room_id: str, position: int) -> int:
        number = 10_000 + position
        events = [
            placed(position, pdu(number, room_id=room_id)),
            placed(position + 1, member(number + 1, "@m1:x", "leave", room_id=room_id)),
        ]
        batch = RoomAppend(room_id, events, [SpanChange("new", position, True)])
        return self.steps(lambda tx: self.rooms.append(tx, batch))

    def steps_of_looking(self, room_id: str, position: int) -> int:
        def look(tx: Any) -> None:
            self.rooms.load_room(tx, room_id)
            self.rooms.state_before(tx, room_id, position)
            self.rooms.accepted_lpdus(tx, room_id, [(ALICE, "lpdu-1"), (ALICE, "lpdu-2")])
            self.rooms.events_before(tx, room_id, position, 2)
            self.stores.delivery.owed_events(tx, "new", room_id, 2)
            self.timeline.events_page(tx, room_id, position, "b", 2)
            self.timeline.state_between(tx, room_id, position - 1, position)

        return self.steps(look)

    def steps(self, work: Callable[[Any], object]) -> int:
        """Instructions of SQLite's machine that a work takes, in tens."""
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        def counted(tx: Any) -> None:
            tx._connection.set_progress_handler(tick, 10)
            work(tx)
            tx._connection.set_progress_handler(None, 0)

        self.write(counted)
        return count

    def use_rooms(self, tx: Any) -> None:
        rooms = self.rooms
        rooms.insert_room(tx, ROOM, "I.1", 10)
        rooms.put_state_snapshot(tx, ROOM, 9, [member(1, ALICE, "join")])
        joined, message = member(2, BOB, "join"), pdu(3)
        redaction = placed(12, pdu(4), redacts=message.event_id, redact=lambda _: b"")
        spans = [SpanChange("s", 10, True), SpanChange("t", 10, True), SpanChange("t", 11, False)]
        rooms.append(tx, RoomAppend(ROOM, [placed(10, joined), placed(11, message), redaction], spans))
        rooms.append(tx, RoomAppend(ROOM, [], [SpanChange("t", 11, True)]))
        rooms.prepend(tx, ROOM, [placed(9, member(1, ALICE, "join"))])
        rooms.load_room(tx, ROOM)
        rooms.event(tx, message.event_id)
        rooms.events_between(tx, ROOM, 0, 99, 9)
        rooms.events_before(tx, ROOM, 11, 9)
        rooms.accepted_lpdus(tx, ROOM, [(ALICE, "lpdu-3"), (BOB, "x")])
        rooms.state_before(tx, ROOM, 11)
        rooms.state_event_before(tx, ROOM, 11, "m.room.member", ALICE)
        rooms.state_history(tx, ROOM, "m.room.member", ALICE)
        rooms.spans(tx, ROOM, "s")
        rooms.servers_owed(tx, ROOM)
        rooms.rooms_of_server(tx)
        rooms.evidence(tx, ROOM)
        rooms.insert_room(tx, ROOM, "I.1", 100)
        rooms.append(tx, RoomAppend(ROOM, [placed(100, pdu(5, prev=[redaction.pdu.event_id]))]))

    def use_delivery(self, tx: Any) -> None:
        delivery = self.stores.delivery
        delivery.owed_rooms(tx, "s")
        delivery.owed_events(tx, "s", ROOM, 9)
        delivery.advance(tx, "s", ROOM, 11)
        delivery.all_owing(tx)
        delivery.lag(tx, "s")
        delivery.put_destination(tx, "s", DestinationState())
        delivery.destination(tx, "s")
        delivery.add_edu(tx, "s", {})
        delivery.add_edu(tx, "s", {}, "subject")
        delivery.edus_waiting(tx, "s")
        delivery.remove_edus(tx, [number for number, _ in delivery.edus(tx, "s", 9)])

    def use_timeline(self, tx: Any) -> None:
        timeline = self.timeline
        timeline.max_stream(tx)
        timeline.rooms_of_user(tx, ALICE)
        timeline.user_in_room(tx, ROOM, BOB)
        timeline.forget_room(tx, BOB, ROOM)
        timeline.joined_local_users(tx, ROOM, "other.example")
        timeline.changes_since(tx, [ROOM], 0, 2)
        timeline.position_at(tx, ROOM, 2)
        timeline.events_page(tx, ROOM, 100, "b", 9)
        timeline.events_page(tx, ROOM, 9, "f", 9)
        timeline.state_at(tx, ROOM, 12)
        timeline.state_between(tx, ROOM, 9, 12)
        timeline.members(tx, ROOM)
        timeline.members(tx, ROOM, 11)
        timeline.member_counts(tx, ROOM)
        timeline.ended_invites(tx, ALICE, 0, 9)

    def use_others(self, tx: Any) -> None:
        stores = self.stores
        pending = lpdu(1)
        stores.pending_lpdus.add(tx, pending, "h")
        stores.pending_lpdus.add(tx, pending, "h")
        stores.pending_lpdus.for_hub(tx, "h", 0, 9)
        stores.pending_lpdus.by_hash(tx, ROOM, BOB, "lpdu-1")
        stores.pending_lpdus.hubs(tx)
        stores.pending_lpdus.settle(tx, [pending.event_id])
        stores.invites.put(tx, ALICE, "!x:y", "I.1", "y", pdu(50), [])
        stores.invites.get(tx, ALICE, "!x:y")
        stores.invites.for_user(tx, ALICE)
        stores.invites.remove(tx, ALICE, "!x:y")
        stores.invites.remove(tx, ALICE, "!x:y", pdu(51))
        stores.transactions.put_answer(tx, "o", "e", "t", StoredAnswer("h", 200, b"{}"), 0)
        stores.transactions.answer(tx, "o", "e", "t")
        stores.transactions.transaction_ids(tx, "o", "e")
        stores.server_keys.put(tx, StoredServerKeys("s", (StoredKey("ed25519:1", "k", 5, None),), 1, b"{}"))
        stores.server_keys.get(tx, "s")
        stores.server_keys.put_past(tx, "s", [StoredResponse(1, b"{}")])
        stores.server_keys.responses(tx, "s")
        accounts = stores.accounts
        accounts.create_user(tx, ALICE, "hash", 0)
        accounts.user_exists(tx, ALICE)
        accounts.password_hash(tx, ALICE)
        accounts.add_token(tx, ALICE, "D", "token", 0, None)
        accounts.put_client_transaction(tx, ALICE, "D", ROOM, "t", "$e", 0)
        accounts.client_transaction(tx, ALICE, "D", ROOM, "t")
        accounts.resolve_client_transaction(tx, "$e", "$f")
        accounts.transactions_behind(tx, ALICE, "D", ["$f", "$g"])
        accounts.filter(tx, ALICE, accounts.put_filter(tx, ALICE, b"{}"))
        accounts.devices(tx, ALICE)
        accounts.rename_device(tx, ALICE, "D", "name")
        accounts.remove_devices(tx, ALICE, ["D"])

    def use_directory(self, tx: Any) -> None:
        profiles, aliases = self.stores.profiles, self.stores.aliases
        profiles.put_profile(tx, ALICE, Profile("A"))
        profiles.unannounced(tx, ALICE)
        profiles.users_unannounced(tx)
        profiles.announced(tx, ALICE, 1)
        aliases.put_alias(tx, StoredAlias("#a:x", ROOM, ALICE), 0)
        aliases.alias(tx, "#a:x")
        aliases.aliases_of_room(tx, ROOM)
        aliases.aliases_by(tx, ALICE)
        aliases.aliases_after(tx, "", 9)
        aliases.remove_alias(tx, "#a:x")
        published = self.stores.published_rooms
        published.set_published(tx, ROOM, True)
        published.is_published(tx, ROOM)
        published.published(tx, "x", ["m.room.name"], 9)
        published.set_published(tx, ROOM, False)

    def use_devices(self, tx: Any) -> None:
        stores = self.stores
        device = DeviceObject(ALICE, "D", b"{}", None)
        stores.devices.put_object(tx, device)
        stores.devices.object(tx, ALICE, "D")
        stores.devices.objects(tx, ALICE)
        stores.devices.list_changed(tx, ALICE)
        stores.devices.list_changed_at(tx, ALICE)
        stores.devices.list_fetched(tx, BOB, FetchedList(1, 2))
        stores.devices.fetched_list(tx, BOB)
        stores.devices.changed_lists(tx, ALICE, 0, 99)
        stores.devices.changed_members(tx, ROOM, 0, 99)
        stores.devices.changed_members(tx, ROOM, 0, 9999)
        stores.devices.remove_objects(tx, ALICE, ["D"])
        once = UploadedKey("a", "1", b'"x"', "d1", 5, False, None)
        last = UploadedKey("a", "2", b'"y"', "d2", None, True, None)
        keys = stores.one_time_keys
        keys.add(tx, ALICE, "D", [once, last])
        keys.left(tx, ALICE, "D")
        keys.counts(tx, ALICE, "D", 1)
        keys.unused_last_resort(tx, ALICE, "D", 1)
        keys.claim(tx, ALICE, "D", "a", 1)
        keys.claim(tx, ALICE, "D", "a", 1)
        keys.claimed(tx, ALICE, "D")
        keys.claimed_at(tx, ALICE, "D")
        keys.remove_expired(tx, 9)
        keys.remove_devices(tx, ALICE, ["D"])
        messages = stores.to_device
        messages.put(tx, ALICE, "D", "s", {})
        messages.waiting(tx, ALICE, "D", "s")
        messages.page(tx, ALICE, "D", 0, 99, 9)
        messages.has_up_to(tx, ALICE, "D", 99)
        messages.acknowledge(tx, ALICE, "D", 99)
        messages.is_new(tx, "s", "digest", 0)
        messages.begin_request(tx, ALICE, "D", "r", 0)
        messages.remove_devices(tx, ALICE, ["D"])
        receipts = stores.receipts
        receipts.put(tx, Receipt(ROOM, ALICE, "m.read", pdu(3).event_id, 1))
        receipts.put(tx, Receipt(ROOM, ALICE, "m.read", pdu(4).event_id, 1))
        list(receipts.changed_receipts(tx, [ROOM], 0, 99))
        receipts.put_account_data(tx, ALICE, ROOM, "t", {})
        receipts.changed_account_data(tx, ALICE, 0, 99)
        sharing = stores.sharing
        sharing.is_joined(tx, ROOM, ALICE)
        sharing.joined_rooms(tx, ALICE)
        sharing.joined_users(tx, ROOM)
        sharing.servers_sharing(tx, ALICE)
        sharing.shares_with_server(tx, ALICE, "s")
        sharing.shares_with_server(tx, ALICE, "s", 5)
        sharing.share_a_room(tx, ALICE, BOB)

    def use_mirrors(self, tx: Any) -> None:
        mirrors = self.stores.mirrors
        mirrors.set_stream_position(tx, 1)
        mirrors.stream_position(tx)
        nid = mirrors.add_mirror(tx, ROOM, "!dag", "open").nid
        mirrors.mirrors(tx)
        mirrors.set_stage(tx, nid, "open", None)
        mirrors.set_outward(tx, nid, 1)
        mirrors.set_baseline(tx, nid, 1)
        mirrors.place(tx, nid, [("$a", 1, 1, True)], 0)
        mirrors.dag_events(tx, nid, ["$a", "$b"])
        mirrors.waiting(tx, nid, 9)
        mirrors.settle(tx, nid, "$a")
        mirrors.link(tx, nid, "$lm", "$a", None, 0)
        mirrors.link(tx, nid, "$lm", "$b", 2, 0)
        mirrors.dag_of(tx, nid, ["$lm"])
        mirrors.lm_of(tx, nid, ["$a"])
        mirrors.linked(tx, nid, "$lm", "$a")
        mirrors.lose(tx, nid, "$c", "cause")
        mirrors.losses(tx, nid)
        mirrors.inward_lag(tx, nid)
        mirrors.outward_lag(tx, nid)
        mirrors.add_names(tx, {"@g:x": "@u:y"})
        mirrors.names(tx)
        mirrors.pending_invites(tx)
