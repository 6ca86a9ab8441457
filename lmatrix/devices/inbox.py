"""Messages for local devices, until they have them (I-D "To-Device Messaging").

Owns: :class:`DeviceInbox`: which messages are taken, and the bounds on how many wait. Invariants: what was taken is on
disk before anybody is told so, and stays there until the device acknowledges it; a full inbox takes nothing more, so
that nothing that was taken is ever pushed out; and one other server cannot fill it alone.
"""

from __future__ import annotations

from typing import Any

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import sha256_base64
from lmatrix.devices.edus import EduDropped, ToDeviceMessage
from lmatrix.devices.interfaces import DeviceAccounts, ToDeviceStore
from lmatrix.ids import server_of

MAX_WAITING = 5_000
"""Messages that may wait for one device,"""

MAX_WAITING_OF_ORIGIN = 1_000
"""and those among them from one other server."""


class DeviceInbox:
    """Takes messages. Its methods run within a transaction.

    Args:
        server_name: ours.
        accounts: which devices there are.
        store: where messages wait.
        max_waiting, max_waiting_of_origin: see the constants of this module.
    """

    def __init__(
        self,
        server_name: str,
        accounts: DeviceAccounts,
        store: ToDeviceStore,
        *,
        max_waiting: int = MAX_WAITING,
        max_waiting_of_origin: int = MAX_WAITING_OF_ORIGIN,
    ) -> None:
        self._server_name = server_name
        self._accounts = accounts
        self._store = store
        self._max_waiting = max_waiting
        self._max_waiting_of_origin = max_waiting_of_origin

    def take(self, tx: Any, message: ToDeviceMessage, now_ms: int) -> int:
        """Keep a message; its stream position.

        Raises:
            EduDropped: there is no such device here (``"unknown"``), it came before (``"repeated"``), or too many wait
                (``"full"``).
        """
        if server_of(message.target) != self._server_name:
            raise EduDropped("unknown", "a message for a user of another server")
        if message.target_device not in self._accounts.device_ids(tx, message.target):
            raise EduDropped("unknown", "a message for a device that does not exist")
        origin = server_of(message.sender)
        waiting, of_origin = self._store.waiting(tx, message.target, message.target_device, origin)
        if waiting >= self._max_waiting or (origin != self._server_name and of_origin >= self._max_waiting_of_origin):
            raise EduDropped("full", "too many messages wait for the device")
        if message.message_id is not None and not self._store.is_new(tx, origin, _digest(message), now_ms):
            raise EduDropped("repeated", "a message that came before")
        shown = {"type": message.message_type, "sender": message.sender, "content": message.message}
        return self._store.put(tx, message.target, message.target_device, origin, shown)


def _digest(message: ToDeviceMessage) -> str:
    return sha256_base64(encode([message.sender, message.message_id, message.target, message.target_device]))
