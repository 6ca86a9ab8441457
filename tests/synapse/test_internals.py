"""What we reach for in Synapse: that it is there, and what is said when it is not."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from tests.synapse.processes import WITHOUT_SYNAPSE

if WITHOUT_SYNAPSE is None:
    from lmatrix.federation.resources import paths
    from lmatrix.http.routes import Route
    from lmatrix.replication.synapse.endpoints import shared_with_synapse
    from lmatrix.replication.synapse.internals import Internals, UnsupportedSynapse, synapse_version


class InternalsTests(SynchronousTestCase):
    if WITHOUT_SYNAPSE is not None:
        skip = WITHOUT_SYNAPSE

    def test_everything_that_is_missing_is_named(self) -> None:
        """A Synapse that lacks several things is refused once, with all of them and its version."""
        config = SimpleNamespace(key=SimpleNamespace(signing_key=[]), federation=SimpleNamespace())
        homeserver = SimpleNamespace(config=config, get_reactor=lambda: None)
        error = self.assertRaises(UnsupportedSynapse, Internals, SimpleNamespace(_hs=homeserver))
        self.assertIn("HomeServer.config.key.old_signing_keys", error.missing)
        self.assertIn("HomeServer.config.federation.federation_domain_whitelist", error.missing)
        self.assertNotIn("HomeServer.config.key.signing_key", error.missing)
        self.assertIn(synapse_version(), str(error))

    def test_no_homeserver(self) -> None:
        """Without the one object that leads to all others, that is what is said."""
        error = self.assertRaises(UnsupportedSynapse, Internals, SimpleNamespace())
        self.assertEqual(("ModuleApi._hs",), error.missing)


class SharedPathsTests(SynchronousTestCase):
    if WITHOUT_SYNAPSE is not None:
        skip = WITHOUT_SYNAPSE

    def test_which_paths_synapse_serves_as_well(self) -> None:
        """Of all our endpoints, in their stable form, Synapse knows these; in their unstable form none."""
        from synapse.federation.transport.server.federation import FEDERATION_SERVLET_CLASSES

        shared, unstable = set(), set()
        for endpoint in vars(paths).values():
            if isinstance(endpoint, paths.EndpointPath):
                for path, found in ((endpoint.stable, shared), (endpoint.unstable, unstable)):
                    route = Route(endpoint.method, path, lambda _: None, endpoint.name)  # type: ignore[arg-type]
                    if shared_with_synapse(route, FEDERATION_SERVLET_CLASSES) is not None:
                        found.add(endpoint.name)
        by_room = {"make_join", "make_leave", "make_knock", "state", "state_ids", "event_auth"}
        self.assertEqual(by_room | {"claim_keys", "devices", "query_directory", "query_profile", "version"}, shared)
        self.assertEqual(set(), unstable)
