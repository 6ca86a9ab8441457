"""Accounts: registering, logging in, logging out, and what is refused."""

from __future__ import annotations

from lmatrix.client_api.auth import hash_of_token
from lmatrix.client_api.endpoints import ClientLimits
from lmatrix.http.limits import RateLimiter
from tests.client_api.harness import PASSWORD, ClientServer, ClientTestCase, User
from tests.rooms.network import Network, result_of

DUMMY = {"type": "m.login.dummy"}


class RegistrationTests(ClientTestCase):
    """``/register``."""

    def test_stages_first(self) -> None:
        """Without ``auth`` the answer is 401 with the one flow and a session; with it, and the session, an account."""
        status, answer = self.hub.call("POST", "/register", {"username": "dora", "password": PASSWORD})
        self.assertEqual((status, answer["flows"]), (401, [{"stages": ["m.login.dummy"]}]))
        auth = {**DUMMY, "session": answer["session"]}
        status, answer = self.hub.call("POST", "/register", {"auth": auth, "username": "dora", "password": PASSWORD})
        self.assertEqual((status, answer["user_id"]), (200, "@dora:hub.example"))
        dora = User(self.hub, answer["user_id"], answer["access_token"], answer["device_id"])
        self.assertEqual(
            dora.ok("GET", "/account/whoami"),
            {"user_id": "@dora:hub.example", "device_id": answer["device_id"], "is_guest": False},
        )

    def test_another_stage(self) -> None:
        """A stage that is not on offer is no way in; the flows are told again."""
        body = {"auth": {"type": "m.login.email.identity"}, "username": "dora", "password": PASSWORD}
        status, answer = self.hub.call("POST", "/register", body)
        self.assertEqual((status, answer["errcode"]), (401, "M_UNRECOGNIZED"))
        self.assertEqual(answer["flows"], [{"stages": ["m.login.dummy"]}])

    def test_names_that_cannot_be(self) -> None:
        """A taken name, and one outside the grammar, are refused before any stage."""
        self.assert_refused(self.hub.call("POST", "/register", {"username": "alice"}), 400, "M_USER_IN_USE")
        for name in ("Alice", "a b", "ünal", "@dora:hub.example", "", "x" * 300):
            with self.subTest(name=name):
                self.assert_refused(self.hub.call("POST", "/register", {"username": name}), 400, "M_INVALID_USERNAME")

    def test_available(self) -> None:
        """``/register/available`` says the same."""
        self.assertEqual(
            self.hub.call("GET", "/register/available", query={"username": "dora"}), (200, {"available": True})
        )
        taken = self.hub.call("GET", "/register/available", query={"username": "alice"})
        self.assert_refused(taken, 400, "M_USER_IN_USE")
        self.assert_refused(self.hub.call("GET", "/register/available"), 400, "M_MISSING_PARAM")

    def test_no_name(self) -> None:
        """Without a user name one is made up."""
        status, answer = self.hub.call("POST", "/register", {"auth": DUMMY, "password": PASSWORD})
        self.assertEqual(status, 200)
        self.assertRegex(answer["user_id"], r"^@[a-z0-9]{16}:hub\.example$")

    def test_inhibit_login(self) -> None:
        """``inhibit_login`` makes the account and no device."""
        body = {"auth": DUMMY, "username": "dora", "password": PASSWORD, "inhibit_login": True}
        status, answer = self.hub.call("POST", "/register", body)
        self.assertEqual((status, set(answer)), (200, {"user_id", "home_server"}))

    def test_bad_bodies(self) -> None:
        """What is not JSON, not an object, of the wrong type or missing has its own errcode, and makes no account."""
        cases = [
            (b"{", 400, "M_NOT_JSON"),
            (b"[]", 400, "M_BAD_JSON"),
            ({"auth": DUMMY, "username": 7}, 400, "M_BAD_JSON"),
            ({"auth": DUMMY, "username": "dora"}, 400, "M_MISSING_PARAM"),
            ({"auth": DUMMY, "username": "dora", "password": ""}, 400, "M_INVALID_PARAM"),
            ({"auth": DUMMY, "username": "dora", "password": PASSWORD, "device_id": "a b"}, 400, "M_INVALID_PARAM"),
            (b'{"username": "dora", "username": "eve"}', 400, "M_BAD_JSON"),
        ]
        for body, status, errcode in cases:
            with self.subTest(body=body):
                self.assert_refused(self.hub.call("POST", "/register", body), status, errcode)
        free = self.hub.call("GET", "/register/available", query={"username": "dora"})
        self.assertEqual(free[0], 200)

    def test_no_guests(self) -> None:
        """There are no guest accounts."""
        self.assert_refused(self.hub.call("POST", "/register", {}, query={"kind": "guest"}), 403, "M_FORBIDDEN")

    def test_switched_off(self) -> None:
        """Where registration is off, nobody may register or ask for names."""
        closed = ClientServer(self.network, "closed.example", registration_enabled=False)
        body = {"auth": DUMMY, "username": "dora", "password": PASSWORD}
        self.assert_refused(closed.call("POST", "/register", body), 403, "M_FORBIDDEN")
        query = {"username": "dora"}
        self.assert_refused(closed.call("GET", "/register/available", query=query), 403, "M_FORBIDDEN")


