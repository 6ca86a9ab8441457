"""HTTP/2 to a real server: ALPN, TLS 1.3, and signed transactions over it (I-D "Transport")."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from tests.end_to_end.http2_client import connect
from tests.end_to_end.processes import EndToEndTestCase, eventually, reactor
from tests.end_to_end.signing_client import path
from tests.end_to_end.wire_events import canonical, event_id


class Http2Tests(EndToEndTestCase):
    """The federation listener speaks HTTP/2 to those who offer it."""

    async def test_transactions(self) -> None:
        """Signed requests over one HTTP/2 connection, side by side, are answered as over HTTP/1.1.

        A transaction is accepted and comes back from the hub; repeated over HTTP/1.1 it gets the same answer; reads and
        errors under way at the same time get their own answers.
        """
        (hub,) = await self.start_servers("hub")
        alice = await self.user(hub, "alice")
        room_id = await alice.create_room(preset="public_chat")
        raw = self.signing_server()
        user_id, name = raw.identity.user("raw"), hub.server_name
        joined = event_id((await raw.client.join(name, room_id, user_id))["event"])
        connection = await connect(reactor, int(name.rpartition(":")[2]))
        self.addCleanup(connection.close)
        self.assertEqual(b"h2", connection.protocol_name)
        self.assertEqual("TLSv1.3", connection.tls_version)

        lpdus = [raw.client.message(room_id, user_id, f"over HTTP/2: {n}", hub_server=name) for n in range(20)]
        target, content = path("send", "two"), {"pdus": lpdus}
        sending = connection.request(
            "PUT",
            name,
            target,
            {"authorization": raw.client.authorization(name, "PUT", target, content)},
            canonical(content),
        )
        read = path("event", joined)
        reading = connection.request("GET", name, read, {"authorization": raw.client.authorization(name, "GET", read)})
        unsigned = connection.request("GET", name, read, {})
        unknown = connection.request("GET", name, read + "/", {})
        sent, event, refused, lost = await gatherResults([sending, reading, unsigned, unknown], consumeErrors=True)

        self.assertEqual(200, sent.status)
        accepted = sent.json["org.lmatrix.accepted"]
        self.assertEqual({event_id(lpdu) for lpdu in lpdus}, accepted.keys())
        self.assertEqual((200, joined), (event.status, event_id(event.json)))
        self.assertEqual((401, "M_FORBIDDEN"), (refused.status, refused.errcode))
        self.assertEqual((404, "M_UNRECOGNIZED"), (lost.status, lost.errcode))
        repeated = await raw.client.request(name, "PUT", target, content)
        self.assertEqual(sent.body, repeated.body)
        last = accepted[event_id(lpdus[-1])]
        self.assertEqual(last, (await alice.latest(room_id))["event_id"])
        await eventually(
            "the events come back",
            lambda: last in [event_id(pdu) for one in raw.received("send") for pdu in one.content["pdus"]],
        )
        self.assertEqual([], raw.complaints)
