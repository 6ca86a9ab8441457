"""Synapse with lmatrix in it: our endpoints on its federation port, its own endpoints beside them, start and stop."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from signedjson.sign import sign_json

from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_client import path
from tests.end_to_end.signing_server import SigningServer
from tests.synapse.processes import RealSynapse, SynapseTestCase

ROOM_OF_NOBODY = "!nothere:localhost:1"


async def get_as_matrix_does(peer: SigningServer, destination: str, target: str) -> Answer:
    """A ``GET`` whose signature leaves ``content`` out."""
    identity = peer.identity
    request = {"method": "GET", "uri": target, "origin": identity.server_name, "destination": destination}
    signature = sign_json(request, identity.server_name, identity.key)["signatures"][identity.server_name]
    parameters = {
        "origin": identity.server_name,
        "destination": destination,
        "key": identity.key_id,
        "sig": signature[identity.key_id],
    }
    header = "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in parameters.items())
    return await peer.client.request(destination, "GET", target, authorization=[header])


class HostingTests(SynapseTestCase):
    """One Synapse, and a signing peer that is not lmatrix."""

    async def test_endpoints_and_end(self) -> None:
        """On Synapse's own port our endpoints answer in both forms of path, to both forms of signature, and to nobody
        who does not sign; what names a room that is not ours, or no room, goes to Synapse's endpoint as before. When
        Synapse is told to stop, both end in order.
        """
        (synapse,) = await self.start_synapses("synapse")
        peer = self.signing_server()
        await self.ours(synapse, peer)
        await self.synapses_own(synapse, peer)
        await self.in_one_registry(synapse)
        await synapse.stop()
        self.assertIn("lmatrix has stopped", synapse.log())
        self.assertNotIn("did not stop in order", synapse.log())

    async def ours(self, synapse: RealSynapse, peer: SigningServer) -> None:
        name = synapse.server_name
        for number, form in enumerate(("stable", "unstable")):
            answer = await peer.client.send(name, f"t{number}", [], form=form)
            self.assertEqual((200, {}), (answer.status, answer.json["failed_pdus"]), form)
            for segments in (("event", "$nothing"), ("backfill", ROOM_OF_NOBODY)):
                target = path(*segments, form=form, query=(("v", "$nothing"), ("limit", 1)))
                for answer in (
                    await peer.client.request(name, "GET", target),
                    await get_as_matrix_does(peer, name, target),
                ):
                    self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.json["errcode"]), target)
            unsigned = await peer.client.request(
                name, "PUT", path("send", "t", form=form), {"pdus": []}, authorization=[]
            )
            self.assertEqual((401, "M_FORBIDDEN"), (unsigned.status, unsigned.json["errcode"]))
        twice = b'{"pdus":[],"pdus":[]}'
        target = path("send", "twice")
        header = peer.client.authorization(name, "PUT", target, {"pdus": []})
        answer = await peer.client.request(name, "PUT", target, body=twice, authorization=[header])
        self.assertEqual(400, answer.status, "a body with a key twice is not what was signed")

    async def synapses_own(self, synapse: RealSynapse, peer: SigningServer) -> None:
        name = synapse.server_name
        alice = await synapse.user("alice")
        room_id = await alice.create_room(preset="public_chat", room_version="11")
        user_id = f"@bob:{peer.server_name}"
        target = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote(user_id)}?ver=11"
        answer = await get_as_matrix_does(peer, name, target)
        self.assertEqual((200, "11"), (answer.status, answer.json.get("room_version")), answer)
        self.assertNotIn("hub_server", answer.json["event"])
        nowhere = target.replace(quote(room_id), quote(ROOM_OF_NOBODY))
        self.assertEqual(404, (await get_as_matrix_does(peer, name, nowhere)).status)
        version = await get_as_matrix_does(peer, name, "/_matrix/federation/v1/version")
        self.assertEqual("Synapse", version.json["server"]["name"])
        keys = (await self.http.request("GET", self.urls[name], "/_matrix/key/v2/server")).json
        self.assertEqual(name, keys["server_name"])
        self.assertFalse(keys.get("m.linearized"), "this server speaks to full Matrix servers, too")

    async def in_one_registry(self, synapse: RealSynapse) -> None:
        answer = await self.http.request("GET", synapse.place.client_url, "/_synapse/metrics")
        self.assertIn('lmatrix_requests_total{api="federation",endpoint="send",status="200"} 2.0', answer.body.decode())

    async def test_restart_keeps_data(self) -> None:
        """A transaction that was answered before a SIGKILL is answered the same after it, and not carried out anew."""
        (synapse,) = await self.start_synapses("synapse")
        peer = self.signing_server()
        before = await peer.client.send(synapse.server_name, "t1", [])
        await synapse.kill()
        await synapse.start()
        self.assertEqual(before.json, (await peer.client.send(synapse.server_name, "t1", [])).json)

    async def refused_start(self, **config: Any) -> str:
        """What a Synapse says whose module has this configuration."""
        synapse = self.new_synapse("refused")

        def change(settings: dict[str, Any]) -> None:
            settings["modules"][0]["config"] = config

        synapse.configure(change)
        await synapse.start(ready=False)
        log = synapse.log()
        synapse.place.log_file.unlink()
        return log

    async def test_configuration_that_cannot_be_used(self) -> None:
        """Synapse does not start, and names the key that is wrong and what was expected."""
        log = await self.refused_start(database={"path": "lmatrix.db"}, federation={"verify_certs": True})
        self.assertIn("`federation.verify_certs` unknown key; did you mean 'verify_certificates'?", log)
        self.assertIn("modules", log)


class RefusedPeers(SynapseTestCase):
    """A Synapse that federates with named servers only."""

    async def test_whitelist(self) -> None:
        """What Synapse does not federate with, lmatrix does not either."""

        def change(settings: dict[str, Any]) -> None:
            settings["federation_domain_whitelist"] = ["localhost:1"]

        (synapse,) = await self.start_synapses("synapse", configure=change)
        answer = await self.signing_server().client.send(synapse.server_name, "t1", [])
        self.assertIn(answer.status, (401, 403), json.dumps(answer.json))
