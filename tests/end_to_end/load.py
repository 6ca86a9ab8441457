"""Who puts load on a server that is killed again and again, and remembers what it was promised.

Owns: :class:`RawParticipant` (a participant without lmatrix, which sends transactions and follows the hub), and
:class:`Talker` and :class:`Listener` (users of a real server). Each asks the same again until it is answered, as the
I-D and the Client-Server API ask of them, and takes no other excuse for a missing answer than that nobody was there.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import TimeoutError as TookTooLong

from tests.end_to_end.client_user import ClientUser, Refused, place
from tests.end_to_end.processes import eventually
from tests.end_to_end.raw_http import NO_ANSWER, Answer
from tests.end_to_end.signing_client import path
from tests.end_to_end.signing_server import Incoming, Reply, SigningServer
from tests.end_to_end.wire_events import JsonObject, canonical, event_id

T = TypeVar("T")


NOT_YET = frozenset({429, 503, 504})
"""Statuses with which a server says that the same may be asked again."""


async def answered(ask: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
    """Ask until somebody answers."""
    answers: list[T] = []

    async def attempt() -> bool:
        try:
            answers.append(await ask())
        except (*NO_ANSWER, TookTooLong):
            return False
        except Refused as refused:
            if refused.answer.status not in NOT_YET:
                raise
            return False
        return True

    await eventually("an answer", attempt, seconds)
    return answers[0]


class RawParticipant:
    """One user on a server of their own, in one room.

    Args:
        server: their server.
        hub: the hub's server name.
        room_id: the room.
        rng: how much to send.

    Attributes:
        log: the events that the hub sent, each once, in the order in which they came.
        promised: text → event ID, of every LPDU that the hub said it accepted.
        transactions: what was sent and what was answered: ID, LPDUs, the answer's bytes.
    """

    def __init__(self, server: SigningServer, hub: str, room_id: str, rng: random.Random) -> None:
        self.server = server
        self.log: list[JsonObject] = []
        self.promised: dict[str, str] = {}
        self.transactions: list[tuple[str, list[JsonObject], bytes]] = []
        self._hub = hub
        self._room_id = room_id
        self._rng = rng
        self._user_id = server.identity.user("raw")
        self._known: dict[str, bytes] = {}
        server.handlers["send"] = self._take

    async def join(self) -> str:
        """Join the room; returns the join's event ID."""
        joined = await self.server.client.join(self._hub, self._room_id, self._user_id)
        return event_id(joined["event"])

    async def talk(self, is_over: Callable[[], bool]) -> None:
        """Send one transaction after the other."""
        while not is_over():
            await self.send(self._rng.randint(1, 10))

    async def send(self, count: int) -> None:
        """Send a transaction, again and again until it is answered."""
        number = len(self.transactions)
        client = self.server.client
        texts = [f"{self.server.server_name} {number} {index}" for index in range(count)]
        lpdus = [client.message(self._room_id, self._user_id, text, hub_server=self._hub) for text in texts]
        answer = await answered(lambda: self.put(f"txn{number}", lpdus))
        assert answer.status == 200 and answer.json["failed_pdus"] == {}, answer
        accepted = answer.json["org.lmatrix.accepted"]
        self.promised |= {text: accepted[event_id(lpdu)] for text, lpdu in zip(texts, lpdus, strict=True)}
        self.transactions.append((f"txn{number}", lpdus, answer.body))

    def has(self, wanted: str) -> bool:
        """Whether the hub has sent an event."""
        return wanted in self._known

    async def put(self, transaction_id: str, lpdus: list[JsonObject]) -> Answer:
        """Send a transaction once."""
        target = path("send", transaction_id)
        return await self.server.client.request(self._hub, "PUT", target, {"pdus": lpdus}, seconds=20)

    async def _take(self, incoming: Incoming) -> Reply:
        for pdu in incoming.content["pdus"]:
            this, encoded = event_id(pdu), canonical(pdu)
            known = self._known.setdefault(this, encoded)
            if known is encoded:
                self.log.append(pdu)
            elif known != encoded:
                self.server.complaints.append(f"{this} came in two versions")
        return 200, {"failed_pdus": {}}


class Talker:
    """A user who says something, again and again.

    Args:
        client: the user.
        room_id: the room.
        patience: how many seconds an answer may take, however often it has to be asked for.

    Attributes:
        promised: text → event ID, of every message that was answered.
    """

    def __init__(self, client: ClientUser, room_id: str, patience: float | None = None) -> None:
        self.promised: dict[str, str] = {}
        self._client = client
        self._room_id = room_id
        self._patience = patience

    async def talk(self, is_over: Callable[[], bool]) -> None:
        """Say one thing after the other."""
        while not is_over():
            number = len(self.promised)
            text = f"{self._client.user_id} {number}"

            async def ask(number: int = number, text: str = text) -> str:
                return await self._client.say_once(self._room_id, f"m{number}", text, seconds=40)

            self.promised[text] = await answered(ask, self._patience)


class Listener:
    """A user whose client follows ``/sync``.

    Args:
        client: the user, who has joined the room.
        room_id: the room.
        patience: as a talker's.

    Attributes:
        heard: IDs of the room's events, in the order in which they came down; where a timeline was limited, what lies
            before it was asked for.
    """

    def __init__(self, client: ClientUser, room_id: str, patience: float | None = None) -> None:
        self.heard: list[str] = []
        self._client = client
        self._room_id = room_id
        self._patience = patience

    async def follow(self, last: Callable[[], str | None]) -> None:
        """Follow until the last event, when there is one, has come down."""
        since: str | None = None
        only = '{"room":{"timeline":{"limit":1000}}}'
        while last() is None or last() not in self.heard:

            async def ask(since: str | None = since) -> JsonObject:
                query: dict[str, object] = {"filter": only, "timeout": 1000, **({"since": since} if since else {})}
                answer: JsonObject = await self._client.call("GET", place("sync", query=query), seconds=20)
                return answer

            answer = await answered(ask, self._patience)
            since = answer["next_batch"]
            timeline = answer.get("rooms", {}).get("join", {}).get(self._room_id, {}).get("timeline", {})
            if self.heard and timeline.get("limited"):
                self.heard += await self._between(self.heard[-1], timeline["prev_batch"])
            self.heard += [event["event_id"] for event in timeline.get("events", ())]

    async def _between(self, known: str, token: str) -> list[str]:
        """What lies after an event and before a token."""
        found: list[str] = []
        while known not in found:

            async def ask(token: str = token) -> JsonObject:
                query: dict[str, object] = {"dir": "b", "limit": 100, "from": token}
                messages = place("rooms", self._room_id, "messages", query=query)
                answer: JsonObject = await self._client.call("GET", messages, seconds=20)
                return answer

            answer = await answered(ask, self._patience)
            found += [event["event_id"] for event in answer["chunk"]]
            token = answer.get("end", token)
        return found[: found.index(known)][::-1]
