"""A server of the suite's own: it publishes keys, takes what the target sends, and answers as a good server would.

Owns: :class:`Peer`, :class:`Arrival`, what came, in order. What a case wants to be answered otherwise it says with
:meth:`Peer.answering`. Rooms that it is the hub of are :mod:`.tiny_hub`'s.

Source: I-D "Transport".
"""

# Twisted's HTTP server has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import attrs
import rfc8785
from nacl.exceptions import BadSignatureError
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request, Site
from unpaddedbase64 import decode_base64
from zope.interface import implementer

from tests.conformance.exchanges import Exchange, Transcript
from tests.conformance.verdicts import Failed
from tests.end_to_end.raw_http import RawHttp
from tests.end_to_end.signing_client import SigningClient
from tests.end_to_end.signing_server import SigningServer
from tests.end_to_end.wire_events import Identity, JsonObject, WireError, canonical, lpdu_hash, signed_event

if TYPE_CHECKING:
    from tests.conformance.tiny_hub import TinyHub

Reply = tuple[int, JsonObject | bytes]

POLL_SECONDS = 0.01

_ENDPOINT = re.compile(r"/_matrix/federation/(?:v[0-9]+|unstable/[^/]+)/(?P<name>[a-z_]+)(?:/(?P<rest>.*))?\Z")
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SHOWN_HEADERS = ("authorization", "content-type")


@attrs.frozen(slots=True)
class Arrival:
    """An authenticated request to a federation endpoint.

    Attributes:
        origin: who made it.
        name: the endpoint's first word: ``"send"``.
        segments: what follows it in the path, decoded.
        query: the values of each parameter.
        headers: by lower-case name.
        content: the body, parsed; ``{}`` when there was none.
        body: the body as it came.
    """

    origin: str
    method: str
    target: str
    name: str
    segments: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, Sequence[str]]
    content: JsonObject
    body: bytes


Handler = Callable[[Arrival], Awaitable[Reply]]


