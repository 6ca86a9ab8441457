"""Room aliases: made, found, joined by, removed; what rooms may call themselves."""

from __future__ import annotations

from typing import Any

from lmatrix.directory.aliases import MAX_ALIASES_BY_USER, MAX_ALIASES_OF_ROOM
from lmatrix.directory.canonical_alias import MAX_NAMED
from lmatrix.directory.interfaces import StoredAlias
from lmatrix.directory.lookups import REFUSAL_REMEMBERED_S, REMEMBERED_S
from tests.client_api.harness import ClientServer, ClientTestCase, User, enc

HERE, THERE, NORTHERN = "#here:hub.example", "#there:hub.example", "#here:north.example"
CANONICAL = "m.room.canonical_alias"


def directory(alias: str) -> str:
    """The path of an alias."""
    return f"/directory/room/{enc(alias)}"


class AliasTestCase(ClientTestCase):
    def make(self, user: User, alias: str, room_id: str) -> None:
        """Make an alias."""
        user.ok("PUT", directory(alias), {"room_id": room_id})

    def named(self, user: User, room_id: str) -> Any:
        """What a room calls itself."""
        return user.ok("GET", f"/rooms/{enc(room_id)}/state/{CANONICAL}")

    def call_it(self, user: User, room_id: str, **content: object) -> Any:
        """Ask for a room to call itself something."""
        return user.call("PUT", f"/rooms/{enc(room_id)}/state/{CANONICAL}", content)


