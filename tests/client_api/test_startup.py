"""What clients ask for when they start, and what all endpoints share."""

from __future__ import annotations

from lmatrix.client_api.routes import client_routes
from tests.client_api.harness import ClientTestCase, enc


class StartUpTests(ClientTestCase):
    """Versions, capabilities, push rules, filters."""

    def test_versions(self) -> None:
        """Nobody need be logged in; r0 and v1.11 are among them."""
        status, answer = self.hub.call("GET", "/_matrix/client/versions")
        self.assertEqual(status, 200)
        self.assertLessEqual({"r0.6.1", "v1.1", "v1.11"}, set(answer["versions"]))

    def test_capabilities(self) -> None:
        """The room versions that this server knows, and which of them is stable; that profiles can be changed."""
        capabilities = self.alice.ok("GET", "/capabilities")["capabilities"]
        for name in ("m.set_displayname", "m.set_avatar_url"):
            self.assertEqual(capabilities[name], {"enabled": True})
        versions = capabilities["m.room_versions"]
        self.assertEqual(versions["default"], "I.1")
        self.assertEqual(
            versions["available"],
            {"I.1": "stable", "org.matrix.i-d.ralston-mimi-linearized-matrix.02": "unstable"},
        )

    def test_push_rules(self) -> None:
        """An empty set, with every kind of rule there."""
        kinds = {"content", "override", "room", "sender", "underride"}
        self.assertEqual(set(self.alice.ok("GET", "/pushrules/")["global"]), kinds)

    def test_filters(self) -> None:
        """A filter comes back as it was put, to its own user only; the same one has the same ID."""
        definition = {"room": {"timeline": {"limit": 3}}, "presence": {"types": []}}
        path = f"/user/{enc(self.alice.user_id)}/filter"
        filter_id = self.alice.ok("POST", path, definition)["filter_id"]
        self.assertEqual(self.alice.ok("POST", path, definition)["filter_id"], filter_id)
        self.assertEqual(self.alice.ok("GET", f"{path}/{filter_id}"), definition)
        self.assert_refused(self.alice.call("GET", f"{path}/77"), 404, "M_NOT_FOUND")
        self.assert_refused(self.anna.call("GET", f"{path}/{filter_id}"), 403, "M_FORBIDDEN")
        self.assert_refused(self.alice.call("POST", path, {"room": []}), 400, "M_BAD_JSON")


class RouteTests(ClientTestCase):
    """Prefixes, unknown endpoints, CORS."""

    def test_both_prefixes(self) -> None:
        """Every endpoint has a twin under ``r0`` and ``v3``."""
        routes = {(route.method, route.path) for route in client_routes(self.hub.parts).routes}
        for method, path in routes:
            if path.startswith("/_matrix/client/v3/"):
                self.assertIn((method, path.replace("/v3/", "/r0/", 1)), routes)

    def test_unknown_endpoints(self) -> None:
        """What is not there is ``M_UNRECOGNIZED``: 404 for the path, 405 for the method."""
        self.assert_refused(self.alice.call("POST", "/keys/device_signing/upload", {}), 404, "M_UNRECOGNIZED")
        self.assert_refused(self.alice.call("DELETE", "/sync"), 405, "M_UNRECOGNIZED")

    def test_browsers_may_call(self) -> None:
        """The route table asks for CORS."""
        self.assertTrue(client_routes(self.hub.parts).cors)

    def test_every_endpoint_but_a_few_asks_for_a_token(self) -> None:
        """Without a token nothing is done, whatever the endpoint."""
        opens = {
            "versions", "login", "login_flows", "register", "register_available", "profile", "get_alias",
            "public_rooms", "get_visibility",
        }  # fmt: skip
        for route in client_routes(self.hub.parts).routes:
            if route.name in opens:
                continue
            path = "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
            with self.subTest(method=route.method, path=path):
                self.assert_refused(self.hub.call(route.method, path, {}), 401, "M_MISSING_TOKEN")
