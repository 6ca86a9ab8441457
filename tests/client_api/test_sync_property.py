"""Whatever happens, and however seldom a client looks: it ends up with the whole log in order, and the room's state.

Random interleavings of what users and servers do with syncs of small limits. A client is modelled as a careful one
would be written: it appends timelines, fills the gap of a limited one through ``/messages``, and applies state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.visibility import Visibility, user_may_see, visibility_at, visibility_of
from tests.client_api.harness import ClientServer, User, enc
from tests.rooms.network import Network

MEMBER = "m.room.member"
VISIBILITY = "m.room.history_visibility"


class Client:
    """A client's picture of one room.

    Attributes:
        log: the events that it knows, by ID, oldest first.
        state: event ID for each (type, state key), as far as it was told.
        joined, is_invited: whether it believes to be in the room, or invited to it.
    """

    def __init__(self, user: User, room_id: str) -> None:
        self.user = user
        self.room_id = room_id
        self.since: str | None = None
        self.log: dict[str, Any] = {}
        self.oldest: str | None = None
        self.state: dict[tuple[str, str], str] = {}
        self.joined = False
        self.is_invited = False

    def sync(self, limit: int) -> None:
        """Look once, and take in what there is."""
        answer = self.user.sync(self.since, limit=limit)
        self.since = answer["next_batch"]
        if any(self.room_id in section for section in answer["rooms"].values()):
            self.is_invited = self.room_id in answer["rooms"]["invite"]
            self.joined = self.room_id in answer["rooms"]["join"]
        for section in ("join", "leave"):
            room = answer["rooms"][section].get(self.room_id)
            if room is not None:
                self._take(room)
        if self.joined:
            self._check_state()

    def finish(self) -> None:
        """Scroll back to where history begins."""
        if self.oldest is not None:
            older = self._page_back(self.oldest, frozenset())
            self.log = {event["event_id"]: event for event in [*older[::-1], *self.log.values()]}

    def _take(self, room: Any) -> None:
        timeline = room["timeline"]
        if self.oldest is None:
            self.oldest = timeline["prev_batch"]
        elif timeline["limited"]:
            for event in self._page_back(timeline["prev_batch"], frozenset(self.log))[::-1]:
                self._append(event)
        for event in timeline["events"]:
            self._append(event)
        for event in (*room["state"]["events"], *timeline["events"]):
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["event_id"]

    def _append(self, event: Any) -> None:
        known = self.log.pop(event["event_id"], None)
        if known is not None and not self.is_from_outside(known):
            raise AssertionError(f"told twice: {known}")
        self.log[event["event_id"]] = event

    def is_from_outside(self, event: Any) -> bool:
        """What happened to the user while not in the room may be told again as part of the room's history."""
        return (
            event["type"] == MEMBER
            and event["state_key"] == self.user.user_id
            and event["content"]["membership"] != "join"
        )

    def _page_back(self, token: str | None, known: frozenset[str]) -> list[Any]:
        found: list[Any] = []
        while token is not None:
            query = {"from": token, "limit": 3, "dir": "b"}
            status, page = self.user.call("GET", f"/rooms/{enc(self.room_id)}/messages", **query)
            if status == 403:  # somebody who was invited at most
                return found
            for event in page["chunk"]:
                if event["event_id"] in known and not self.is_from_outside(event):
                    return found
                found.append(event)
            token = page.get("end")
        return found

    def _check_state(self) -> None:
        state = self.user.ok("GET", f"/rooms/{enc(self.room_id)}/state")
        actual = {(event["type"], event["state_key"]): event["event_id"] for event in state}
        if self.state != actual:
            raise AssertionError(f"{self.user.user_id} has {self.state}, but the state is {actual}")


