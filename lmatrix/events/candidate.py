"""An event as the auth rules see it, before or after it has hashes and signatures.

Owns: :class:`Candidate`, the protocol that LPDUs, PDUs and drafts all meet, and :class:`Draft`, an event that nobody
has signed yet: the template of a ``make_join``, or a local user's event that is about to be built.

Source: I-D "Events".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from lmatrix import ids

if TYPE_CHECKING:
    from lmatrix.events.room_versions import RoomVersion


class Candidate(Protocol):
    """What the auth rules read of an event."""

    @property
    def room_version(self) -> RoomVersion: ...
    @property
    def room_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def sender(self) -> str: ...
    @property
    def sender_server(self) -> str: ...
    @property
    def origin_server_ts(self) -> int: ...
    @property
    def content(self) -> Mapping[str, Any]: ...
    @property
    def hub_server(self) -> str | None: ...


@attrs.frozen(slots=True)
class Draft:
    """An unsigned event: a :class:`Candidate` and nothing more.

    Attributes:
        origin_server_ts: milliseconds since the epoch.
        hub_server: the hub that it is meant for, or ``None``.
    """

    room_version: RoomVersion
    room_id: str
    type: str
    sender: str
    content: Mapping[str, Any]
    origin_server_ts: int
    state_key: str | None = None
    hub_server: str | None = None

    @property
    def sender_server(self) -> str:
        """The server name in ``sender``."""
        return ids.server_of(self.sender)
