"""From one user to another: three real servers, driven through the Client-Server API.

Owns: the measurement of what people notice. One message at a time for the latency, from a user of one participant to a
user of the other; then many users at once. It runs in a process of its own, since it needs a reactor:
``python -m tests.bench.end_to_end DIRECTORY MESSAGES``, which prints a :class:`Journey` as JSON.
"""

# Twisted's web client has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import datetime
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool

from lmatrix.demo.client import MatrixClient
from lmatrix.demo.load import run_load
from lmatrix.demo.servers import Place, RunningServer, prepare
from lmatrix.demo.story import assemble_cast

_LABELS = ("hub", "second", "third")
_SENDERS = 15
_PATIENCE_SECONDS = 60.0


@attrs.frozen(kw_only=True)
class Journey:
    """What was measured, in seconds.

    Attributes:
        answers: from a user's sending to the answer with the event ID.
        sights: from a user's sending until a user of the other participant has it.
        senders: how many users sent at once after that.
        messages_per_second: how many of theirs were accepted.
        crowd_answers: as ``answers``, for theirs.
    """

    answers: list[float]
    sights: list[float]
    senders: int
    messages_per_second: float
    crowd_answers: list[float]


def measure_end_to_end(directory: Path, messages: int) -> Journey:
    """Start three servers, measure, and stop them.

    Args:
        directory: for their files.
        messages: how many are sent one at a time; ten times as many are sent by the crowd.

    Raises:
        subprocess.CalledProcessError: it failed; why, it has said on standard error.
    """
    command = [sys.executable, "-m", "tests.bench.end_to_end", str(directory), str(messages)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True)
    return Journey(**json.loads(done.stdout))


async def _run(reactor: Any, directory: Path, messages: int) -> None:
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = _SENDERS + 5
    http = HTTPClient(Agent(reactor, pool=pool))
    places = prepare(_LABELS, directory, random.SystemRandom(), datetime.datetime.now(datetime.UTC))
    servers = [RunningServer(place, reactor, http) for place in places]
    try:
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in servers], consumeErrors=True)
        journey = await _measure(reactor, http, places, messages)
    finally:
        await gatherResults([Deferred.fromCoroutine(server.stop()) for server in servers], consumeErrors=True)
        await pool.closeCachedConnections()
    print(json.dumps(attrs.asdict(journey)))


async def _measure(reactor: Any, http: HTTPClient, places: list[Place], messages: int) -> Journey:
    def new_client(place: Place) -> MatrixClient:
        return MatrixClient(place.client_url, http, reactor)

    cast = await assemble_cast([new_client(place) for place in places], lambda line: None)
    room_id = await cast.alice.create_room(name="Bench", preset="public_chat")
    for guest in (cast.bob, cast.carol):
        await guest.join(room_id, places[0].server_name)
    watcher = Watcher(places[2], http, reactor)
    await watcher.begin(room_id, places[0].server_name)
    watching = Deferred.fromCoroutine(watcher.watch("That was all"))
    # The first message of all makes connections and fetches keys.
    await cast.bob.say(room_id, "Is anybody there?")
    answers: list[float] = []
    sent: dict[str, float] = {}
    for number in range(messages):
        text = f"message {number}"
        sent[text] = reactor.seconds()
        await cast.bob.say(room_id, text)
        answers.append(reactor.seconds() - sent[text])
    await cast.bob.say(room_id, "That was all")
    await watching.addTimeout(_PATIENCE_SECONDS, reactor)
    crowd = await run_load(cast, places, messages=10 * messages, senders=_SENDERS, new_client=new_client, clock=reactor)
    return Journey(
        answers=answers,
        sights=[watcher.seen[text] - began for text, began in sent.items()],
        senders=_SENDERS,
        messages_per_second=crowd.messages / crowd.sending_seconds,
        crowd_answers=list(crowd.latencies),
    )


class Watcher:
    """A user who does nothing but look on: there is always a long poll waiting.

    Args:
        place: whose user it is.
        http: makes the requests.
        reactor: tells the time.

    Attributes:
        seen: when each text was seen first.
    """

    def __init__(self, place: Place, http: HTTPClient, reactor: Any) -> None:
        self.seen: dict[str, float] = {}
        self._api = f"{place.client_url}/_matrix/client/v3"
        self._http = http
        self._reactor = reactor
        self._headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}

    async def begin(self, room_id: str, via: str) -> None:
        """Register and join."""
        body = {"username": "watcher", "password": "watches", "auth": {"type": "m.login.dummy"}}
        registered = await self._request("POST", "/register", body)
        self._headers["Authorization"] = f"Bearer {registered['access_token']}"
        await self._request("POST", f"/join/{quote(room_id)}?server_name={quote(via)}", {})

    async def watch(self, last: str) -> None:
        """Look on until a text is seen."""
        since = ""
        while last not in self.seen:
            answer = await self._request("GET", f"/sync?timeout=10000{since}", None)
            now = self._reactor.seconds()
            since = f"&since={quote(answer['next_batch'])}"
            for room in answer.get("rooms", {}).get("join", {}).values():
                for event in room["timeline"]["events"]:
                    self.seen.setdefault(event["content"].get("body", ""), now)

    async def _request(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode("utf-8")
        response = await self._http.request(method, self._api + path, headers=self._headers, data=data)
        content = await response.content()
        if response.code != 200:
            raise RuntimeError(f"{method} {path}: {response.code}: {content[:300]!r}")
        return json.loads(content)


if __name__ == "__main__":
    react(_run, (Path(sys.argv[1]), int(sys.argv[2])))
