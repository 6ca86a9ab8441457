"""State at any position, over joins, re-joins and fetched history, against a replay of the true room."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from lmatrix.events.forms import Pdu
from lmatrix.events.redaction import redact
from lmatrix.rooms.interfaces import SEGMENT_STRIDE, RoomAppend, StoredEvent
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores
from tests.storage.logs import ROOM, VERSION, StorageTestCase, ids, pdu, placed

Key = tuple[str, str]

KEYS: list[Key] = [("m.room.topic", ""), ("m.room.name", ""), ("m.room.member", "@a:x"), ("m.room.member", "@b:y")]


def state_of(key: Key, number: int, prev: list[str]) -> Pdu:
    content = {"membership": "join"} if key[0] == "m.room.member" else {"value": number}
    return pdu(number, key[0], content, state_key=key[1], prev=prev)


def replay(events: list[Pdu]) -> dict[Key, str]:
    """The naive model: the last event for each key."""
    state: dict[Key, str] = {}
    for event in events:
        if event.state_key is not None:
            state.pop((event.type, event.state_key), None)
            state[event.type, event.state_key] = event.event_id
    return state


class Participant:
    """A server that is in the room now and then, and holds in ``held`` the true index of each position that it has."""

    def __init__(self, chain: list[Pdu]) -> None:
        self.chain = chain
        self.database = InlineDatabase()
        self.stores = Stores.create()
        self.held: dict[int, int] = {}
        self.first = 0
        self.low: tuple[int, int] | None = None  # position and index of the lowest event of the current run
        self.head = -1  # index of the last event received
        self.firsts: dict[int, int] = {}  # first position of each run, and its index

    def join(self, at: int) -> None:
        """Receive the state before the event at an index, and that event."""
        self.first += SEGMENT_STRIDE
        snapshot = [self.by_id(event_id) for event_id in replay(self.chain[:at]).values()]
        rooms = self.stores.rooms

        def work(tx: object) -> None:
            rooms.insert_room(tx, ROOM, VERSION.identifier, self.first)  # type: ignore[arg-type]
            rooms.put_state_snapshot(tx, ROOM, self.first - 1, snapshot)  # type: ignore[arg-type]
            rooms.append(tx, RoomAppend(ROOM, [placed(self.first, self.chain[at])]))  # type: ignore[arg-type]

        assert self.database.write(work).result is None
        self.held[self.first] = at
        self.firsts[self.first] = at
        self.low = (self.first, at)
        self.head = at

    def receive(self, count: int) -> None:
        position = max(self.held)
        events = [
            placed(position + offset, self.chain[self.head + offset])
            for offset in range(1, count + 1)
            if self.head + offset < len(self.chain)
        ]
        if events:
            self.database.write(lambda tx: self.stores.rooms.append(tx, RoomAppend(ROOM, events)))
            for event in events:
                self.head += 1
                self.held[event.position] = self.head

    def fetch(self, count: int) -> None:
        """Fetch history below the current run, as far as it is not held."""
        assert self.low is not None
        position, index = self.low
        known = set(self.held.values())
        events = []
        while count > 0 and index > 0 and index - 1 not in known:
            position, index, count = position - 1, index - 1, count - 1
            events.append(placed(position, self.chain[index]))
            self.held[position] = index
        self.low = (position, index)
        self.database.write(lambda tx: self.stores.rooms.prepend(tx, ROOM, events))

    def by_id(self, event_id: str) -> Pdu:
        return next(event for event in self.chain if event.event_id == event_id)

    def reachable(self, position: int) -> list[int]:
        """Positions at or below this one, descending, for as long as the true indices have no gap."""
        below = sorted((p for p in self.held if p <= position), reverse=True)
        found = below[:1]
        for p in below[1:]:
            if self.held[p] != self.held[found[-1]] - 1:
                break
            found.append(p)
        return found


def as_dict(events: list[StoredEvent], chain: list[Pdu]) -> dict[Key, str]:
    keys = {event.event_id: (event.type, event.state_key or "") for event in chain}
    found = {keys[event.event_id]: event.event_id for event in events}
    assert len(found) == len(events), "one event for each key"
    return found


chains = st.lists(st.one_of(st.none(), st.sampled_from(KEYS)), min_size=2, max_size=25)
stays = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 8), st.lists(st.integers(1, 6), max_size=3)), min_size=1, max_size=4
)


class StateHistoryProperties(StorageTestCase):
    @settings(max_examples=120, deadline=None)
    @given(chains, stays)
    def test_state_is_what_a_replay_gives(
        self, kinds: list[Key | None], plan: list[tuple[int, int, list[int]]]
    ) -> None:
        """Whatever a participant missed, received and fetched: current state, state before every position that hangs
        together with a snapshot or the creation, and the way back from every position are those of the true room."""
        chain: list[Pdu] = []
        for number, key in enumerate(kinds):
            prev = [chain[-1].event_id] if chain else []
            chain.append(pdu(number, prev=prev) if key is None else state_of(key, number, prev))
        server = Participant(chain)
        self.addCleanup(server.database.close)
        for missed, received, fetches in plan:
            at = server.head + 1 + missed
            if at >= len(chain):
                break
            server.join(at)
            server.receive(received)
            for count in fetches:
                server.fetch(count)
        if not server.held:
            return
        self.check(server)

    def check(self, server: Participant) -> None:
        chain, rooms, timeline = server.chain, server.stores.rooms, server.stores.timeline
        read = server.database.read
        room = self.successResultOf(read(lambda tx: rooms.load_room(tx, ROOM)))
        assert room is not None
        self.assertEqual(as_dict(list(room.state), chain), replay(chain[: server.head + 1]))
        self.assertEqual((room.head_position, room.head_event_id), (max(server.held), chain[server.head].event_id))
        for position, index in server.held.items():
            reachable = server.reachable(position)
            before = self.successResultOf(
                read(lambda tx, p=position: rooms.events_before(tx, ROOM, p, 1000))  # type: ignore[misc]
            )
            self.assertEqual([event.position for event in before], reachable)
            truth = replay(chain[:index])
            state = self.successResultOf(
                read(lambda tx, p=position: rooms.state_before(tx, ROOM, p))  # type: ignore[misc]
            )
            complete = server.held[reachable[-1]] == 0 or any(p in server.firsts for p in reachable)
            found = as_dict(list(state), chain)
            if complete:
                self.assertEqual(found, truth)
                self.assertEqual(sorted(event.position for event in state), [event.position for event in state])
            for key, event_id in truth.items():
                one = self.successResultOf(
                    read(lambda tx, p=position, k=key: rooms.state_event_before(tx, ROOM, p, *k))  # type: ignore[misc]
                )
                self.assertEqual(one.event_id if one else None, found.get(key))
                if complete:
                    self.assertEqual(one.event_id if one else None, event_id)
        for key in KEYS:
            history = self.successResultOf(
                read(lambda tx, k=key: rooms.state_history(tx, ROOM, *k))  # type: ignore[misc]
            )
            values = ids(list(history))
            self.assertTrue(all(a != b for a, b in pairwise(values)))
            held = [chain[index] for _, index in sorted(server.held.items())]
            known = [event.event_id for event in held if (event.type, event.state_key) == key]
            self.assertEqual([v for v in values if v in known], known)
        first = max(server.firsts)
        for after in range(first, max(server.held) + 1):
            for up_to in range(after, max(server.held) + 1):
                changed = self.successResultOf(
                    read(lambda tx, a=after, u=up_to: timeline.state_between(tx, ROOM, a, u))  # type: ignore[misc]
                )
                truth = replay(chain[server.held[after] + 1 : server.held[up_to] + 1])
                self.assertEqual(as_dict(changed, chain), truth)


class SnapshotTests(StorageTestCase):
    def test_snapshot_order(self) -> None:
        """Without places in the log, the events of a snapshot keep the order in which they came."""
        self.make_room(first_position=SEGMENT_STRIDE)
        snapshot = [state_of(key, number, []) for key, number in zip(KEYS, (9, 3, 7, 1), strict=True)]
        self.write(lambda tx: self.rooms.put_state_snapshot(tx, ROOM, SEGMENT_STRIDE - 1, snapshot))
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(ids(room.state), [event.event_id for event in snapshot])
        self.assertEqual({event.position for event in room.state}, {SEGMENT_STRIDE - 1})
        unplaced = self.read(lambda tx: self.rooms.event(tx, snapshot[0].event_id))
        assert unplaced is not None
        self.assertEqual((unplaced.position, unplaced.stream), (0, None))

    def test_an_event_of_the_snapshot_is_appended(self) -> None:
        """An event that came with the snapshot and then as a live one (our own join, with prototypes) is one event."""
        self.make_room(first_position=SEGMENT_STRIDE)
        joined = state_of(KEYS[2], 1, [])
        self.write(lambda tx: self.rooms.put_state_snapshot(tx, ROOM, SEGMENT_STRIDE - 1, [joined]))
        self.append(placed(SEGMENT_STRIDE, joined))
        stored = self.read(lambda tx: self.rooms.event(tx, joined.event_id))
        assert stored is not None
        self.assertEqual((stored.position, stored.stream), (SEGMENT_STRIDE, 1))
        history = self.read(lambda tx: self.rooms.state_history(tx, ROOM, *KEYS[2]))
        self.assertEqual(ids(history), [joined.event_id])

    def test_what_was_redacted_meanwhile(self) -> None:
        """State that was redacted while we were away is redacted here too when we come back, in the room's state and in
        the log of then.
        """
        self.make_room(first_position=SEGMENT_STRIDE)
        topic = state_of(KEYS[0], 1, [])
        self.append(placed(SEGMENT_STRIDE, topic))
        self.make_room(first_position=2 * SEGMENT_STRIDE)
        stripped = redact(topic)
        self.write(lambda tx: self.rooms.put_state_snapshot(tx, ROOM, 2 * SEGMENT_STRIDE - 1, [stripped]))
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual([stripped.canonical], [event.canonical for event in room.state])
        held = self.read(lambda tx: self.rooms.event(tx, topic.event_id))
        assert held is not None
        self.assertEqual((SEGMENT_STRIDE, stripped.canonical), (held.position, held.canonical))

    def test_a_rejoin_empties_the_state(self) -> None:
        """What the new snapshot does not have is not in the current state, nor in that of later positions."""
        self.make_room(first_position=SEGMENT_STRIDE)
        topic, name = state_of(KEYS[0], 1, []), state_of(KEYS[1], 2, [])
        self.append(placed(SEGMENT_STRIDE, topic))
        self.make_room(first_position=2 * SEGMENT_STRIDE)
        self.write(lambda tx: self.rooms.put_state_snapshot(tx, ROOM, 2 * SEGMENT_STRIDE - 1, [name]))
        self.append(placed(2 * SEGMENT_STRIDE, pdu(3)))
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(ids(room.state), [name.event_id])
        state = self.read(lambda tx: self.rooms.state_before(tx, ROOM, 2 * SEGMENT_STRIDE + 1))
        self.assertEqual(ids(state), [name.event_id])
        state = self.read(lambda tx: self.rooms.state_before(tx, ROOM, SEGMENT_STRIDE + 1))
        self.assertEqual(ids(state), [topic.event_id])
        history = self.read(lambda tx: self.rooms.state_history(tx, ROOM, *KEYS[0]))
        self.assertEqual(ids(history), [topic.event_id])

    def test_a_run_must_be_above_the_last(self) -> None:
        """A run cannot begin where the log already is."""
        self.make_room(first_position=SEGMENT_STRIDE)
        self.append_messages(range(SEGMENT_STRIDE, SEGMENT_STRIDE + 5))
        for first in (SEGMENT_STRIDE, SEGMENT_STRIDE + 4):
            failing = self.database.write(
                lambda tx, first=first: self.rooms.insert_room(tx, ROOM, VERSION.identifier, first)  # type: ignore[misc]
            )
            self.failureResultOf(failing, ValueError)

    def test_fetched_history_that_is_held_already(self) -> None:
        """Fetching the same history twice (two requests at once) changes nothing."""
        self.make_room(first_position=SEGMENT_STRIDE)
        self.append(placed(SEGMENT_STRIDE, pdu(5)))
        history = [placed(SEGMENT_STRIDE - 1, pdu(4)), placed(SEGMENT_STRIDE - 2, state_of(KEYS[0], 3, []))]
        for _ in range(2):
            self.write(lambda tx: self.rooms.prepend(tx, ROOM, history))
        before = self.read(lambda tx: self.rooms.events_before(tx, ROOM, SEGMENT_STRIDE, 9))
        self.assertEqual([event.position - SEGMENT_STRIDE for event in before], [0, -1, -2])
        self.assertEqual([event.stream for event in before], [1, None, None])
        room = self.read(lambda tx: self.rooms.load_room(tx, ROOM))
        assert room is not None
        self.assertEqual(list(room.state), [])

    def test_fetched_state_that_no_snapshot_had(self) -> None:
        """State that only fetched history has is found there, whatever the snapshot kept silent about."""
        self.make_room(first_position=SEGMENT_STRIDE)
        self.append(placed(SEGMENT_STRIDE, pdu(5)))
        topics = [state_of(KEYS[0], number, []) for number in (1, 2, 3)]
        history = [placed(SEGMENT_STRIDE - 5 + n, topic) for n, topic in enumerate(topics, 1)]
        history.append(placed(SEGMENT_STRIDE - 1, pdu(4)))
        self.write(lambda tx: self.rooms.prepend(tx, ROOM, history))
        for position, topic in ((SEGMENT_STRIDE - 3, topics[0]), (SEGMENT_STRIDE - 2, topics[1])):
            state = self.read(lambda tx, p=position: self.rooms.state_before(tx, ROOM, p))
            self.assertEqual(ids(state), [topic.event_id])
        low, high = SEGMENT_STRIDE - 4, SEGMENT_STRIDE - 2
        changed = self.read(lambda tx: self.timeline.state_between(tx, ROOM, low, high))
        self.assertEqual(ids(changed), [topics[2].event_id])
        self.assertEqual(self.read(lambda tx: self.rooms.state_before(tx, ROOM, SEGMENT_STRIDE + 1)), [])