class LoginTests(ClientTestCase):
    """``/login`` and ``/logout``."""

    def login(self, user: str, password: str = PASSWORD, **more: str) -> tuple[int, dict[str, str]]:
        identifier = {"type": "m.id.user", "user": user}
        return self.hub.call(
            "POST", "/login", {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        )

    def test_flows(self) -> None:
        """Passwords are the one way in."""
        self.assertEqual(self.hub.call("GET", "/login"), (200, {"flows": [{"type": "m.login.password"}]}))

    def test_both_forms(self) -> None:
        """By localpart, by whole user ID, and in the older form of the request."""
        old = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
        for status, answer in (
            self.login("alice"),
            self.login("@alice:hub.example"),
            self.hub.call("POST", "/_matrix/client/r0/login", old),
        ):
            self.assertEqual((status, answer["user_id"]), (200, "@alice:hub.example"))
            self.assertEqual(len(answer["device_id"]), 10)

    def test_wrong(self) -> None:
        """A wrong password, an unknown user, another server's user and no user at all get one and the same answer."""
        answers = [
            self.login("alice", "incorrect horse"),
            self.login("nobody"),
            self.login("@alice:north.example"),
            self.login("Not A User"),
        ]
        messages = {self.assert_refused(answer, 403, "M_FORBIDDEN") for answer in answers}
        self.assertEqual(len(messages), 1)

    def test_bad_requests(self) -> None:
        """Other kinds of login, and half a request, are refused with their errcodes."""
        for body, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"type": "m.login.token", "token": "x"}, "M_UNKNOWN"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.phone"}, "password": "x"}, "M_UNKNOWN"),
            ({"type": "m.login.password", "identifier": "alice", "password": "x"}, "M_BAD_JSON"),
            ({"type": "m.login.password", "user": "alice"}, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "password": "x"}, "M_MISSING_PARAM"),
        ):
            with self.subTest(body=body):
                self.assert_refused(self.hub.call("POST", "/login", body), 400, errcode)

    def test_one_token_for_a_device(self) -> None:
        """Logging in again on the same device voids its older token, and no other device's."""
        again = self.alice.log_in_again("FIRST")
        self.assert_refused(self.alice.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
        other = again.log_in_again("SECOND")
        self.assertEqual(again.ok("GET", "/account/whoami")["device_id"], "FIRST")
        self.assertEqual(other.ok("GET", "/account/whoami")["device_id"], "SECOND")

    def test_logout(self) -> None:
        """``/logout`` ends one device, ``/logout/all`` all of them."""
        second, third = self.alice.log_in_again("SECOND"), self.alice.log_in_again("THIRD")
        second.ok("POST", "/logout")
        self.assert_refused(second.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
        third.ok("POST", "/logout/all", {})
        for device in (self.alice, third):
            self.assert_refused(device.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
        self.anna.ok("GET", "/account/whoami")

    def test_tokens(self) -> None:
        """No token, a foreign one and a malformed one are told apart as the API asks; the query is a way in too."""
        self.assert_refused(self.hub.call("GET", "/account/whoami"), 401, "M_MISSING_TOKEN")
        for token in ("nonsense", "x" * 10_000, self.bob.token):
            self.assert_refused(self.hub.call("GET", "/account/whoami", token=token), 401, "M_UNKNOWN_TOKEN")
        by_query = self.hub.call("GET", "/account/whoami", query={"access_token": self.alice.token})
        self.assertEqual(by_query[1]["user_id"], self.alice.user_id)

    def test_nothing_in_the_clear(self) -> None:
        """Neither the password nor the token is in the database; the token's hash is."""
        dump = "\n".join(
            result_of(self.hub.server.database.read(lambda tx: [str(row) for row in tx.rows("SELECT * FROM users")]))
            + result_of(
                self.hub.server.database.read(lambda tx: [str(row) for row in tx.rows("SELECT * FROM access_tokens")])
            )
        )
        self.assertNotIn(PASSWORD, dump)
        self.assertNotIn(self.alice.token, dump)
        self.assertIn(hash_of_token(self.alice.token), dump)
        self.assertIn("$argon2id$", dump)


class LimitTests(ClientTestCase):
    """Registration, login and changes are rate-limited."""

    def setUp(self) -> None:
        super().setUp()

        def limits(network: Network) -> ClientLimits:
            return ClientLimits(
                registration=RateLimiter(0.1, 2, network.clock),
                login=RateLimiter(0.1, 3, network.clock),
                changes=RateLimiter(1, 5, network.clock),
            )

        self.limited = ClientServer(self.network, "limited.example", limits=limits)
        self.dora = self.limited.user("dora")

    def test_registration(self) -> None:
        """Beyond the burst an address is told when to come back; another address is not held up."""
        body = {"auth": DUMMY, "password": PASSWORD}
        self.assertEqual(self.limited.call("POST", "/register", body)[0], 200)
        status, answer = self.limited.call("POST", "/register", body)
        self.assertEqual((status, answer["errcode"]), (429, "M_LIMIT_EXCEEDED"))
        self.assertGreater(answer["retry_after_ms"], 0)
        self.assertEqual(self.limited.call("POST", "/register", body, address="192.0.2.9")[0], 200)
        self.network.clock.advance(answer["retry_after_ms"] / 1000)
        self.assertEqual(self.limited.call("POST", "/register", body)[0], 200)

    def test_login(self) -> None:
        """Guessing one account's password from many addresses is slowed down too."""
        body = {"type": "m.login.password", "user": "dora", "password": "guess"}
        statuses = [
            self.limited.call("POST", "/login", body, address=f"192.0.2.{number}")[0] for number in range(100, 105)
        ]
        self.assertEqual(statuses, [403, 403, 403, 429, 429])

    def test_changes(self) -> None:
        """What changes something is limited for each user; reading is not."""
        statuses = [self.dora.call("POST", "/createRoom", {})[0] for _ in range(6)]
        self.assertEqual(statuses, [200] * 5 + [429])
        for _ in range(10):
            self.dora.ok("GET", "/account/whoami")
