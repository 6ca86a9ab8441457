"""Room versions as values.

Owns: :class:`RoomVersion`, which holds every algorithm and property in which room versions differ, and the registry of
those that this library knows. Nothing else compares version strings: code asks the value.

A later version is another value here, with rules of its own where it has any; the existing ones stay as they are.

Source: I-D "Room Versions"; protocol notes, "Room versions".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

import attrs

from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.auth_context import AuthRule
from lmatrix.events.common_rules import (
    auth_events_rule,
    create_rule,
    otherwise_allow,
    owned_state_rule,
    required_level_rule,
    sender_joined_rule,
)
from lmatrix.events.hub import creators_server, latest_hub
from lmatrix.events.hub_rules import hub_transfer_rule, other_hub_rule
from lmatrix.events.member_rules import member_rule
from lmatrix.events.power_level_rules import power_levels_rule
from lmatrix.events.redaction_rules import I1_REDACTION, V11_REDACTION, RedactionRules
from lmatrix.events.state import StateView


class PathForm(Enum):
    """Which of the two forms of the federation endpoints a request goes to first."""

    STABLE = "stable"
    UNSTABLE = "unstable"


@attrs.frozen(slots=True, eq=False, repr=False)
class RoomVersion:
    """A room version: its algorithms and properties. Compared by identity.

    Attributes:
        identifier: its name on the wire.
        stable: whether it is meant for production.
        hub_events_carry_lpdu: whether the hub's own users' events carry ``hub_server`` and ``hashes.lpdu``.
        enforces_chain: whether participants refuse an event that does not follow their head.
        redaction: what redaction keeps.
        max_lpdus_per_transaction: how many LPDUs of such a room one transaction may carry.
        outbound_paths: the form of the endpoints used for such a room.
        auth_rules: the auth rules from rule 3 on, in order; the last one always allows.
        hub_is_state: whether ``m.room.hub`` names the hub, and so is among the auth events of events with
            ``hub_server``.
        hub_selection: who the hub is in some state.
    """

    identifier: str
    stable: bool
    hub_events_carry_lpdu: bool
    enforces_chain: bool
    redaction: RedactionRules
    max_lpdus_per_transaction: int
    outbound_paths: PathForm
    auth_rules: tuple[AuthRule, ...]
    hub_is_state: bool
    hub_selection: Callable[[StateView], str]

    def hub_server(self, state: StateView) -> str:
        """The server name of the room's hub in ``state``.

        Raises:
            ValueError: the state has no ``m.room.create``.

        Source: I-D "Hub Selection"; protocol notes, "Hub transfer (I.1)".
        """
        return self.hub_selection(state)

    def __repr__(self) -> str:
        return f"<RoomVersion {self.identifier}>"


DEFAULT_ROOM_VERSION: Final = "I.1"
V02: Final = "org.matrix.i-d.ralston-mimi-linearized-matrix.02"

_I1: Final = RoomVersion(
    identifier=DEFAULT_ROOM_VERSION,
    stable=True,
    hub_events_carry_lpdu=True,
    enforces_chain=True,
    redaction=I1_REDACTION,
    max_lpdus_per_transaction=50,
    outbound_paths=PathForm.STABLE,
    auth_rules=(
        create_rule,  # 3
        auth_events_rule,  # 4
        other_hub_rule,
        member_rule,  # 5
        sender_joined_rule,  # 6
        hub_transfer_rule,
        required_level_rule,  # 7
        owned_state_rule,  # 8
        power_levels_rule,  # 9
        otherwise_allow,  # 10
    ),
    hub_is_state=True,
    hub_selection=latest_hub,
)

_V02: Final = RoomVersion(
    identifier=V02,
    stable=False,
    hub_events_carry_lpdu=False,
    enforces_chain=False,
    redaction=V11_REDACTION,
    max_lpdus_per_transaction=1,
    outbound_paths=PathForm.UNSTABLE,
    auth_rules=(
        create_rule,  # 3
        auth_events_rule,  # 4
        member_rule,  # 5
        sender_joined_rule,  # 6
        required_level_rule,  # 7
        owned_state_rule,  # 8
        power_levels_rule,  # 9
        otherwise_allow,  # 10
    ),
    hub_is_state=False,
    hub_selection=creators_server,
)

_KNOWN: Final[Mapping[str, RoomVersion]] = {version.identifier: version for version in (_I1, _V02)}


def known_room_versions() -> tuple[str, ...]:
    """Identifiers of the room versions that this library implements, the default one first."""
    return tuple(_KNOWN)


def room_version(identifier: object) -> RoomVersion:
    """The room version with an identifier.

    Raises:
        UnsupportedRoomVersion: there is none, or it is not a string.
    """
    version = _KNOWN.get(identifier) if isinstance(identifier, str) else None
    if version is None:
        raise UnsupportedRoomVersion(identifier)
    return version
