"""``GET /sync`` (Client-Server API v1.11, "Syncing"): the request, its filter, its long poll.

Owns: :class:`Sync`. Invariants: a request begins to listen before it looks, so that nothing falls between; a look that
finds nothing costs no more than the user's list of rooms; a request waits no longer than it asked, and than the server
allows.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix import canonical_json
from lmatrix.client_api.auth import Requester
from lmatrix.client_api.endpoints import Answer, Endpoint
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import query_flag, query_int
from lmatrix.client_api.filters import SyncFilter, parse_sync_filter
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.client_api.notifier import Notifier
from lmatrix.client_api.sync.blocked import without_blocked_rooms
from lmatrix.client_api.sync.reader import SyncAnswer, SyncQuestion, SyncReader
from lmatrix.client_api.tokens import parse_since
from lmatrix.devices.background import in_background
from lmatrix.devices.interfaces import ToDeviceStore
from lmatrix.devices.typing_notices import TypingNotices
from lmatrix.http.messages import JsonRequest
from lmatrix.rooms.interfaces import Database
from lmatrix.rooms.policy import Policies

MAX_TIMEOUT_MS = 120_000


class Sync:
    """The endpoint.

    Args:
        database: where to look.
        reader: makes the answer.
        accounts: for filters that were stored.
        messages: messages to devices, to forget what has arrived.
        typing: who is typing.
        policies: say which rooms are blocked: of these users hear only that they have left.
        notifier: says when to look again.
        clock: for the time-out.
    """

    log = Logger()

    def __init__(
        self,
        database: Database,
        reader: SyncReader,
        accounts: AccountStore,
        messages: ToDeviceStore,
        typing: TypingNotices,
        policies: Policies,
        notifier: Notifier,
        clock: IReactorTime,
    ) -> None:
        self._database = database
        self._reader = reader
        self._accounts = accounts
        self._messages = messages
        self._typing = typing
        self._policies = policies
        self._notifier = notifier
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What it answers."""
        return (Endpoint("GET", "/sync", self._sync, "sync", long_poll=True),)

    async def _sync(self, request: JsonRequest, requester: Requester) -> Answer:
        since = request.query_one("since")
        full_state = query_flag(request, "full_state")
        timeout_ms = query_int(request, "timeout", 0, minimum=0, maximum=MAX_TIMEOUT_MS)
        question = SyncQuestion(
            requester=requester,
            since=parse_since(since) if since else None,
            wanted=await self._filter(request.query_one("filter"), requester),
            full_state=full_state,
            now_ms=int(self._clock.seconds() * 1000),
        )
        if question.since is None or full_state or not timeout_ms:
            return (await self._look(question)).body
        return await self._wait(question, self._clock.seconds() + timeout_ms / 1000)

    async def _wait(self, question: SyncQuestion, deadline: float) -> Answer:
        with self._notifier.listen(question.requester.user_id) as listener:
            while True:
                listener.looks()
                answer = await self._look(question)
                if answer.has_news:
                    return answer.body
                listener.seen(answer.stream, answer.rooms)
                if not await listener.wait(deadline - self._clock.seconds()):
                    return answer.body

    async def _look(self, question: SyncQuestion) -> SyncAnswer:
        current = attrs.evolve(question, typing=self._typing.snapshot())
        answer = await self._database.read(lambda tx: self._reader.read(tx, current))
        await without_blocked_rooms(answer.body["rooms"], question.requester.user_id, self._policies)
        if answer.acknowledged is not None:
            self._forget_messages(question.requester, answer.acknowledged)
        return answer

    def _forget_messages(self, requester: Requester, up_to: int) -> None:
        """The device has them. Nobody waits for that: it only tidies up, and is done with the next sync otherwise."""
        device = (requester.user_id, requester.device_id)

        async def forget() -> None:
            await self._database.write(lambda tx: self._messages.acknowledge(tx, *device, up_to))

        in_background(forget(), self.log, f"{requester.user_id}: messages that a device has are not removed yet")

    async def _filter(self, given: str | None, requester: Requester) -> SyncFilter:
        """A filter: written out in JSON, or by the ID under which it was stored."""
        if not given:
            return SyncFilter()
        if given.startswith("{"):
            return parse_sync_filter(canonical_json.parse_object(given))
        stored = await self._database.read(lambda tx: self._accounts.filter(tx, requester.user_id, given))
        if stored is None:
            raise invalid_param("filter", "no such filter")
        return parse_sync_filter(canonical_json.parse_object(stored))
