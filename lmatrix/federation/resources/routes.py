"""The federation API as route tables, for a listener to serve.

Owns: which handler answers at which path, with which body limit. Every endpoint of :mod:`.paths` stands there twice, in
its stable and in its unstable form, with one handler and one name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from lmatrix.federation.resources import paths
from lmatrix.federation.resources.admission import Admission
from lmatrix.federation.resources.devices import DevicesResource, HandsKeysOut, KnowsDevices
from lmatrix.federation.resources.events import EventsResource, ReadsHistory
from lmatrix.federation.resources.heads import HeadsResource, TellsHeads
from lmatrix.federation.resources.hub_transfer import GivesRooms, HubTransferResource, TakesOffers
from lmatrix.federation.resources.invite import InviteResource, TakesInvites
from lmatrix.federation.resources.keys import AnswersKeyQueries, KeysResource, PublishesKeys
from lmatrix.federation.resources.membership import MembershipResource, ShakesHands
from lmatrix.federation.resources.paths import EndpointPath
from lmatrix.federation.resources.public_rooms import ListsRooms, PublicRoomsResource
from lmatrix.federation.resources.queries import QueriesResource, TellsProfiles, TellsWhereAliasesLead
from lmatrix.federation.resources.send import Receives, SendResource
from lmatrix.federation.resources.version import version
from lmatrix.http.routes import Handler, Route, RouteTable

MAX_SEND_BODY = 10 * 1024 * 1024
"""Bytes: 50 PDUs and 100 EDUs of 64 KiB each, and what is around them."""

MAX_INVITE_BODY = 1024 * 1024
"""Bytes: one event, and the stripped state of its room."""

MAX_EVENT_BODY = 128 * 1024
"""Bytes: one event that need not be canonical JSON yet."""

MAX_KEY_QUERY_BODY = 64 * 1024
"""Bytes: a hundred servers, with some keys of each."""

MAX_CLAIM_BODY = 256 * 1024
"""Bytes: a thousand devices whose keys are claimed."""

MAX_SEARCH_BODY = 16 * 1024
"""Bytes: a search term, and some room types."""

MAX_BARE_BODY = 1024
"""Bytes of a body where none is asked for."""


class Handshakes(TakesInvites, ShakesHands, Protocol):
    """See :class:`lmatrix.rooms.handshakes.Handshakes`."""


def federation_table(
    admission: Admission,
    receiver: Receives,
    handshakes: Handshakes,
    history: ReadsHistory,
    candidacy: TakesOffers,
    transfer: GivesRooms,
    heads: TellsHeads,
    directory: KnowsDevices,
    claims: HandsKeysOut,
    profiles: TellsProfiles,
    aliases: TellsWhereAliasesLead,
    public_rooms: ListsRooms,
    *,
    max_send_body: int = MAX_SEND_BODY,
) -> RouteTable:
    """Everything under ``/_matrix/federation``.

    Args:
        admission: the door.
        receiver, handshakes, history, candidacy, transfer, heads: the rooms.
        directory, claims: local users' devices and their keys.
        profiles, aliases, public_rooms: what users and rooms are called, and the list of rooms.
        max_send_body: bytes of a transaction.
    """
    membership = MembershipResource(admission, handshakes)
    events = EventsResource(admission, history)
    devices = DevicesResource(admission, directory, claims)
    handlers: Sequence[tuple[EndpointPath, Handler, int]] = (
        (paths.SEND, SendResource(admission, receiver).put, max_send_body),
        (paths.INVITE, InviteResource(admission, handshakes).post, MAX_INVITE_BODY),
        (paths.MAKE_JOIN, membership.make("join"), MAX_BARE_BODY),
        (paths.MAKE_LEAVE, membership.make("leave"), MAX_BARE_BODY),
        (paths.MAKE_KNOCK, membership.make("knock"), MAX_BARE_BODY),
        (paths.SEND_JOIN, membership.send("join"), MAX_EVENT_BODY),
        (paths.SEND_LEAVE, membership.send("leave"), MAX_EVENT_BODY),
        (paths.SEND_KNOCK, membership.send("knock"), MAX_EVENT_BODY),
        (paths.EVENT, events.event, MAX_BARE_BODY),
        (paths.STATE, events.state, MAX_BARE_BODY),
        (paths.STATE_IDS, events.state_ids, MAX_BARE_BODY),
        (paths.BACKFILL, events.backfill, MAX_BARE_BODY),
        (paths.DEVICE, devices.device, MAX_BARE_BODY),
        (paths.CLAIM_KEYS, devices.claim, MAX_CLAIM_BODY),
    )
    hubs = HubTransferResource(admission, candidacy, transfer)
    listed = PublicRoomsResource(admission, public_rooms)
    queries = QueriesResource(admission, profiles, aliases)
    single = tuple(
        Route(endpoint.method, endpoint.stable, handler, endpoint.name, MAX_BARE_BODY)
        for endpoint, handler in (
            (paths.VERSION, version),
            (paths.EVENT_AUTH, events.event_auth),
            (paths.QUERY_PROFILE, queries.profile),
            (paths.QUERY_DIRECTORY, queries.directory),
            (paths.PUBLIC_ROOMS, listed.get),
            (paths.DEVICES, devices.devices),
            (paths.HUB_OFFER, hubs.offer),
            (paths.HUB_REQUEST, hubs.request),
            (paths.HEAD, HeadsResource(admission, heads).get),
        )
    )
    search = paths.SEARCH_PUBLIC_ROOMS
    single += (Route(search.method, search.stable, listed.post, search.name, MAX_SEARCH_BODY),)
    return RouteTable(
        "federation", tuple(route for entry in handlers for route in _twins(*entry)) + single, shared_out=True
    )


def key_table(own_keys: PublishesKeys, notary: AnswersKeyQueries) -> RouteTable:
    """Everything under ``/_matrix/key``.

    Args:
        own_keys: our keys, signed.
        notary: knows other servers' keys.
    """
    keys = KeysResource(own_keys, notary)
    return RouteTable(
        "key",
        (
            Route("GET", paths.SERVER_KEYS, keys.server, "server_keys", MAX_BARE_BODY),
            Route("GET", f"{paths.KEY_QUERY}/{{serverName}}", keys.query_one, "query_keys", MAX_BARE_BODY),
            Route("POST", paths.KEY_QUERY, keys.query_many, "query_keys", MAX_KEY_QUERY_BODY),
        ),
        shared_out=True,
    )


def _twins(endpoint: EndpointPath, handler: Handler, max_body: int) -> Iterator[Route]:
    for path in (endpoint.stable, endpoint.unstable):
        yield Route(endpoint.method, path, handler, endpoint.name, max_body)