class Peer(SigningServer):
    """A server with its own key on a port of its own.

    Args:
        reactor: Twisted's.
        http: for its own requests.
        urls: where servers are, by name; its own address is added when it starts.
        certificate: of its TLS side.
        transcript: where what comes is kept.
        address: the IP address on which it listens.
        port: the port; 0 for a free one.
        host: how the target calls the machine; with the port, the server's name.
        url_host: how the suite itself reaches it.

    Attributes:
        arrivals: what came and was authenticated, in order.
        pdus: the events that came by ``send``, in order.
        edus: the EDUs that came by ``send``, in order.
        hubs: the rooms that it is the hub of.
        in_flight: IDs of the transactions that it has not answered yet.
        overlaps: what came while another transaction was in flight.
        largest: most PDUs and most EDUs that came in one transaction.
        publish: what it publishes as its keys, where that is not what is right.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        http: RawHttp,
        urls: dict[str, str],
        *,
        certificate: CertificateOptions,
        transcript: Transcript,
        address: str = "127.0.0.1",
        port: int = 0,
        host: str = "localhost",
        key_version: str = "suite",
    ) -> None:
        super().__init__(reactor, http, urls, certificate=certificate, key_version=key_version)
        self._transcript = transcript
        self._address, self._asked_port, self._host = address, port, host
        self._factory = WrappingFactory(Site(_Root(self), reactor=reactor))
        self.arrivals: list[Arrival] = []
        self.pdus: list[JsonObject] = []
        self.edus: list[JsonObject] = []
        self.hubs: dict[str, TinyHub] = {}
        self.in_flight: list[str] = []
        self.overlaps: list[str] = []
        self.largest = (0, 0)
        self.publish: Callable[[JsonObject], JsonObject] | None = None
        self._answers: dict[str, Handler] = {
            "send": self._take_transaction,
            "invite": self._sign_invite,
            **dict.fromkeys(("make_join", "make_leave", "make_knock"), self._ask_hub),
            **dict.fromkeys(("send_join", "send_leave", "send_knock"), self._ask_hub),
            **dict.fromkeys(("state", "state_ids", "backfill", "event"), self._ask_hub),
        }

    # -- Life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen."""
        self._port = self._reactor.listenSSL(
            self._asked_port, self._factory, self._certificate, interface=self._address
        )
        number = self._port.getHost().port
        self.identity = Identity(f"{self._host}:{number}", self._key)
        self._urls[self.server_name] = f"https://{self._host}:{number}"
        self.client = SigningClient(self.identity, self._http, self._urls, self._reactor)

    @contextmanager
    def answering(self, **handlers: Handler) -> Iterator[None]:
        """Answer some endpoints otherwise for a while."""
        before = dict(self._answers)
        self._answers.update(handlers)
        try:
            yield
        finally:
            self._answers = before

    # -- Waiting ------------------------------------------------------------------------------------------------------

    async def until(self, what: str, find: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Wait until something is there; what ``find`` gives then.

        Raises:
            Failed: it did not come.
        """
        deadline = self._reactor.seconds() + seconds
        while not (found := find()):
            if self._reactor.seconds() > deadline:
                raise Failed(f"within {seconds:.0f} s there was no {what}")
            await deferLater(self._reactor, POLL_SECONDS, lambda: None)
        return found

    async def echo(self, lpdu: JsonObject, seconds: float = 10.0) -> JsonObject:
        """The PDU that was made from an LPDU, when it comes."""
        wanted = lpdu["hashes"]["lpdu"]["sha256"]

        def find() -> JsonObject | None:
            return next((pdu for pdu in reversed(self.pdus) if _declared(pdu) == wanted), None)

        pdu: JsonObject = await self.until(f"PDU from the hub at {self.server_name} for the LPDU", find, seconds)
        return pdu

    async def event(self, what: str, seconds: float = 10.0, **fields: object) -> JsonObject:
        """A PDU that came by ``send`` and has these fields, when it comes."""

        def find() -> JsonObject | None:
            return next((pdu for pdu in self.pdus if all(pdu.get(key) == value for key, value in fields.items())), None)

        pdu: JsonObject = await self.until(what, find, seconds)
        return pdu

    def came(self, name: str, room_id: str | None = None) -> list[Arrival]:
        """The requests to one endpoint, of one room."""
        return [one for one in self.arrivals if one.name == name and (room_id is None or _is_about(one, room_id))]

    # -- Answering ----------------------------------------------------------------------------------------------------

    async def respond(self, method: str, target: str, headers: Mapping[str, Sequence[str]], body: bytes) -> Reply:
        """What to answer to a request."""
        if target == "/_matrix/key/v2/server":
            self.keys_asked += 1
            if self.key_gate is not None:
                gate: Deferred[None] = Deferred()
                self.key_gate.chainDeferred(gate)
                await gate
            published = self.published_keys()
            return 200, published if self.publish is None else self.publish(published)
        path, _, query = target.partition("?")
        found = _ENDPOINT.match(path)
        handler = None if found is None else self._answers.get(found["name"])
        if found is None or handler is None:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "unknown endpoint"}
        content = json.loads(body) if body else {}
        try:
            origin = await self._authenticated(method, target, list(headers.get("authorization", ())), content)
        except WireError as error:
            self.complaints.append(f"{method} {target}: {error}")
            return 401, {"errcode": "M_FORBIDDEN", "error": str(error)}
        segments = tuple(unquote(segment) for segment in (found["rest"] or "").split("/"))
        arrival = Arrival(origin, method, target, found["name"], segments, parse_qs(query), headers, content, body)
        self.arrivals.append(arrival)
        if arrival.name != "send":
            return await handler(arrival)
        self._weigh(arrival)
        self.in_flight.append(arrival.segments[0])
        try:
            return await handler(arrival)
        finally:
            self.in_flight.remove(arrival.segments[0])

    def _weigh(self, arrival: Arrival) -> None:
        others = [one for one in self.in_flight if one != arrival.segments[0]]
        if others:
            self.overlaps.append(f"{arrival.segments[0]} came to {self.server_name} while {others} was in flight")
        pdus, edus = self.largest
        content = arrival.content
        self.largest = (max(pdus, len(content.get("pdus", []))), max(edus, len(content.get("edus", []))))

    async def _authenticated(self, method: str, target: str, authorization: list[str], content: JsonObject) -> str:
        """See :class:`SigningServer`; what is signed is canonical JSON by RFC 8785, to the last float and key."""
        origin = ""
        for header in authorization:
            scheme, _, rest = header.partition(" ")
            given = dict(_PARAMETER.findall(rest))
            origin, key_id = given.get("origin", ""), given.get("key", "")
            if scheme != "X-Matrix" or given.get("destination") != self.server_name or not origin:
                raise WireError(f"bad header {header}")
            key = (await self.client.keys(origin)).get(key_id) or (await self.client.keys(origin, fresh=True)).get(
                key_id
            )
            if key is None:
                raise WireError(f"{origin} has no key {key_id}")
            request = {
                "method": method,
                "uri": target,
                "origin": origin,
                "destination": self.server_name,
                "content": content,
            }
            try:
                key.verify(rfc8785.dumps(request), decode_base64(given.get("sig") or given.get("signature", "")))
            except (BadSignatureError, ValueError) as error:
                raise WireError(f"a bad signature of {origin}: {error}") from None
        if not origin:
            raise WireError("no Authorization header")
        return origin

    async def take(self, arrival: Arrival) -> Reply:
        """Answer a transaction as it is answered when nothing is said."""
        return await self._take_transaction(arrival)

    async def _take_transaction(self, arrival: Arrival) -> Reply:
        self.edus += arrival.content.get("edus", [])
        for pdu in arrival.content.get("pdus", []):
            hub = self.hubs.get(pdu.get("room_id", ""))
            if hub is not None:
                hub.take(pdu)
            else:
                self.pdus.append(pdu)
        return 200, {"failed_pdus": {}}

    async def _sign_invite(self, arrival: Arrival) -> Reply:
        event = arrival.content["event"]
        return 200, {"pdu": signed_event(self.identity, event, arrival.content["room_version"])}

    async def _ask_hub(self, arrival: Arrival) -> Reply:
        hub = next((hub for room_id, hub in self.hubs.items() if _is_about(arrival, room_id)), None)
        if hub is None and arrival.name == "event":
            hub = next((hub for hub in self.hubs.values() if hub.event(arrival.segments[0])), None)
        if hub is None:
            return 404, {"errcode": "M_NOT_FOUND", "error": "no such room"}
        return hub.answer(arrival)


def _is_about(arrival: Arrival, room_id: str) -> bool:
    content = arrival.content
    return (
        arrival.segments[0] == room_id
        or content.get("room_id") == room_id
        or (isinstance(content.get("event"), dict) and content["event"].get("room_id") == room_id)
        or any(pdu.get("room_id") == room_id for pdu in content.get("pdus", ()))
    )


def _declared(pdu: JsonObject) -> object:
    try:
        return pdu["hashes"]["lpdu"]["sha256"]
    except (KeyError, TypeError):
        return lpdu_hash(pdu)


@implementer(IResource)
class _Root:
    isLeaf = True  # noqa: N815 - IResource names it so

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError("it has no children")

    def render(self, request: Request) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        headers = {
            name.decode("ascii").lower(): [value.decode("latin-1") for value in values]
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        method, target = request.method.decode("ascii"), request.uri.decode("ascii")
        body = b"" if request.content is None else request.content.read()
        shown = {name: headers[name] for name in _SHOWN_HEADERS if name in headers}
        url = f"{method} {target} at {self._peer.server_name}"
        exchange = self._peer._transcript.add(Exchange(True, url, shown, body or None))

        def write(reply: Reply) -> None:
            status, content = reply
            answer = content if isinstance(content, bytes) else canonical(content)
            exchange.status, exchange.answer = status, answer
            if gone:
                return
            request.setResponseCode(status)
            request.setHeader(b"Content-Type", b"application/json" if isinstance(content, dict) else b"text/html")
            request.write(answer)
            request.finish()

        def failed(failure: Failure) -> None:
            # What the target sent cannot be read as what it should be.
            self._peer.complaints.append(f"{url}: {failure.getErrorMessage()}")
            write((500, {"errcode": "M_UNKNOWN", "error": failure.getErrorMessage()}))

        answering = Deferred.fromCoroutine(self._peer.respond(method, target, headers, body))
        answering.addCallbacks(write, failed)
        answering.addErrback(lambda failure: Peer.log.failure("an answer failed", failure=failure))
        return NOT_DONE_YET