class MakingTests(AliasTestCase):
    def test_make_and_find(self) -> None:
        """An alias leads to its room, for whoever asks, and says through whom one gets in: the hub, then the others."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        for alias in (HERE, "#Ünïcode-&_?/ok:hub.example"):
            self.make(self.alice, alias, room_id)
            expected = {"room_id": room_id, "servers": ["hub.example", "north.example"]}
            for path in (directory(alias), "/_matrix/client/r0" + directory(alias)):
                self.assertEqual(self.hub.call("GET", path), (200, expected))

    def test_of_a_room_elsewhere(self) -> None:
        """A participant has aliases too, and names the hub first."""
        room_id = self.bob.create_room()
        self.alice.join(room_id, "north.example")
        self.make(self.alice, HERE, room_id)
        self.assertEqual(self.anna.ok("GET", directory(HERE))["servers"], ["north.example", "hub.example"])

    def test_taken(self) -> None:
        """An alias is made once: 409, also for the same room."""
        room_id, other = self.alice.create_room(), self.anna.create_room()
        self.make(self.alice, HERE, room_id)
        for user, room in ((self.alice, room_id), (self.anna, other)):
            self.assert_refused(user.call("PUT", directory(HERE), {"room_id": room}), 409, "M_UNKNOWN")
        self.assertEqual(self.anna.ok("GET", directory(HERE))["room_id"], room_id)

    def test_who_may(self) -> None:
        """Whoever is in the room; a room that there is not looks the same as one that one is not in."""
        room_id = self.alice.create_room()
        for room in (room_id, "!unknown:hub.example"):
            refused = self.anna.call("PUT", directory(HERE), {"room_id": room})
            self.assert_refused(refused, 403, "M_FORBIDDEN")
        self.anna.join(room_id)
        self.make(self.anna, HERE, room_id)

    def test_bad_requests(self) -> None:
        """What cannot be an alias of this server, or is no room ID, is refused, and makes nothing."""
        room_id = self.alice.create_room()
        for alias in (
            "here",
            "#here",
            "#:hub.example",
            NORTHERN,
            "#two words:hub.example",
            "#tab\t:hub.example",
            "#bell\x07:hub.example",
            "#" + "x" * 250 + ":hub.example",
        ):
            refused = self.alice.call("PUT", directory(alias), {"room_id": room_id})
            self.assert_refused(refused, 400, "M_INVALID_PARAM")
        for body, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"room_id": 5}, "M_BAD_JSON"),
            ({"room_id": "room"}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.alice.call("PUT", directory(HERE), body), 400, errcode)
        self.assertEqual(self.alice.ok("GET", f"/rooms/{enc(room_id)}/aliases"), {"aliases": []})

    def test_bounds(self) -> None:
        """A room has so many aliases and no more, and so has a user made."""
        rooms = [self.alice.create_room() for _ in range(2)]
        self.fill(MAX_ALIASES_OF_ROOM - 1, rooms[0], self.anna.user_id)
        self.make(self.alice, "#last:hub.example", rooms[0])
        one_more = self.alice.call("PUT", directory("#more:hub.example"), {"room_id": rooms[0]})
        self.assert_refused(one_more, 403, "M_FORBIDDEN")
        self.fill(MAX_ALIASES_BY_USER - 2, "!other:hub.example", self.alice.user_id)
        self.make(self.alice, "#first:hub.example", rooms[1])
        one_more = self.alice.call("PUT", directory("#more:hub.example"), {"room_id": rooms[1]})
        self.assert_refused(one_more, 403, "M_FORBIDDEN")
        with_room = self.alice.call("POST", "/createRoom", {"room_alias_name": "more"})
        self.assert_refused(with_room, 403, "M_FORBIDDEN")
        self.alice.ok("DELETE", directory("#last:hub.example"))
        self.make(self.alice, "#more:hub.example", rooms[1])

    def fill(self, count: int, room_id: str, creator: str) -> None:
        """Give a room many aliases at once."""
        store = self.hub.names.stores.aliases

        def work(tx: Any) -> None:
            for number in range(count):
                store.put_alias(tx, StoredAlias(f"#{creator[1:6]}{number}:hub.example", room_id, creator), 0)

        self.successResultOf(self.hub.server.database.write(work))


class FindingTests(AliasTestCase):
    def test_unknown(self) -> None:
        """An alias that there is not is 404; what is none is 400."""
        self.assert_refused(self.hub.call("GET", directory(HERE)), 404, "M_NOT_FOUND")
        self.assert_refused(self.hub.call("GET", directory("here")), 400, "M_INVALID_PARAM")

    def test_elsewhere(self) -> None:
        """An alias of another server leads where that server says, for users; the answer is good for some time."""
        room_id = self.alice.create_room()
        self.make(self.alice, HERE, room_id)
        expected = {"room_id": room_id, "servers": ["hub.example"]}
        self.assertEqual(self.bob.ok("GET", directory(HERE)), expected)
        self.alice.ok("DELETE", directory(HERE))
        self.assertEqual(self.bob.ok("GET", directory(HERE)), expected)
        self.assertEqual(self.network.requests.count(("north.example", "hub.example", "alias")), 1)
        self.network.clock.advance(REMEMBERED_S)
        self.assert_refused(self.bob.call("GET", directory(HERE)), 404, "M_NOT_FOUND")
        self.network.clock.advance(REFUSAL_REMEMBERED_S)
        self.make(self.alice, HERE, room_id)
        self.assertEqual(self.bob.ok("GET", directory(HERE)), expected)

    def test_only_for_users(self) -> None:
        """Whoever is not logged in cannot have another server asked; one that cannot be reached is 502."""
        self.assert_refused(self.north.call("GET", directory(HERE)), 403, "M_FORBIDDEN")
        self.assertEqual(self.network.requests, [])
        self.assert_refused(self.bob.call("GET", directory("#x:nowhere.example")), 502, "M_UNKNOWN")

    def test_of_a_room(self) -> None:
        """A room's local aliases, for those who are in it, and for all where the room is world-readable."""
        room_id = self.alice.create_room()
        self.bob.join(room_id, "hub.example")
        for alias in (THERE, HERE):
            self.make(self.alice, alias, room_id)
        self.make(self.bob, NORTHERN, room_id)
        path = f"/rooms/{enc(room_id)}/aliases"
        self.assertEqual(self.alice.ok("GET", path), {"aliases": [HERE, THERE]})
        self.assertEqual(self.bob.ok("GET", path), {"aliases": [NORTHERN]})
        self.anna.join(room_id)
        self.anna.leave(room_id)
        self.assert_refused(self.anna.call("GET", path), 403, "M_FORBIDDEN")
        unknown = self.anna.call("GET", f"/rooms/{enc('!unknown:hub.example')}/aliases")
        self.assert_refused(unknown, 403, "M_FORBIDDEN")
        self.alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
        self.assertEqual(self.anna.ok("GET", path), {"aliases": [HERE, THERE]})