class World:
    """A hub with Alice and Anna, a participant with Bob and Ben, and one room."""

    def __init__(self) -> None:
        self.network = Network()
        hub, north = ClientServer(self.network, "hub.example"), ClientServer(self.network, "north.example")
        self.alice = hub.user("alice")
        self.users = {"anna": hub.user("anna"), "bob": north.user("bob"), "ben": north.user("ben")}
        self.room_id = self.alice.create_room()
        self.hub = hub
        everybody = {"alice": self.alice, **self.users}
        self.clients = {name: Client(user, self.room_id) for name, user in everybody.items()}
        self.count = 0
        for client in self.clients.values():
            client.sync(5)  # a first sync does not tell of rooms that were left before it

    def run(self, steps: Sequence[tuple[str, Any]]) -> None:
        """Do one thing after the other; what the room does not allow is refused, and changes nothing."""
        for what, with_what in steps:
            getattr(self, what)(with_what)
        self.settle(None)
        for client in self.clients.values():
            client.sync(5)
            client.finish()

    def say(self, name: str) -> None:
        self.count += 1
        user = self.clients[name].user
        path = f"/rooms/{enc(self.room_id)}/send/m.room.message/{self.count}"
        user.call("PUT", path, {"msgtype": "m.text", "body": str(self.count)})

    def topic(self, _: None) -> None:
        self.count += 1
        self.alice.set_state(self.room_id, "m.room.topic", {"topic": str(self.count)})

    def visibility(self, value: str) -> None:
        self.alice.set_state(self.room_id, VISIBILITY, {"history_visibility": value})

    def join(self, name: str) -> None:
        self.settle(None)
        self.users[name].call("POST", f"/join/{enc(self.room_id)}", {}, via="hub.example")

    def leave(self, name: str) -> None:
        self.settle(None)
        self.users[name].call("POST", f"/rooms/{enc(self.room_id)}/leave", {})

    def invite(self, name: str) -> None:
        self._about(name, "invite")

    def kick(self, name: str) -> None:
        self._about(name, "kick")

    def settle(self, _: None) -> None:
        self.network.settle()
        self.network.clock.advance(0)

    def sync(self, how: tuple[str, int]) -> None:
        name, limit = how
        self.clients[name].sync(limit)

    def _about(self, name: str, what: str) -> None:
        self.alice.call("POST", f"/rooms/{enc(self.room_id)}/{what}", {"user_id": self.users[name].user_id})

    def log(self) -> list[Any]:
        """The room as the hub has it."""
        return [{**pdu.fields, "event_id": pdu.event_id} for pdu in self.hub.server.pdus(self.room_id)]

    def visible_to(self, user_id: str) -> tuple[list[str], list[str]]:
        """What a user may see by the rules, written as plainly as can be: up to the last stay's end, and in all."""
        log = self.log()
        memberships, visibilities = ["leave"], [Visibility.SHARED]
        for event in log:
            is_own = event["type"] == MEMBER and event["state_key"] == user_id
            memberships.append(event["content"]["membership"] if is_own else memberships[-1])
            visibilities.append(visibility_of(event["content"]) if event["type"] == VISIBILITY else visibilities[-1])
        ends = [place for place in range(len(log)) if "join" in memberships[place : place + 2]]
        visible = []
        for place, event in enumerate(log):
            at = visibility_at(event["type"], event.get("state_key"), event["content"], visibilities[place])
            is_own = event["type"] == MEMBER and event["state_key"] == user_id
            if is_own or user_may_see(event["type"], at, [memberships[place]], "join" in memberships[place + 1 :]):
                visible.append((place, event["event_id"]))
        last = ends[-1] if ends else -1
        return [event_id for place, event_id in visible if place <= last], [event_id for _, event_id in visible]


NAMES = st.sampled_from(["anna", "bob", "bob", "ben"])
EVERYBODY = st.sampled_from(["alice", "anna", "bob", "ben", *["anna", "bob"] * 2])
STEPS = st.one_of(
    st.tuples(st.just("say"), EVERYBODY),
    st.tuples(st.just("say"), st.just("alice")),
    st.tuples(st.just("topic"), st.none()),
    st.tuples(st.just("join"), NAMES),
    st.tuples(st.just("join"), NAMES),
    st.tuples(st.just("leave"), NAMES),
    st.tuples(st.just("invite"), NAMES),
    st.tuples(st.just("kick"), NAMES),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("sync"), st.tuples(EVERYBODY, st.integers(1, 4))),
    st.tuples(st.just("sync"), st.tuples(EVERYBODY, st.integers(1, 4))),
)
HIDING = st.tuples(st.just("visibility"), st.sampled_from([visibility.value for visibility in Visibility]))


class SyncPropertyTests(SynchronousTestCase):
    """Nothing skipped, nothing told twice, nothing told that may not be seen."""

    def check(self, steps: Sequence[tuple[str, Any]]) -> None:
        world = World()
        world.run(steps)
        by_id = {event["event_id"]: event for event in world.log()}
        for client in world.clients.values():
            owed, allowed = world.visible_to(client.user.user_id)
            told = [event_id for event_id, event in client.log.items() if not client.is_from_outside(event)]
            self.assertEqual(told, [event_id for event_id in allowed if event_id in told], client.user.user_id)
            missing = [event_id for event_id in owed if event_id not in client.log]
            if client.is_invited:
                # A room that was left and to which one is invited again is told as an invite; what it had to tell
                # follows when the invite is answered.
                missing = [event_id for event_id in missing if event_id in owed[: len(told)]]
            self.assertEqual([by_id[event_id] for event_id in missing], [], client.user.user_id)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=40))
    def test_everything_once_in_order(self, steps: list[tuple[str, Any]]) -> None:
        """With the usual visibility: a member ends up with the whole log, a former member with all up to the end."""
        self.check(steps)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.one_of(STEPS, HIDING), max_size=40))
    def test_what_may_be_seen_and_nothing_else(self, steps: list[tuple[str, Any]]) -> None:
        """With changing visibility: exactly what the rules let a user see."""
        self.check(steps)
