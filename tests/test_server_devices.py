"""Devices of two whole servers, over real sockets with TLS: keys, messages to devices, typing, receipts."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from twisted.internet import reactor
from twisted.internet.task import deferLater

from lmatrix.crypto.digest import encode_base64
from lmatrix.demo.client import MatrixClient
from tests.devices.builders import KEY_PACKAGE, Device
from tests.test_server import PATIENCE_SECONDS, ServerTestCase, asynchronous


class DevicesOfTwoServers(ServerTestCase):
    async def ask(self, client: MatrixClient, method: str, path: str, body: object = None) -> Any:
        return await client._request(method, path, body)

    async def until(self, client: MatrixClient, wanted: Any) -> Any:
        """Sync until something is there; what it is."""
        since = ""
        for _ in range(200):
            answer = await self.ask(client, "GET", f"/sync?timeout=500{since}")
            found = wanted(answer)
            if found:
                return found
            since = f"&since={quote(answer['next_batch'])}"
            await deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
        return self.fail("it did not come")

    @asynchronous
    async def test_everything(self) -> None:
        """What a device of one server needs of a device of the other: its object, a key, its ear, its attention."""
        hub, participant = self.places("hub", "participant")
        await self.start(hub)
        await self.start(participant)
        alice, bob = await self.client(hub, "alice"), await self.client(participant, "bob")
        whoami = await self.ask(alice, "GET", "/account/whoami")
        phone = Device(alice.user_id, whoami["device_id"])
        now = int(time.time())
        package = phone.key_package(not_before=now - 100, not_after=now + 1000)
        upload = {"device_keys": phone.object(), "one_time_keys": phone.keys(package)}
        counts = await self.ask(alice, "POST", "/keys/upload", upload)
        self.assertEqual(counts, {"one_time_key_counts": {KEY_PACKAGE: 1}})

        # Without a room in common: asked for whenever it is needed.
        found = await self.ask(bob, "POST", "/keys/query", {"device_keys": {alice.user_id: []}})
        self.assertEqual(found["device_keys"], {alice.user_id: {phone.device_id: phone.object()}})
        claim = {"one_time_keys": {alice.user_id: {phone.device_id: KEY_PACKAGE}}}
        claimed = [await self.ask(bob, "POST", "/keys/claim", claim) for _ in range(2)]
        [key] = claimed[0]["one_time_keys"][alice.user_id][phone.device_id].values()
        self.assertEqual(key, encode_base64(package))
        self.assertEqual(claimed[1], {"one_time_keys": {}, "failures": {}})

        welcome = {"algorithm": "m.mls.v1.welcome", "ciphertext": "abc"}
        messages = {"messages": {alice.user_id: {phone.device_id: welcome}}}
        for _ in range(2):
            await self.ask(bob, "PUT", "/sendToDevice/m.room.encrypted/txn1", messages)
        events = await self.until(alice, lambda answer: answer["to_device"]["events"])
        self.assertEqual(events, [{"type": "m.room.encrypted", "sender": bob.user_id, "content": welcome}])

        # In a room: told as it happens.
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, hub.server_name)
        event_id = await alice.say(room_id, "hello")
        await bob.wait_for(room_id, event_id, PATIENCE_SECONDS)
        room = f"/rooms/{quote(room_id)}"
        await self.ask(bob, "PUT", f"{room}/typing/{quote(bob.user_id)}", {"typing": True, "timeout": 40_000})
        await self.ask(bob, "POST", f"{room}/receipt/m.read/{quote(event_id)}", {})

        def ephemeral(kind: str) -> Any:
            def look(answer: Any) -> Any:
                entry = answer["rooms"]["join"].get(room_id, {})
                return [
                    one["content"] for one in entry.get("ephemeral", {"events": []})["events"] if one["type"] == kind
                ]

            return look

        self.assertEqual(await self.until(alice, ephemeral("m.typing")), [{"user_ids": [bob.user_id]}])
        [receipt] = await self.until(alice, ephemeral("m.receipt"))
        self.assertEqual(list(receipt[event_id]["m.read"]), [bob.user_id])
        await self.ask(bob, "PUT", f"{room}/typing/{quote(bob.user_id)}", {"typing": False})

        since = (await self.ask(bob, "GET", "/sync"))["next_batch"]
        await self.ask(alice, "POST", "/keys/upload", {"device_keys": phone.object(colour="green")})
        news = await self.ask(bob, "GET", f"/sync?timeout=20000&since={quote(since)}")
        self.assertEqual(news["device_lists"]["changed"], [alice.user_id])
        found = await self.ask(bob, "POST", "/keys/query", {"device_keys": {alice.user_id: []}})
        self.assertEqual(found["device_keys"], {alice.user_id: {phone.device_id: phone.object(colour="green")}})