class JoiningTests(AliasTestCase):
    def test_join_here(self) -> None:
        """A room of this server is joined by its alias."""
        room_id = self.alice.create_room()
        self.make(self.alice, HERE, room_id)
        self.assertEqual(self.anna.ok("POST", f"/join/{enc(HERE)}", {}), {"room_id": room_id})
        self.assertEqual(self.anna.ok("GET", "/joined_rooms"), {"joined_rooms": [room_id]})

    def test_join_elsewhere(self) -> None:
        """So is a room of another server, whose hub is a third one."""
        south = ClientServer(self.network, "south.example")
        carol = south.user("carol")
        room_id = self.bob.create_room()
        self.alice.join(room_id, "north.example")
        self.make(self.alice, HERE, room_id)
        self.assertEqual(carol.ok("POST", f"/join/{enc(HERE)}"), {"room_id": room_id})
        self.assertEqual(carol.ok("GET", "/joined_rooms"), {"joined_rooms": [room_id]})

    def test_knock(self) -> None:
        """One knocks on a room by its alias."""
        rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        room_id = self.alice.create_room(initial_state=[rules])
        self.make(self.alice, HERE, room_id)
        for user in (self.anna, self.bob):
            self.assertEqual(user.ok("POST", f"/knock/{enc(HERE)}", {}), {"room_id": room_id})
            path = f"/rooms/{enc(room_id)}/state/m.room.member/{enc(user.user_id)}"
            self.assertEqual(self.alice.ok("GET", path)["membership"], "knock")

    def test_refused(self) -> None:
        """Unknown aliases, malformed ones, servers that cannot be reached; for a bad request nobody is asked."""
        for what in ("join", "knock"):
            self.assert_refused(self.anna.call("POST", f"/{what}/{enc(HERE)}", {}), 404, "M_NOT_FOUND")
            self.assert_refused(self.bob.call("POST", f"/{what}/{enc(HERE)}", {}), 404, "M_NOT_FOUND")
            self.assert_refused(self.bob.call("POST", f"/{what}/{enc('#x')}", {}), 400, "M_INVALID_PARAM")
            self.assert_refused(self.bob.call("POST", f"/{what}/{enc('#x:nowhere.example')}", {}), 502, "M_UNKNOWN")
            asked = len(self.network.requests)
            bad_via = self.bob.call("POST", f"/{what}/{enc('#new:hub.example')}", {}, via="not a server")
            self.assert_refused(bad_via, 400, "M_INVALID_PARAM")
            self.assertEqual(len(self.network.requests), asked)


class CreatingTests(AliasTestCase):
    def test_with_the_room(self) -> None:
        """A room is made together with its alias, and calls itself so."""
        room_id = self.alice.create_room(room_alias_name="here")
        self.assertEqual(self.anna.ok("GET", directory(HERE))["room_id"], room_id)
        self.assertEqual(self.named(self.alice, room_id), {"alias": HERE})

    def test_taken(self) -> None:
        """Where the alias exists, there is no new room."""
        room_id = self.alice.create_room(room_alias_name="here")
        refused = self.anna.call("POST", "/createRoom", {"room_alias_name": "here"})
        self.assert_refused(refused, 400, "M_ROOM_IN_USE")
        self.assertEqual(self.anna.ok("GET", "/joined_rooms"), {"joined_rooms": []})
        self.assertEqual(self.anna.ok("GET", directory(HERE))["room_id"], room_id)

    def test_taken_meanwhile(self) -> None:
        """Of two who want the same alias at the same time one gets it, and the other no room."""
        body = {"preset": "public_chat", "room_alias_name": "here"}
        database = self.hub.server.database
        reads = database.read
        room_id = self.anna.create_room()

        def slow_read(work: Any) -> Any:
            result = reads(work)
            if "free" in getattr(work, "__qualname__", ""):
                # After the look, and before the room is made.
                self.hub.server.database.read = reads  # type: ignore[method-assign]
                self.make(self.anna, HERE, room_id)
            return result

        database.read = slow_read  # type: ignore[method-assign]
        self.assert_refused(self.alice.call("POST", "/createRoom", body), 400, "M_ROOM_IN_USE")
        self.assertEqual(self.alice.ok("GET", "/joined_rooms"), {"joined_rooms": []})
        self.assertEqual(self.alice.ok("GET", directory(HERE))["room_id"], room_id)

    def test_no_room_no_alias(self) -> None:
        """Where the room cannot be made, the alias is not either."""
        body = {"room_alias_name": "here", "power_level_content_override": {"ban": "high"}}
        self.assert_refused(self.alice.call("POST", "/createRoom", body), 400, "M_INVALID_ROOM_STATE")
        self.assert_refused(self.alice.call("GET", directory(HERE)), 404, "M_NOT_FOUND")

    def test_bad_requests(self) -> None:
        """What can be no alias, and aliases that cannot lead to a room that is not there yet."""
        for name in ("", "a:b", "two words", "x" * 250):
            refused = self.alice.call("POST", "/createRoom", {"room_alias_name": name})
            self.assert_refused(refused, 400, "M_INVALID_PARAM")
        refused = self.alice.call("POST", "/createRoom", {"room_alias_name": 5})
        self.assert_refused(refused, 400, "M_BAD_JSON")
        for content, errcode in (({"alias": HERE}, "M_BAD_ALIAS"), ({"alias": "here"}, "M_INVALID_PARAM")):
            state = [{"type": CANONICAL, "content": content}]
            refused = self.alice.call("POST", "/createRoom", {"initial_state": state})
            self.assert_refused(refused, 400, errcode)
        self.assertEqual(self.alice.ok("GET", "/joined_rooms"), {"joined_rooms": []})
        self.alice.create_room(initial_state=[{"type": CANONICAL, "content": {}}])


