"""What this server's operator allows: the interface for plug-ins, and the policies that come with lmatrix.

A plug-in imports everything that it needs from here; see ``docs/policies.rst``.
"""

from __future__ import annotations

from lmatrix.policies.plugin import (
    ALLOW,
    Allow,
    Answer,
    ChecksActions,
    ChecksEvents,
    ChecksInvites,
    ChecksRooms,
    Refuse,
    Verdict,
)
from lmatrix.rooms.policy import Invite, Kind, LocalAction, ProposedEvent

__all__ = [
    "ALLOW",
    "Allow",
    "Answer",
    "ChecksActions",
    "ChecksEvents",
    "ChecksInvites",
    "ChecksRooms",
    "Invite",
    "Kind",
    "LocalAction",
    "ProposedEvent",
    "Refuse",
    "Verdict",
]
