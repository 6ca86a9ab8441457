"""The endpoints of devices and their keys: what they pass on, and what they make of answers."""

from __future__ import annotations

from lmatrix.errors import NotFound
from lmatrix.http.limits import RateLimiter
from tests.federation.resources.api_bench import BOB, BOB_IN_PATH, ApiTestCase, unstable

CLAIM = "/v1/user/keys/claim"


class DeviceTests(ApiTestCase):
    def test_a_device(self) -> None:
        """The device object goes out byte for byte; it is a ``GET`` in both forms."""
        path = f"/v1/user/{BOB_IN_PATH}/device/BOBS"
        for form in (path, unstable(path)):
            answer = self.ask("GET", form)
            self.assertEqual((answer.status, answer.body), (200, b'{"device_id":"BOBS"}'))
            self.assert_called("local_device", BOB, "BOBS")
            self.assert_error(self.ask("PUT", form, b"{}"), 405, "M_UNRECOGNIZED")

    def test_unknown(self) -> None:
        """What is not known is 404; what cannot be a device ID is not known; what is no user ID is malformed."""
        self.rooms.error = NotFound("no such device")
        for device_id in ("BOBS", "A-B", "%20"):
            self.assert_error(self.ask("GET", f"/v1/user/{BOB_IN_PATH}/device/{device_id}"), 404, "M_NOT_FOUND")
        self.assert_error(self.ask("GET", "/v1/user/bob/device/BOBS"), 400, "M_BAD_JSON")

    def test_all_devices(self) -> None:
        """Matrix's endpoint: in its shape, authenticated and limited like the others, and in one form only."""
        path = f"/v1/user/devices/{BOB_IN_PATH}"
        answer = self.ask("GET", path)
        self.assertEqual(
            answer.json,
            {"user_id": BOB, "stream_id": 7, "devices": [{"device_id": "BOBS", "keys": {"device_id": "BOBS"}}]},
        )
        self.assert_called("local_devices", BOB)
        self.assert_error(self.ask("GET", path, origin=None), 401, "M_FORBIDDEN")
        self.assert_error(self.ask("GET", unstable(path)), 404, "M_UNRECOGNIZED")
        self.assert_error(self.ask("GET", "/v1/user/devices/bob"), 400, "M_BAD_JSON")
        self.rooms.error = NotFound("no such user")
        self.assert_error(self.ask("GET", path), 404, "M_NOT_FOUND")
        self.rooms.error = None
        self.build(limiter=RateLimiter(1, 1, self.clock))
        self.assertEqual([200, 429], [self.ask("GET", path).status for _ in range(2)])

    def test_claims(self) -> None:
        """What can exist is passed on; an empty answer still has ``one_time_keys``."""
        body = b'{"one_time_keys":{"@alice:hub.example":{"PHONE":"a","A-B":"a"},"alice":{"X":"a"}}}'
        answer = self.ask("POST", CLAIM, body)
        self.assertEqual((answer.status, answer.json), (200, {"one_time_keys": {}}))
        self.assert_called("hand_out", {"@alice:hub.example": {"PHONE": "a"}})

    def test_bad_claims(self) -> None:
        """Requests of another shape are refused, and nothing is handed out."""
        for body in (
            b"{}",
            b'{"one_time_keys":[]}',
            b'{"one_time_keys":{"@a:b":[]}}',
            b'{"one_time_keys":{"@a:b":{"X":1}}}',
        ):
            self.assert_error(self.ask("POST", CLAIM, body), 400, "M_BAD_JSON")
        self.assertEqual(self.rooms.calls, [])