class RemovingTests(AliasTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room(room_alias_name="here")
        self.anna.join(self.room_id)
        self.make(self.anna, THERE, self.room_id)

    def test_own(self) -> None:
        """Whoever made an alias removes it; what the room calls itself is not theirs to say."""
        self.assertEqual(self.call_it(self.alice, self.room_id, alias=HERE, alt_aliases=[THERE])[0], 200)
        self.assertEqual(self.anna.ok("DELETE", directory(THERE)), {})
        self.assert_refused(self.anna.call("GET", directory(THERE)), 404, "M_NOT_FOUND")
        self.assertEqual(self.named(self.alice, self.room_id), {"alias": HERE, "alt_aliases": [THERE]})

    def test_with_power(self) -> None:
        """Whoever may say what the room's main alias is removes any, and the room no longer calls itself so."""
        self.assertEqual(self.call_it(self.alice, self.room_id, alias=HERE, alt_aliases=[THERE, HERE])[0], 200)
        self.alice.ok("DELETE", directory(THERE))
        self.assertEqual(self.named(self.alice, self.room_id), {"alias": HERE, "alt_aliases": [HERE]})
        self.alice.ok("DELETE", directory(HERE))
        self.assertEqual(self.named(self.alice, self.room_id), {"alt_aliases": []})
        self.assertEqual(self.alice.ok("GET", f"/rooms/{enc(self.room_id)}/aliases"), {"aliases": []})

    def test_what_is_not_named_changes_nothing(self) -> None:
        """An alias that the room does not call itself goes without an event."""
        since = self.alice.sync()["next_batch"]
        self.alice.ok("DELETE", directory(THERE))
        self.assertEqual(self.alice.sync(since)["rooms"]["join"], {})

    def test_not_theirs(self) -> None:
        """Others are refused: members without power, strangers, users who left with power; and the alias stays."""
        self.assert_refused(self.anna.call("DELETE", directory(HERE)), 403, "M_FORBIDDEN")
        zoe = self.hub.user("zoe")
        self.assert_refused(zoe.call("DELETE", directory(HERE)), 403, "M_FORBIDDEN")
        levels = {"users": {self.alice.user_id: 100, zoe.user_id: 100}}
        self.alice.set_state(self.room_id, "m.room.power_levels", levels)
        self.assert_refused(zoe.call("DELETE", directory(HERE)), 403, "M_FORBIDDEN")
        zoe.join(self.room_id)
        zoe.ok("DELETE", directory(HERE))

    def test_unknown(self) -> None:
        """What there is not, or not here, cannot be removed."""
        self.alice.ok("DELETE", directory(HERE))
        for alias in (HERE, NORTHERN):
            self.assert_refused(self.alice.call("DELETE", directory(alias)), 404, "M_NOT_FOUND")
        self.assert_refused(self.alice.call("DELETE", directory("here")), 400, "M_INVALID_PARAM")

    def test_at_another_hub(self) -> None:
        """In a room of another hub the hub is told; when it does not answer, the alias is removed all the same."""
        room_id = self.bob.create_room(power_level_content_override={"events": {CANONICAL: 0}})
        self.alice.join(room_id, "north.example")
        for alias in ("#one:hub.example", "#two:hub.example"):
            self.make(self.alice, alias, room_id)
        named = {"alias": "#one:hub.example", "alt_aliases": ["#two:hub.example"]}
        self.assertEqual(self.call_it(self.alice, room_id, **named)[0], 200)
        self.alice.ok("DELETE", directory("#one:hub.example"))
        self.assertEqual(self.named(self.bob, room_id), {"alt_aliases": ["#two:hub.example"]})
        self.network.unreachable.add("north.example")
        removing = self.alice.start("DELETE", directory("#two:hub.example"))
        self.network.clock.advance(30)
        self.assertEqual(self.successResultOf(removing), (200, {}))
        self.assert_refused(self.alice.call("GET", directory("#two:hub.example")), 404, "M_NOT_FOUND")


class CanonicalTests(AliasTestCase):
    """``m.room.canonical_alias``."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.alice.create_room()
        self.make(self.alice, HERE, self.room_id)

    def test_good(self) -> None:
        """Aliases that lead to the room, of this server and of others; and none at all."""
        self.bob.join(self.room_id, "hub.example")
        self.make(self.bob, NORTHERN, self.room_id)
        for content in (
            {"alias": HERE, "alt_aliases": [NORTHERN]},
            {"alias": NORTHERN},
            {"alias": "", "alt_aliases": []},
            {"alias": None},
            {},
        ):
            self.assertEqual(self.call_it(self.alice, self.room_id, **content)[0], 200, content)
            self.assertEqual(self.named(self.alice, self.room_id), content)

    def test_bad(self) -> None:
        """Aliases that there are not, that lead elsewhere, whose server does not answer, and what can be none."""
        self.alice.create_room(room_alias_name="there")
        for bad in (THERE, "#nowhere:hub.example", NORTHERN, "#x:nowhere.example"):
            for content in ({"alias": bad}, {"alias": HERE, "alt_aliases": [HERE, bad]}):
                self.assert_refused(self.call_it(self.alice, self.room_id, **content), 400, "M_BAD_ALIAS")
        many = [HERE] * (MAX_NAMED + 1)
        for content in (
            {"alias": "here"},
            {"alias": 5},
            {"alt_aliases": HERE},
            {"alt_aliases": [5]},
            {"alt_aliases": many},
        ):
            self.assert_refused(self.call_it(self.alice, self.room_id, **content), 400, "M_INVALID_PARAM")
        missing = self.alice.call("GET", f"/rooms/{enc(self.room_id)}/state/{CANONICAL}")
        self.assert_refused(missing, 404, "M_NOT_FOUND")

    def test_what_was_named_before(self) -> None:
        """An alias that has gone bad may stay in the event, so that the others can be changed."""
        self.make(self.alice, THERE, self.room_id)
        self.assertEqual(self.call_it(self.alice, self.room_id, alias=HERE, alt_aliases=[THERE])[0], 200)
        self.network.finished(self.hub.names.floor.aliases.remove_for_operator(THERE))
        self.assertEqual(self.call_it(self.alice, self.room_id, alias=THERE, alt_aliases=[HERE])[0], 200)
        self.assertEqual(self.call_it(self.alice, self.room_id, alias=HERE)[0], 200)
        self.assert_refused(self.call_it(self.alice, self.room_id, alias=THERE), 400, "M_BAD_ALIAS")

    def test_other_state(self) -> None:
        """An event of that type with another state key names nothing."""
        self.alice.set_state(self.room_id, CANONICAL, {"alias": "anything"}, "key")

    def test_without_power(self) -> None:
        """Who may not change what the room calls itself is told so."""
        self.anna.join(self.room_id)
        self.assert_refused(self.call_it(self.anna, self.room_id, alias=HERE), 403, "M_FORBIDDEN")
