"""The client API put together.

Owns: :func:`client_routes`, which takes what the client API uses and gives its route table, and the few things that all
endpoints share: both path prefixes, the access token, the limit on changes, the errors that only this API has.
"""

from __future__ import annotations

import random
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.client_api.access import RoomAccess
from lmatrix.client_api.aliases import AliasEndpoints
from lmatrix.client_api.auth import Authenticator
from lmatrix.client_api.device_lists import DeviceListReader
from lmatrix.client_api.device_management import DeviceManagement
from lmatrix.client_api.elsewhere import AskingElsewhere
from lmatrix.client_api.endpoints import Answer, ClientLimits, Endpoint, OpenEndpoint
from lmatrix.client_api.errors import ClientApiError
from lmatrix.client_api.fields import room_id_in
from lmatrix.client_api.interfaces import (
    AccountStore,
    DeviceNewsStore,
    KeyCountStore,
    LocalUsers,
    MessageStore,
    ReadMarkerStore,
    TimelineStore,
)
from lmatrix.client_api.keys import Keys
from lmatrix.client_api.login import Login
from lmatrix.client_api.membership import Membership
from lmatrix.client_api.messages import Messages
from lmatrix.client_api.notifier import Notifier
from lmatrix.client_api.passwords import Passwords
from lmatrix.client_api.profiles import ProfileEndpoints
from lmatrix.client_api.public_rooms import PublicRoomEndpoints
from lmatrix.client_api.reading import Reading
from lmatrix.client_api.reauthentication import PasswordAgain
from lmatrix.client_api.registration import Registration
from lmatrix.client_api.rooms_create import RoomCreation
from lmatrix.client_api.sending import Sending
from lmatrix.client_api.startup import StartUp, versions
from lmatrix.client_api.state import State
from lmatrix.client_api.sync.beside import BesideReader
from lmatrix.client_api.sync.endpoint import Sync
from lmatrix.client_api.sync.reader import SyncReader
from lmatrix.client_api.to_device import SendToDevice
from lmatrix.devices.floor import DevicesFloor
from lmatrix.devices.interfaces import SharingStore, ToDeviceStore
from lmatrix.directory.floor import DirectoryFloor
from lmatrix.http.errors import refusal
from lmatrix.http.messages import JsonRequest
from lmatrix.http.routes import Handler, Route, RouteTable
from lmatrix.rooms.interfaces import Database, InviteStore, RoomStore
from lmatrix.rooms.policy import Policies


class WaitingMessages(MessageStore, ToDeviceStore, Protocol):
    """Messages for devices, as ``/sync`` reads and forgets them."""


_ROOM = "{roomId}"
_IN_BLOCKED_ROOMS = ("leave", "forget")
"""What users may do in a room that is blocked."""

PREFIXES = ("/_matrix/client/v3", "/_matrix/client/r0")


@attrs.frozen(slots=True, kw_only=True)
class BesideStores:
    """The stores of what there is beside rooms, as far as the client API reads them itself."""

    devices: DeviceNewsStore
    one_time_keys: KeyCountStore
    to_device: WaitingMessages
    receipts: ReadMarkerStore
    sharing: SharingStore


@attrs.frozen(slots=True, kw_only=True)
class ClientApiParts:
    """What the client API uses.

    Attributes:
        server_name: ours.
        database: where everything is.
        room_store, timeline_store, account_store, invite_store: the stores.
        rooms: what users do in rooms.
        policies: say which rooms are blocked.
        devices: devices, and what users do beside rooms.
        beside: its stores.
        names: what users and rooms are called.
        notifier: wakes ``/sync``; the rooms tell it.
        passwords: hashes and checks.
        clock: the time.
        rng: a cryptographically secure source (``random.SystemRandom``), for tokens.
        registration_enabled: whether anybody may make an account.
        default_room_version: of rooms whose creator does not choose.
        limits: how often clients may ask.
    """

    server_name: str
    database: Database
    room_store: RoomStore
    timeline_store: TimelineStore
    account_store: AccountStore
    invite_store: InviteStore
    rooms: LocalUsers
    policies: Policies
    devices: DevicesFloor
    beside: BesideStores
    names: DirectoryFloor
    notifier: Notifier
    passwords: Passwords
    clock: IReactorTime
    rng: random.Random
    registration_enabled: bool
    default_room_version: str
    limits: ClientLimits


