"""``make_*`` and ``send_*``: what the endpoints read and pass on."""

from __future__ import annotations

from tests.federation.resources.api_bench import BOB, BOB_IN_PATH, ORIGIN, ROOM, ROOM_IN_PATH, ApiTestCase


class MakeTests(ApiTestCase):
    """``make_join``, ``make_leave``, ``make_knock``."""

    def test_passed_on(self) -> None:
        """Origin, room, user and the repeated ``ver`` reach the rooms; the wrapped template goes back."""
        for membership in ("join", "knock"):
            answer = self.ask("GET", f"/v1/make_{membership}/{ROOM_IN_PATH}/{BOB_IN_PATH}?ver=I.1&ver=11")
            self.assert_called("make", ORIGIN, membership, ROOM, BOB, ("I.1", "11"))
            self.assertEqual({"event": {"type": "m.room.member"}, "room_version": "I.1"}, answer.json)

    def test_without_ver(self) -> None:
        """Without ``ver`` the asker supports room version 1 and nothing else, as in Matrix."""
        for membership in ("join", "knock"):
            self.ask("GET", f"/v1/make_{membership}/{ROOM_IN_PATH}/{BOB_IN_PATH}")
            self.assert_called("make", ORIGIN, membership, ROOM, BOB, ("1",))

    def test_leave_has_no_ver(self) -> None:
        """``make_leave`` does not look at versions."""
        self.ask("GET", f"/v1/make_leave/{ROOM_IN_PATH}/{BOB_IN_PATH}?ver=I.1")
        self.assert_called("make", ORIGIN, "leave", ROOM, BOB, ())

    def test_bad_paths(self) -> None:
        """What is no room ID or no user ID is refused; so are endless lists of versions."""
        for room, user in (
            ("room", BOB_IN_PATH),
            ("%40bob%3Anorth.example", BOB_IN_PATH),
            ("%21room", BOB_IN_PATH),
            (ROOM_IN_PATH, "bob"),
            (ROOM_IN_PATH, "%40bob"),
            (ROOM_IN_PATH, "%40" + "b" * 300 + "%3Anorth.example"),
        ):
            for membership in ("join", "leave", "knock"):
                answer = self.ask("GET", f"/v1/make_{membership}/{room}/{user}?ver=I.1")
                self.assert_error(answer, 400, "M_BAD_JSON")
        versions = "&".join(["ver=1"] * 101)
        self.assert_error(self.ask("GET", f"/v1/make_join/{ROOM_IN_PATH}/{BOB_IN_PATH}?{versions}"), 400, "M_BAD_JSON")
        self.assert_error(self.ask("GET", f"/v1/make_join/{ROOM_IN_PATH}/%FF?ver=I.1"), 400, "M_BAD_JSON")
        self.assertEqual([], self.rooms.calls)


class SendTests(ApiTestCase):
    """``send_join``, ``send_leave``, ``send_knock``."""

    def test_passed_on(self) -> None:
        """Origin, transaction ID and body reach the rooms; their answer goes back."""
        for membership in ("join", "leave", "knock"):
            answer = self.ask("POST", f"/v3/send_{membership}/$t", b'{"type":"m.room.member"}')
            self.assert_called("send", ORIGIN, membership, "$t", {"type": "m.room.member"})
            self.assertEqual(b'{"state":[]}', answer.body)
