"""Signing keys of whole servers: several at a time, changed ones, and those of servers that have gone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from lmatrix.config import load_config
from lmatrix.config.key_rotation import rotate
from lmatrix.crypto.keys import SigningKey
from lmatrix.demo.client import MatrixClient
from lmatrix.demo.servers import Place
from lmatrix.storage.group_commit import run_read
from lmatrix.storage.room_log import SqlRoomStore
from lmatrix.storage.server_keys import SqlServerKeyStore
from lmatrix.storage.sqlite_engine import SqliteEngine
from tests.test_server import PATIENCE_SECONDS, ServerTestCase, asynchronous


def add_key(place: Place, version: str) -> None:
    """One more key that signs."""
    key = SigningKey.generate(version, version.encode()[:1] * 32)
    with load_config(place.config).signing_key_path.open("a") as file:
        file.write(key.to_line() + "\n")


def change_key(place: Place) -> str:
    """Rotate; returns the new key's ID."""
    return rotate(load_config(place.config), rng=random.Random(place.label)).new


def from_database(place: Place, read: Any) -> Any:
    """What a server has stored, read beside it."""
    engine = SqliteEngine(place.database)
    connection = engine.connect(read_only=True)
    try:
        return run_read(connection, engine, read)
    finally:
        connection.close()


def signatures(place: Place, event_id: str) -> dict[str, set[str]]:
    """With which keys of which servers an event is signed, as a server holds it."""
    stored = from_database(place, lambda tx: SqlRoomStore().event(tx, event_id))
    return {server: set(by) for server, by in json.loads(stored.canonical)["signatures"].items()}


class KeysOfServers(ServerTestCase):
    timeout = 120

    async def shown(self, place: Place) -> dict[str, Any]:
        """What a server publishes of its keys."""
        status, body = await self.get(f"https://{place.server_name}/_matrix/key/v2/server")
        self.assertEqual(status, 200)
        answer: dict[str, Any] = json.loads(body)
        return answer

    async def all_said(self, client: MatrixClient, room_id: str) -> list[str]:
        """Every message that a user finds in a room, the oldest first."""
        events = await client.read_backwards(room_id, 100)
        return [event["content"]["body"] for event in events if event["type"] == "m.room.message"][::-1]

    async def say(self, room_id: str, texts: Sequence[tuple[MatrixClient, str]]) -> list[str]:
        """One after the other; returns the event IDs, which everybody has seen then."""
        event_ids = []
        for client, text in texts:
            event_ids.append(await client.say(room_id, text))
        for client, _ in texts:
            await client.wait_for(room_id, event_ids[-1], PATIENCE_SECONDS)
        return event_ids

    @asynchronous
    async def test_several_keys(self) -> None:
        """A server with several keys signs with each: its requests are taken, and so are its events, which bear a
        signature by every key of both servers."""
        hub, participant = self.places("hub", "participant")
        add_key(hub, "another")
        add_key(participant, "other")
        await self.start(hub)
        await self.start(participant)
        alice, bob = await self.client(hub, "alice"), await self.client(participant, "bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        by_alice, by_bob = await self.say(room_id, [(alice, "one"), (bob, "two")])
        keys = {place.server_name: set((await self.shown(place))["verify_keys"]) for place in (hub, participant)}
        self.assertEqual([len(by) for by in keys.values()], [2, 2])
        for place in (hub, participant):
            self.assertEqual(signatures(place, by_bob), keys)
            self.assertEqual(signatures(place, by_alice), {hub.server_name: keys[hub.server_name]})

    @asynchronous
    async def test_rotation(self) -> None:
        """Servers change their keys while they run, the hub once more with a restart: the conversation goes on, and
        whoever comes later verifies everything that was signed with keys of any age."""
        hub, participant, late = self.places("hub", "participant", "late")
        running = await self.start(hub)
        alice = await self.client(hub, "alice")
        room_id = await alice.create_room(preset="public_chat")
        (by_old,) = await self.say(room_id, [(alice, "1")])
        (old,) = (await self.shown(hub))["verify_keys"]
        new = change_key(hub)
        self.assertEqual(set((await self.shown(hub))["verify_keys"]), {old})
        running.reload()
        answer = await self.shown(hub)
        self.assertEqual((set(answer["verify_keys"]), set(answer["old_verify_keys"])), ({new}, {old}))
        other = await self.start(participant)
        bob = await self.client(participant, "bob")
        await bob.join(room_id, hub.server_name)
        (by_new, _) = await self.say(room_id, [(alice, "2"), (bob, "3")])
        for place in (hub, participant):
            self.assertEqual(signatures(place, by_new), {hub.server_name: {new}})
        self.assertEqual(signatures(hub, by_old), {hub.server_name: {old}})
        newest = change_key(hub)
        await self.pool.closeCachedConnections()
        await self.stop(running)
        await self.start(hub)
        self.assertEqual(set((await self.shown(hub))["verify_keys"]), {newest})
        change_key(participant)
        other.reload()
        await self.say(room_id, [(bob, "4"), (alice, "5")])
        await self.start(late)
        carol = await self.client(late, "carol")
        await carol.join(room_id, hub.server_name)
        await self.say(room_id, [(carol, "6"), (alice, "7"), (bob, "8")])
        for client in (bob, carol):
            self.assertEqual(await self.all_said(client, room_id), list("12345678"))

    @asynchronous
    async def test_notary(self) -> None:
        """A participant is gone for good. A server that has never heard of it joins, and reads what it said, because a
        notary that it trusts remembers the participant's keys."""
        hub, participant, notary, late = self.places("hub", "participant", "notary", "late")
        await self.start(hub)
        gone = await self.start(participant)
        await self.start(notary)
        alice, bob = await self.client(hub, "alice"), await self.client(participant, "bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        await self.say(room_id, [(alice, "1"), (bob, "2")])
        url = f"https://{notary.server_name}/_matrix/key/v2/query/{participant.server_name}"
        status, body = await self.get(url)
        self.assertEqual((status, len(json.loads(body)["server_keys"])), (200, 1))
        await self.pool.closeCachedConnections()
        await self.stop(gone)
        text = late.config.read_text()
        late.config.write_text(
            text.replace('  # notaries: ["notary.example.org"]', f'  notaries: ["{notary.server_name}"]')
        )
        self.assertNotEqual(late.config.read_text(), text)
        await self.start(late)
        carol = await self.client(late, "carol")
        await carol.join(room_id, hub.server_name)
        await self.say(room_id, [(carol, "3"), (alice, "4")])
        self.assertEqual(await self.all_said(carol, room_id), list("1234"))
        known = from_database(late, lambda tx: SqlServerKeyStore().get(tx, participant.server_name))
        self.assertEqual({key.notary for key in known.keys}, {notary.server_name})