def client_routes(parts: ClientApiParts) -> RouteTable:
    """The client API's route table."""
    authenticator = Authenticator(parts.database, parts.account_store)
    routes = [Route("GET", "/_matrix/client/versions", versions, "versions")]
    for endpoint in _endpoints(parts, authenticator):
        if isinstance(endpoint, OpenEndpoint):
            handler, long_poll = _open(endpoint), False
        else:
            handler, long_poll = _authenticated(endpoint, authenticator, parts), endpoint.long_poll
        routes += [
            Route(endpoint.method, prefix + endpoint.path, handler, endpoint.name, endpoint.max_body, long_poll)
            for prefix in PREFIXES
        ]
    return RouteTable("client", routes, cors=True)


def _endpoints(parts: ClientApiParts, authenticator: Authenticator) -> list[Endpoint | OpenEndpoint]:
    database, store, timeline, accounts = (
        parts.database,
        parts.room_store,
        parts.timeline_store,
        parts.account_store,
    )
    floor, beside, names = parts.devices, parts.beside, parts.names
    access = RoomAccess(store, timeline)
    registration = Registration(
        parts.server_name,
        enabled=parts.registration_enabled,
        database=database,
        accounts=accounts,
        passwords=parts.passwords,
        clock=parts.clock,
        rng=parts.rng,
        limiter=parts.limits.registration,
    )
    login = Login(
        parts.server_name,
        database=database,
        accounts=accounts,
        passwords=parts.passwords,
        devices=floor.devices,
        clock=parts.clock,
        rng=parts.rng,
        limiter=parts.limits.login,
    )
    start_up = StartUp(parts.default_room_version, database=database, accounts=accounts)
    lists = DeviceListReader(store, timeline, beside.devices, beside.sharing)
    keys = Keys(
        floor.devices,
        floor.directory,
        floor.claims,
        database=database,
        timeline=timeline,
        lists=lists,
        clock=parts.clock,
    )
    elsewhere = AskingElsewhere(authenticator, parts.limits.changes)
    aliases = AliasEndpoints(
        names.aliases,
        names.canonical,
        elsewhere,
        database=database,
        store=store,
        timeline=timeline,
        sharing=beside.sharing,
    )
    password_again = PasswordAgain(database, accounts, parts.passwords, parts.rng, parts.limits.login)
    beside_reader = BesideReader(beside.to_device, beside.one_time_keys, beside.receipts, lists)
    reader = SyncReader(store, timeline, parts.invite_store, accounts, beside_reader)
    sync = Sync(database, reader, accounts, beside.to_device, floor.typing, parts.policies, parts.notifier, parts.clock)
    return [
        *registration.endpoints(),
        *login.endpoints(),
        *start_up.endpoints(),
        *ProfileEndpoints(names.profiles, names.changes, elsewhere).endpoints(),
        *aliases.endpoints(),
        *PublicRoomEndpoints(parts.server_name, names.public_rooms).endpoints(),
        *RoomCreation(parts.rooms, names.aliases, names.public_rooms, parts.default_room_version).endpoints(),
        *Membership(parts.rooms, names.aliases, database, timeline).endpoints(),
        *Sending(parts.rooms, names.canonical, database, timeline).endpoints(),
        *State(database, store, timeline, accounts, access, parts.clock).endpoints(),
        *Messages(database, store, timeline, accounts, access, parts.rooms, parts.clock).endpoints(),
        *keys.endpoints(),
        *SendToDevice(floor.to_device).endpoints(),
        *DeviceManagement(floor.devices, password_again).endpoints(),
        *Reading(floor.typing, floor.receipts, database, beside.sharing).endpoints(),
        *sync.endpoints(),
    ]


def _open(endpoint: OpenEndpoint) -> Handler:
    async def handle(request: JsonRequest) -> Answer:
        try:
            return await endpoint.handler(request)
        except ClientApiError as error:
            return refusal(error.status, error.errcode, error.message, **error.extra)

    return handle


def _authenticated(endpoint: Endpoint, authenticator: Authenticator, parts: ClientApiParts) -> Handler:
    limiter = None if endpoint.method == "GET" else parts.limits.changes
    in_room = _ROOM in endpoint.path and endpoint.name not in _IN_BLOCKED_ROOMS

    async def handle(request: JsonRequest) -> Answer:
        try:
            requester = await authenticator.requester(request)
            if limiter is not None:
                limiter.take(requester.user_id)
            if in_room:
                await parts.policies.check_room(room_id_in(request.params))
            return await endpoint.handler(request, requester)
        except ClientApiError as error:
            return refusal(error.status, error.errcode, error.message, **error.extra)

    return handle
