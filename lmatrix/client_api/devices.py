"""Logging a device in: giving it an access token.

Owns: the last step that registration and login share. A device that logs in again under its ID loses its older token,
as the Client-Server API asks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs

from lmatrix import ids
from lmatrix.client_api.auth import hash_of_token, new_device_id, new_token
from lmatrix.client_api.errors import invalid_param
from lmatrix.client_api.fields import optional_string
from lmatrix.client_api.interfaces import AccountStore
from lmatrix.errors import InvalidIdentifier

MAX_DISPLAY_NAME_CHARACTERS = 100


@attrs.frozen(slots=True)
class NewLogin:
    """A device and the token that it gets.

    Attributes:
        token: in the clear; for the answer only.
        display_name: what the client calls the device, if it says.
    """

    user_id: str
    device_id: str
    token: str = attrs.field(repr=False)
    display_name: str | None

    @classmethod
    def of(cls, user_id: str, body: Mapping[str, Any], rng: random.Random) -> NewLogin:
        """From a login or registration request: the device that it names, or a new one.

        Raises:
            ClientApiError: ``device_id`` or ``initial_device_display_name`` is not what it should be.
        """
        device_id = optional_string(body, "device_id")
        if device_id is None:
            device_id = new_device_id(rng)
        else:
            try:
                ids.device_id(device_id)
            except InvalidIdentifier as problem:
                raise invalid_param("device_id", str(problem)) from problem
        display_name = optional_string(body, "initial_device_display_name")
        if display_name is not None:
            display_name = display_name[:MAX_DISPLAY_NAME_CHARACTERS]
        return cls(user_id, device_id, new_token(rng), display_name)

    def store(self, tx: Any, accounts: AccountStore, now_ms: int) -> None:
        """Write the device and its token's hash."""
        accounts.add_token(tx, self.user_id, self.device_id, hash_of_token(self.token), now_ms, self.display_name)

    def answer(self) -> dict[str, Any]:
        """What the client is told."""
        return {
            "user_id": self.user_id,
            "access_token": self.token,
            "device_id": self.device_id,
            "home_server": ids.server_of(self.user_id),  # deprecated, and still read by clients of /r0
        }
