"""The commands of ``lmatrix`` beside real servers, as an operator uses them."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from lmatrix.crypto.keys import SigningKey
from lmatrix.storage.beside import reading
from lmatrix.storage.room_log import SqlRoomStore
from tests.end_to_end.load import Talker
from tests.end_to_end.operator import Operator, run
from tests.end_to_end.processes import EndToEndTestCase, eventually
from tests.end_to_end.raw_hub import RawHub
from tests.end_to_end.wire_events import JsonObject, event_id


class OperatorTests(EndToEndTestCase):
    """Looking, moving, copying, checking."""

    async def test_a_server_at_work(self) -> None:
        """What is in the rooms, and who lacks what; a backup under load, from which a server can start; and a check
        that finds what somebody changed in the database.
        """
        hub, second = await self.start_servers("hub", "second")
        alice, bob = await self.user(hub, "alice"), await self.user(second, "bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        operator = Operator(hub, self.http)

        over: list[bool] = []
        talker = Talker(alice, room_id)
        talking = Deferred.fromCoroutine(talker.talk(lambda: bool(over)))
        copy = self.directory / "copy.db"
        ran = await operator.command("backup", str(copy))
        self.assertEqual((0, ""), (ran.status, ran.errors))
        self.assertEqual(0o600, stat.S_IMODE(copy.stat().st_mode))
        ran = await operator.command("backup", str(copy))
        self.assertEqual((1, ""), (ran.status, ran.output))
        self.assertIn("it is not overwritten", ran.errors)
        ran = await operator.command("verify", "--all")
        self.assertEqual((0, ""), (ran.status, ran.errors), ran.output)
        over.append(True)
        await talking

        order = operator.order(room_id)
        with reading(copy) as database:
            copied = database.read(lambda tx: SqlRoomStore().events_between(tx, room_id, 0, 2**62, 10**6))
        self.assertEqual(order[: len(copied)], [event.event_id for event in copied])
        await eventually("nobody lacks anything", lambda: self.owes_nothing(operator))
        ran = await operator.command("rooms")
        self.assertEqual((0, ""), (ran.status, ran.errors))
        self.assertIn(f"{room_id}  I.1  hub here  {order[-1]} at {len(order)}", ran.output)
        await second.stop()
        await alice.say(room_id, "while you were away")
        ran = await operator.command("destinations")
        self.assertIn(f"{second.server_name}: lacks 1 events of 1 rooms", ran.output)
        ran = await operator.command("transfer-hub", room_id, second.server_name)
        self.assertEqual((1, ""), (ran.status, ran.output))
        self.assertIn("the room was not moved", ran.errors)

        await hub.stop()
        ran = await operator.command("rooms")
        self.assertEqual((1, ""), (ran.status, ran.output))
        self.assertIn("is it running?", ran.errors)
        with closing(sqlite3.connect(hub.place.database)) as damaged:
            damaged.execute("UPDATE events SET sender = '@mallory:x' WHERE event_id = ?", (order[5],))
            damaged.commit()
        ran = await operator.command("verify", room_id)
        self.assertEqual(1, ran.status)
        self.assertIn(f"{room_id}: event 6 {order[5]}: the column sender says '@mallory:x'", ran.output)
        self.put_in_place(copy, hub.place.database)
        await hub.start()
        self.assertEqual(order[: len(copied)], operator.order(room_id))

    def put_in_place(self, copy: Path, database: Path) -> None:
        """Let a backup be the database; what belongs to the former one must not stay beside it."""
        copy.replace(database)
        for left in ("-wal", "-shm"):
            Path(f"{database}{left}").unlink(missing_ok=True)

    async def owes_nothing(self, operator: Operator) -> bool:
        answer = await operator.admin("GET", "destinations")
        return bool(answer.json == {"destinations": []})

    async def test_evidence(self) -> None:
        """A hub gives an event two successors, and lets somebody in who was not: its participant's operator sees it,
        and hands it to somebody who needs nothing but the file, and perhaps the hub's own keys.
        """
        (us,) = await self.start_servers("us")
        operator, alice = Operator(us, self.http), await self.user(us, "alice")
        hub = RawHub(self.signing_server())
        ran = await operator.command("audit", hub.room_id)
        self.assertEqual(1, ran.status)
        self.assertIn("does not know the room", ran.errors)
        await alice.join(hub.room_id, hub.server.server_name)
        ran = await operator.command("audit", hub.room_id)
        self.assertEqual((0, f"no evidence is kept about {hub.room_id}\n"), (ran.status, ran.output))

        before = hub.head
        told = hub.append(hub.message("one history"))
        fork = hub.message("another history", prev_events=[before])
        stranger = hub.server.identity.user("stranger")
        lpdu = hub.server.client.message(hub.room_id, stranger, "not in the room", hub_server=hub.server.server_name)
        refused = hub.append(hub.complete(lpdu))
        await hub.deliver(us.server_name, told, fork, refused)

        file = self.directory / "evidence.json"
        ran = await operator.command("audit", hub.room_id, "--export", str(file))
        self.assertEqual((1, ""), (ran.status, ran.errors))
        for words in ("fork, seen 20", "rejected, seen 20", f"signed both {event_id(fork)} and {event_id(told)}"):
            self.assertIn(words, ran.output)
        self.assertEqual(0o600, stat.S_IMODE(file.stat().st_mode))
        again = await operator.command("audit", hub.room_id, "--export", str(file))
        self.assertIn("it is not overwritten", again.errors)
        ran = await operator.command("verify", "--all")
        self.assertEqual((0, ""), (ran.status, ran.errors), ran.output)
        self.assertIn("all is well", ran.output)
        await us.stop()

        checked = await run("verify-evidence", str(file))
        self.assertEqual((0, ""), (checked.status, checked.errors), checked.output)
        self.assertEqual(2, checked.output.count(": proven: "))
        fetched = await run("verify-evidence", str(file), "--fetch", "--config", operator.config)
        self.assertEqual((0, ""), (fetched.status, fetched.errors), fetched.output)
        self.assertIn(
            f"{hub.server.server_name} answers: {hub.server.identity.key_id} is as in the file", fetched.output
        )

        another = SigningKey.generate("raw").public

        def forged(document: Any) -> None:
            document["keys"][hub.server.server_name][hub.server.identity.key_id]["key"] = another.to_base64()

        def changed(document: Any) -> None:
            document["evidence"][0]["event"]["prev_events"] = ["$" + "x" * 43]

        def empty(document: Any) -> None:
            document["evidence"] = []

        for change, words in (
            (forged, "anybody could have made"),
            (changed, "not proven"),
            (empty, "no evidence in it"),
        ):
            checked = await run("verify-evidence", str(self.changed(file, change)))
            self.assertEqual((1, ""), (checked.status, checked.errors))
            self.assertIn(words, checked.output)
        for content in ("x", "{}"):
            file.write_text(content)
            checked = await run("verify-evidence", str(file))
            self.assertEqual((1, ""), (checked.status, checked.output))
            self.assertIn(str(file), checked.errors)

    def changed(self, file: Path, change: Callable[[JsonObject], None]) -> Path:
        """A changed copy."""
        document = json.loads(file.read_text(encoding="utf-8"))
        change(document)
        copy = file.with_name("changed.json")
        copy.write_text(json.dumps(document), encoding="utf-8")
        return copy
