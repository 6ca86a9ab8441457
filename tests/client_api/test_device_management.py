"""A user's devices by the client API."""

from __future__ import annotations

from typing import Any

from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.http.limits import RateLimiter
from tests.client_api.harness import PASSWORD, ClientServer, ClientTestCase, User


class DeviceTests(ClientTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.desk = self.alice.log_in_again("DESK")

    def devices(self, user: User) -> list[str]:
        return [device["device_id"] for device in user.ok("GET", "/devices")["devices"]]

    def password(self, user: User, **changes: Any) -> dict[str, Any]:
        identifier = {"type": "m.id.user", "user": user.user_id}
        return {"auth": {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, **changes}}

    def test_list_and_names(self) -> None:
        """A user sees and names its own devices, and nobody else's."""
        self.assertEqual(self.devices(self.alice), ["DESK", "FIRST"])
        self.alice.ok("PUT", "/devices/DESK", {"display_name": "at home"})
        self.assertEqual(self.desk.ok("GET", "/devices/DESK"), {"device_id": "DESK", "display_name": "at home"})
        self.alice.ok("PUT", "/devices/DESK", {})
        self.assertEqual(self.alice.ok("GET", "/devices/DESK")["display_name"], "at home")
        for method, body in (("GET", None), ("PUT", {"display_name": "x"}), ("PUT", {})):
            self.assert_refused(self.anna.call(method, "/devices/DESK", body), 404, "M_NOT_FOUND")
        self.assert_refused(self.alice.call("PUT", "/devices/DESK", {"display_name": 5}), 400, "M_BAD_JSON")

    def test_logging_out(self) -> None:
        """A device that logs out is gone; all go at once when they are told to."""
        self.desk.ok("POST", "/logout", {})
        self.assertEqual(self.devices(self.alice), ["FIRST"])
        self.assert_refused(self.desk.call("GET", "/devices"), 401, "M_UNKNOWN_TOKEN")
        other = self.alice.log_in_again("PAD")
        other.ok("POST", "/logout/all", {})
        for user in (self.alice, other):
            self.assert_refused(user.call("GET", "/devices"), 401, "M_UNKNOWN_TOKEN")
        self.assertEqual(self.devices(self.anna), ["FIRST"])

    def test_deleting(self) -> None:
        """Whoever deletes a device must know the password; then it is gone, with its token."""
        status, answer = self.alice.call("DELETE", "/devices/DESK", {})
        self.assertEqual((status, answer["flows"]), (401, [{"stages": ["m.login.password"]}]))
        self.assertNotIn("errcode", answer)
        self.alice.ok("DELETE", "/devices/DESK", self.password(self.alice, session=answer["session"]))
        self.assertEqual(self.devices(self.alice), ["FIRST"])
        self.assert_refused(self.desk.call("GET", "/sync"), 401, "M_UNKNOWN_TOKEN")
        self.alice.ok("DELETE", "/devices/DESK", self.password(self.alice))

    def test_deleting_several(self) -> None:
        """The same for several; others' devices are passed over."""
        self.alice.log_in_again("PAD")
        body = {"devices": ["DESK", "PAD", "OTHER"], **self.password(self.alice)}
        self.alice.ok("POST", "/delete_devices", body)
        self.assertEqual(self.devices(self.alice), ["FIRST"])
        self.anna.ok("POST", "/delete_devices", {"devices": ["FIRST"], **self.password(self.anna)})
        self.assertEqual(self.devices(self.alice), ["FIRST"])
        for devices in ("x", [5], ["x"] * 1001):
            body = {"devices": devices, **self.password(self.alice)}
            self.assert_refused(self.alice.call("POST", "/delete_devices", body), 400, "M_BAD_JSON")

    def test_wrong_passwords(self) -> None:
        """Another password, another user's name, and another stage do not do."""
        for changes, errcode in (
            ({"password": "wrong"}, "M_FORBIDDEN"),
            ({"password": ""}, "M_FORBIDDEN"),
            ({"password": None}, "M_FORBIDDEN"),
            ({"identifier": {"type": "m.id.user", "user": self.anna.user_id}}, "M_FORBIDDEN"),
            ({"type": "m.login.dummy"}, "M_UNRECOGNIZED"),
        ):
            status, answer = self.alice.call("DELETE", "/devices/DESK", self.password(self.alice, **changes))
            self.assertEqual((status, answer["errcode"]), (401, errcode))
            self.assertEqual(answer["flows"], [{"stages": ["m.login.password"]}])
        for auth in ([], "x"):
            self.assert_refused(self.alice.call("DELETE", "/devices/DESK", {"auth": auth}), 400, "M_BAD_JSON")
        self.assertEqual(self.devices(self.alice), ["DESK", "FIRST"])
        body = {"auth": {"type": "m.login.password", "user": "alice", "password": PASSWORD}}
        self.alice.ok("DELETE", "/devices/DESK", body)

    def test_guessing(self) -> None:
        """Attempts are limited like those to log in."""
        limited = ClientServer(
            self.network,
            "south.example",
            limits=lambda network: ClientLimits(login=RateLimiter(0.1, 3, network.clock)),
        )
        carol = limited.user("carol")
        answers = [carol.call("DELETE", "/devices/X", self.password(carol, password="guess"))[0] for _ in range(4)]
        self.assertEqual(answers, [401, 401, 401, 429])
