"""Where the federation endpoints are: the one table of their paths, stable and unstable.

Owns: :class:`EndpointPath` and one value of it for each endpoint that this server has. Both forms of an endpoint behave
alike; the I-D's implementation notes give the unstable one for those that are new in it. The older ones (``make_*``,
``state``, ``state_ids``) have it here too, so that a peer may use one prefix for everything.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

UNSTABLE_PREFIX: Final = "/_matrix/federation/unstable/org.matrix.i-d.ralston-mimi-linearized-matrix.02"

_STABLE_PREFIX: Final = re.compile(r"/_matrix/federation/v\d+")


@attrs.frozen(slots=True)
class EndpointPath:
    """An endpoint's place.

    Attributes:
        name: for logs and metrics.
        method: the HTTP method.
        stable: its path, parameters in braces.
    """

    name: str
    method: str
    stable: str

    @property
    def unstable(self) -> str:
        """The twin's path: what follows the version, under the unstable prefix."""
        return UNSTABLE_PREFIX + _STABLE_PREFIX.sub("", self.stable, count=1)


SEND: Final = EndpointPath("send", "PUT", "/_matrix/federation/v2/send/{txnId}")
INVITE: Final = EndpointPath("invite", "POST", "/_matrix/federation/v3/invite/{txnId}")
EVENT: Final = EndpointPath("event", "GET", "/_matrix/federation/v2/event/{eventId}")
STATE: Final = EndpointPath("state", "GET", "/_matrix/federation/v1/state/{roomId}")
STATE_IDS: Final = EndpointPath("state_ids", "GET", "/_matrix/federation/v1/state_ids/{roomId}")
BACKFILL: Final = EndpointPath("backfill", "GET", "/_matrix/federation/v2/backfill/{roomId}")

MAKE_JOIN: Final = EndpointPath("make_join", "GET", "/_matrix/federation/v1/make_join/{roomId}/{userId}")
MAKE_LEAVE: Final = EndpointPath("make_leave", "GET", "/_matrix/federation/v1/make_leave/{roomId}/{userId}")
MAKE_KNOCK: Final = EndpointPath("make_knock", "GET", "/_matrix/federation/v1/make_knock/{roomId}/{userId}")
SEND_JOIN: Final = EndpointPath("send_join", "POST", "/_matrix/federation/v3/send_join/{txnId}")
SEND_LEAVE: Final = EndpointPath("send_leave", "POST", "/_matrix/federation/v3/send_leave/{txnId}")
SEND_KNOCK: Final = EndpointPath("send_knock", "POST", "/_matrix/federation/v3/send_knock/{txnId}")

DEVICE: Final = EndpointPath("device", "GET", "/_matrix/federation/v1/user/{userId}/device/{deviceId}")
CLAIM_KEYS: Final = EndpointPath("claim_keys", "POST", "/_matrix/federation/v1/user/keys/claim")
DEVICES: Final = EndpointPath("devices", "GET", "/_matrix/federation/v1/user/devices/{userId}")
EVENT_AUTH: Final = EndpointPath("event_auth", "GET", "/_matrix/federation/v1/event_auth/{roomId}/{eventId}")
VERSION: Final = EndpointPath("version", "GET", "/_matrix/federation/v1/version")
QUERY_PROFILE: Final = EndpointPath("query_profile", "GET", "/_matrix/federation/v1/query/profile")
QUERY_DIRECTORY: Final = EndpointPath("query_directory", "GET", "/_matrix/federation/v1/query/directory")
PUBLIC_ROOMS: Final = EndpointPath("public_rooms", "GET", "/_matrix/federation/v1/publicRooms")
SEARCH_PUBLIC_ROOMS: Final = EndpointPath("search_public_rooms", "POST", "/_matrix/federation/v1/publicRooms")
"""The last seven are Matrix's, and have one form only."""

HUB_OFFER: Final = EndpointPath("hub_offer", "POST", "/_matrix/federation/unstable/org.lmatrix.hub/offer/{txnId}")
HUB_REQUEST: Final = EndpointPath("hub_request", "POST", "/_matrix/federation/unstable/org.lmatrix.hub/request/{txnId}")
HEAD: Final = EndpointPath("head", "GET", "/_matrix/federation/unstable/org.lmatrix.head/{roomId}")
"""These three are ours, and have one form only."""

SERVER_KEYS: Final = "/_matrix/key/v2/server"
"""Where a server publishes its signing keys; it has no twin."""

KEY_QUERY: Final = "/_matrix/key/v2/query"
"""Where a notary is asked about other servers' keys, about many at once or (one segment more) about one; no twins."""
