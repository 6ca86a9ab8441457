"""Sending messages to devices (I-D "To-Device Messaging"; Client-Server API v1.11, "Send-to-Device messaging").

Owns: :class:`ToDeviceSender`. Invariants: a request is carried out whole or not at all, and once, however often its
device repeats it; when it is answered, every message is on disk, in a local device's inbox or in the outbox towards the
device's server. What was promised so is never pushed out: while too much waits for a server, requests that concern it
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import sha256_urlsafe
from lmatrix.devices.edus import MAX_EDU_BYTES, EduDropped, ToDeviceMessage, to_device_edu
from lmatrix.devices.inbox import DeviceInbox
from lmatrix.devices.interfaces import DeviceAccounts, EduDelivery, EduOutbox, SyncWaker, ToDeviceStore
from lmatrix.devices.key_queries import DeviceDirectory
from lmatrix.errors import BadRequest, Overloaded, TooLarge
from lmatrix.ids import server_of
from lmatrix.rooms.interfaces import Database, JsonObject

EVERY_DEVICE = "*"
MAX_MESSAGES = 2_000
"""Messages that one request leads to."""

MAX_OUTBOX = 10_000
"""EDUs that may wait for one server."""

_RETRY_AFTER_MS = 60_000
_STAR_TIMEOUT_S = 10.0
_ID_BYTES = 100
"""What a message's ID adds to its EDU, and some more."""


@attrs.frozen(slots=True)
class SendRequest:
    """What a local device asks for.

    Attributes:
        sender, device_id: who asks.
        txn_id: the client's transaction ID; it counts for the device and the message type.
        message_type: of all messages.
        messages: user ID → device ID, or ``*`` for each device → the message. All identifiers are well-formed.
    """

    sender: str
    device_id: str
    txn_id: str
    message_type: str
    messages: Mapping[str, Mapping[str, JsonObject]] = attrs.field(repr=False)


class ToDeviceSender:
    """Sends messages for local devices.

    Args:
        server_name: ours.
        database: where everything is.
        accounts, store, inbox: local devices and their messages.
        directory: devices of other servers' users, for ``*``.
        outbox, delivery: towards other servers.
        waker: wakes local devices.
        clock: the time.
    """

    log = Logger()

    def __init__(
        self,
        server_name: str,
        *,
        database: Database,
        accounts: DeviceAccounts,
        store: ToDeviceStore,
        inbox: DeviceInbox,
        directory: DeviceDirectory,
        outbox: EduOutbox,
        delivery: EduDelivery,
        waker: SyncWaker,
        clock: IReactorTime,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._accounts = accounts
        self._store = store
        self._inbox = inbox
        self._directory = directory
        self._outbox = outbox
        self._delivery = delivery
        self._waker = waker
        self._clock = clock

    async def send(self, request: SendRequest) -> None:
        """Carry a request out. Devices that do not exist are passed over.

        Raises:
            TooLarge: a message is too long for an EDU.
            BadRequest: it leads to too many messages.
            Overloaded: too much waits for one of the servers; nothing was sent.
        """
        remote = await self._remote(request)
        for message in remote:
            _check_size(message)
        local = {
            user_id: devices for user_id, devices in request.messages.items() if server_of(user_id) == self._server_name
        }
        now_ms = int(self._clock.seconds() * 1000)

        def work(tx: Any) -> tuple[dict[str, int], set[str]]:
            name = encode([request.message_type, request.txn_id]).decode()
            number = self._store.begin_request(tx, request.sender, request.device_id, name, now_ms)
            if number is None:
                return {}, set()
            return self._take_local(tx, request, local, now_ms), self._put_out(tx, remote, f"{now_ms}-{number}")

        woken, destinations = await self._database.write(work)
        for user_id, stream in woken.items():
            self._waker.users_advanced(stream, [user_id])
        for destination in destinations:
            self._delivery.edus_pending(destination)

    async def _remote(self, request: SendRequest) -> list[ToDeviceMessage]:
        """The messages for other servers' devices."""
        messages: list[ToDeviceMessage] = []
        everywhere = [
            user_id
            for user_id, devices in request.messages.items()
            if EVERY_DEVICE in devices and server_of(user_id) != self._server_name
        ]
        known: Mapping[str, Sequence[str]] = {}
        if everywhere:
            found = await self._directory.query(dict.fromkeys(everywhere, ()), _STAR_TIMEOUT_S)
            known = {user_id: list(objects) for user_id, objects in found.devices.items()}
        for user_id, devices in request.messages.items():
            if server_of(user_id) == self._server_name:
                continue
            wanted = dict.fromkeys(known.get(user_id, ()), devices[EVERY_DEVICE]) if EVERY_DEVICE in devices else {}
            wanted.update((device_id, message) for device_id, message in devices.items() if device_id != EVERY_DEVICE)
            messages += [_message(request, user_id, device_id, content) for device_id, content in wanted.items()]
            if len(messages) > MAX_MESSAGES:
                raise BadRequest(f"at most {MAX_MESSAGES} messages can be sent at a time")
        return messages

    def _take_local(
        self, tx: Any, request: SendRequest, local: Mapping[str, Mapping[str, JsonObject]], now_ms: int
    ) -> dict[str, int]:
        woken: dict[str, int] = {}
        for user_id, devices in local.items():
            wanted = dict(devices)
            if EVERY_DEVICE in wanted:
                everywhere = wanted.pop(EVERY_DEVICE)
                wanted = dict.fromkeys(self._accounts.device_ids(tx, user_id), everywhere) | wanted
            for device_id, content in wanted.items():
                try:
                    woken[user_id] = self._inbox.take(tx, _message(request, user_id, device_id, content), now_ms)
                except EduDropped as dropped:
                    self.log.debug("{target}: a message was not taken: {reason}", target=user_id, reason=dropped)
        return woken

    def _put_out(self, tx: Any, messages: Sequence[ToDeviceMessage], unique: str) -> set[str]:
        destinations = {server_of(message.target) for message in messages}
        for destination in destinations:
            if self._outbox.edus_waiting(tx, destination) >= MAX_OUTBOX:
                raise Overloaded(_RETRY_AFTER_MS, f"Too much waits for {destination}. Try again later.")
        for number, message in enumerate(messages):
            named = attrs.evolve(message, message_id=sha256_urlsafe(f"{unique}-{number}-{message.sender}".encode()))
            self._outbox.add_edu(tx, server_of(message.target), to_device_edu(named))
        return destinations


def _message(request: SendRequest, target: str, target_device: str, content: JsonObject) -> ToDeviceMessage:
    return ToDeviceMessage(request.sender, target, target_device, request.message_type, content)


def _check_size(message: ToDeviceMessage) -> None:
    if len(encode(to_device_edu(message))) > MAX_EDU_BYTES - _ID_BYTES:
        raise TooLarge(f"a message to a device has at most {MAX_EDU_BYTES - _ID_BYTES} bytes, all told")
