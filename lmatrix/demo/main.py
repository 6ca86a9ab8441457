"""The demo from start to end: servers up, story, evidence, load, servers down."""

# Twisted's web client has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, HTTPConnectionPool

from lmatrix.demo import report
from lmatrix.demo.client import MatrixClient
from lmatrix.demo.evidence import AnyCertificate, Disagreement, HeldRoom, disagreements, held_room, published_keys
from lmatrix.demo.load import Measured, run_load
from lmatrix.demo.servers import IReactorForDemo, Place, RunningServer, prepare
from lmatrix.demo.story import PASSWORD, Cast, assemble_cast, play
from lmatrix.demo.together import together

LABELS = ("hub", "second", "third")
_CONNECTIONS = 64

Tell = Callable[[str], None]


@attrs.frozen(slots=True)
class Wishes:
    """What the command line asks for.

    Attributes:
        directory: where the servers' files go.
        keep: go on running after the story, until interrupted.
        messages: how many to send for the measurement; 0 for none.
        senders: how many users send them.
    """

    directory: Path
    keep: bool
    messages: int
    senders: int


async def run_demo(
    reactor: IReactorForDemo, wishes: Wishes, rng: random.Random, now: datetime.datetime, tell: Tell
) -> bool:
    """Run it; everything that was started is stopped again.

    Returns:
        Whether it came to its end; false when it was interrupted.

    Raises:
        LMatrixError: something did not work, or the servers do not agree.
    """
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = _CONNECTIONS
    http = HTTPClient(Agent(reactor, pool=pool))
    https = HTTPClient(Agent(reactor, AnyCertificate()))
    places = prepare(LABELS, wishes.directory, rng, now)
    servers = [RunningServer(place, reactor, http) for place in places]
    interrupted: Deferred[None] = Deferred()
    over: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(_shut_down(servers, interrupted, over))
    )
    tell(f"Starting three servers; their files are in {wishes.directory}")
    try:
        await together(server.start() for server in servers)
        for place in places:
            tell(f"  {place.label}: {place.server_name}, clients at {place.client_url}")
        cast = await _tell_story(reactor, http, https, places, wishes, tell)
        if wishes.keep:
            _tell_how_to_use(cast, places, tell)
            await interrupted
    except Exception:
        if not interrupted.called:
            raise
        # What goes wrong while everything is being taken down is no news.
        return False
    finally:
        await together(server.stop() for server in servers)
        await pool.closeCachedConnections()
        over.callback(None)
    return True


async def _tell_story(
    reactor: IReactorForDemo, http: HTTPClient, https: HTTPClient, places: Sequence[Place], wishes: Wishes, tell: Tell
) -> Cast:
    def new_client(place: Place) -> MatrixClient:
        return MatrixClient(place.client_url, http, reactor)

    tell("\nWhat happens:")
    cast = await assemble_cast([new_client(place) for place in places], lambda line: tell(f"  {line}"))
    room_id = await play(cast, places, lambda line: tell(f"  {line}"))
    rooms = await _held_everywhere(places, room_id, https)
    labels = {place.server_name: place.label for place in places}
    tell(f"\nThe room {room_id}")
    for room in rooms:
        for line in report.room_table(room, labels):
            tell(line)
        tell("")
    _check(rooms, tell)
    if wishes.messages:
        tell(f"\nMessages: {wishes.messages}, from {wishes.senders} users in turn on the three servers, all at once:")
        measured = await run_load(
            cast,
            places,
            messages=wishes.messages,
            senders=wishes.senders,
            new_client=new_client,
            clock=reactor,
        )
        _tell_measured(measured, tell)
        _check(await _held_everywhere(places, measured.room_id, https), tell)
    return cast


async def _held_everywhere(places: Sequence[Place], room_id: str, https: HTTPClient) -> list[HeldRoom]:
    keys = await published_keys(places, https)
    return [await deferToThread(held_room, place, room_id, keys) for place in places]


def _check(rooms: Sequence[HeldRoom], tell: Tell) -> None:
    hub, *others = rooms
    found = disagreements(hub, others)
    if found:
        raise Disagreement("the servers do not agree:\n" + "\n".join(f"  {line}" for line in found))
    shares = ", ".join(f"{room.place.label} {len(room.events)}" for room in rooms)
    tell(f"They agree: one chain, the same bytes, every signature verified. Events held: {shares}.")


def _tell_measured(measured: Measured, tell: Tell) -> None:
    rate = measured.messages / measured.sending_seconds
    everywhere = measured.messages / measured.everywhere_seconds
    tell(f"  accepted by the hub: {rate:.0f} events/s; seen by users of all three servers: {everywhere:.0f} events/s")
    tell(f"  from sending to the answer with the event ID: {report.percentiles(measured.latencies)}")


def _tell_how_to_use(cast: Cast, places: Sequence[Place], tell: Tell) -> None:
    tell("\nThe servers keep running until you press Ctrl-C. Log in with any Matrix client:")
    for client, place in zip(cast.everybody(), places, strict=True):
        tell(f"  {place.client_url}  user {client.user_id}  password {PASSWORD!r}  log {place.log}")


async def _shut_down(servers: Sequence[RunningServer], interrupted: Deferred[None], over: Deferred[None]) -> None:
    """Before the reactor stops, for whatever reason. Without its servers the story ends soon, by failing."""
    if over.called:
        return
    interrupted.callback(None)
    await together(server.stop() for server in servers)
    await over
