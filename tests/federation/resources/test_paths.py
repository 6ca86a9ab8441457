"""The table of paths."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.federation.resources import paths
from lmatrix.federation.resources.paths import UNSTABLE_PREFIX, EndpointPath

EXPECTED = {
    "/_matrix/federation/v2/send/{txnId}": "send/{txnId}",
    "/_matrix/federation/v3/invite/{txnId}": "invite/{txnId}",
    "/_matrix/federation/v3/send_join/{txnId}": "send_join/{txnId}",
    "/_matrix/federation/v3/send_leave/{txnId}": "send_leave/{txnId}",
    "/_matrix/federation/v3/send_knock/{txnId}": "send_knock/{txnId}",
    "/_matrix/federation/v1/make_join/{roomId}/{userId}": "make_join/{roomId}/{userId}",
    "/_matrix/federation/v1/make_leave/{roomId}/{userId}": "make_leave/{roomId}/{userId}",
    "/_matrix/federation/v1/make_knock/{roomId}/{userId}": "make_knock/{roomId}/{userId}",
    "/_matrix/federation/v2/event/{eventId}": "event/{eventId}",
    "/_matrix/federation/v1/state/{roomId}": "state/{roomId}",
    "/_matrix/federation/v1/state_ids/{roomId}": "state_ids/{roomId}",
    "/_matrix/federation/v2/backfill/{roomId}": "backfill/{roomId}",
    "/_matrix/federation/v1/user/{userId}/device/{deviceId}": "user/{userId}/device/{deviceId}",
    "/_matrix/federation/v1/user/keys/claim": "user/keys/claim",
}

MATRIX_ONLY = (
    paths.DEVICES,
    paths.EVENT_AUTH,
    paths.VERSION,
    paths.QUERY_PROFILE,
    paths.QUERY_DIRECTORY,
    paths.PUBLIC_ROOMS,
    paths.SEARCH_PUBLIC_ROOMS,
)
"""What the I-D does not have: in one form."""


class PathTests(SynchronousTestCase):
    """Every endpoint's two places."""

    def test_table(self) -> None:
        """The paths are the I-D's, and each has its twin under the unstable prefix; what is ours is named so."""
        table = [value for value in vars(paths).values() if isinstance(value, EndpointPath)]
        self.assertEqual(
            {stable: f"{UNSTABLE_PREFIX}/{rest}" for stable, rest in EXPECTED.items()},
            {
                endpoint.stable: endpoint.unstable
                for endpoint in table
                if "org.lmatrix" not in endpoint.stable and endpoint not in MATRIX_ONLY
            },
        )
