"""A real process, over TLS: the same sort of input as in memory, and bytes that are no HTTP at all."""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.end_to_end.bad_input import BadInputTestCase
from tests.end_to_end.processes import eventually, reactor
from tests.end_to_end.signing_client import path
from tests.end_to_end.wire_events import check_chain, rehashed
from tests.fuzz.campaigns import HTTP1_PARTS, HTTP2_PARTS
from tests.fuzz.values import mutated, plain, text_of

T = TypeVar("T")


def some(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Examples of a strategy, the same ones every time."""
    found: list[T] = []

    @hypothesis.settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def keep(one: T) -> None:
        found.append(one)

    keep()
    return found


class ProcessTests(BadInputTestCase):
    """It goes on, whatever it is told."""

    async def test_signed_requests(self) -> None:
        """Bodies that are right but for a few places, properly signed where they can be: no 500, nothing in the log,
        and what gets into the room is still a chain.
        """
        await self.stage()
        client, us = self.raw.client, self.us.server_name
        words = [us, self.room_id, self.member, self.alice.user_id, self.head, "m.room.member", "join", 100]
        templates = {
            "send": client.message(self.room_id, self.member, "hi", hub_server=us),
            "send_join": client.member(self.room_id, self.raw.identity.user("new"), "join", hub_server=us),
            "send_leave": client.member(self.room_id, self.member, "leave", hub_server=us),
            "invite": client.member(self.room_id, self.member, "invite", target=self.alice.user_id, hub_server=us),
        }
        number = 0
        for name, event in templates.items():
            for changed in some(mutated(event, words), 25):
                number += 1
                body = self._body(name, changed)
                method = "PUT" if name == "send" else "POST"
                target = path(name, f"fuzz{number}")
                header = ["X-Matrix x"]
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    header = [client.authorization(us, method, target, json.loads(body))]
                answer = await client.request(us, method, target, body=body, authorization=header)
                if answer.status == 500 or (answer.status != 200 and answer.errcode is None):
                    self.wrong.append(f"{method} {target} {body[:500]!r}: {answer}")
        self.assertEqual([], self.wrong)
        latest = await self.alice.latest(self.room_id)
        check_chain(await self.raw.client.room(us, self.room_id, latest["event_id"]))

    async def test_bytes(self) -> None:
        """Connections on which hardly HTTP is spoken, or none: they end, and the server has nothing open afterwards."""
        await self.stage()
        port = int(self.us.server_name.partition(":")[2])
        before = self._open_files()
        for protocol, parts in ((None, HTTP1_PARTS), (b"h2", HTTP2_PARTS)):
            for chunks in some(parts, 30):
                connection = _Garbage(chunks)
                endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
                await connectProtocol(wrapClientTLS(_AnyCertificate(protocol), endpoint), connection)
                await connection.over
        await eventually("the connections are closed", lambda: self._open_files() <= before + 2)
        answer = await self.http.request("GET", self.urls[self.us.server_name], "/_matrix/key/v2/server")
        self.assertEqual(200, answer.status)

    def _body(self, name: str, event: Any) -> bytes:
        with contextlib.suppress(Exception):
            # As far as what is wrong with it lets itself be signed.
            event = rehashed(self.raw.identity, plain(event))
        if name == "send":
            return text_of({"pdus": [event]})
        return text_of({"event": event, "room_version": "I.1"} if name == "invite" else event)

    def _open_files(self) -> int:
        return len(list(Path(f"/proc/{self.us.pid}/fd").iterdir()))


class _Garbage(Protocol):
    """Sends some bytes, waits a moment, and goes away."""

    transport: Any

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        for chunk in self._chunks:
            self.transport.write(chunk)
        self._leaving = deferLater(reactor, 0.05, self.transport.abortConnection)
        self._leaving.addErrback(lambda _: None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leaving.cancel()
        self.over.callback(None)


@implementer(IOpenSSLClientConnectionCreator)
class _AnyCertificate:
    def __init__(self, protocol: bytes | None) -> None:
        self._context = CertificateOptions().getContext()
        if protocol is not None:
            self._context.set_alpn_protos([protocol])

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)
