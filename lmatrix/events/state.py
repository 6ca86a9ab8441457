"""The state of a room: the last event for each (type, state key).

Owns: the value that stands for one state event, the read-only view that the rules ask for, the map that holds a room's
current state, and the overlay on which a batch of events is tried before it is committed.

Invariants: an overlay never touches its base until it is applied; a map holds at most one event for a pair.

Source: I-D "State Events".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from lmatrix import ids

if TYPE_CHECKING:
    from lmatrix.events.forms import Pdu


@attrs.frozen(slots=True)
class StateEvent:
    """As much of a state event as the rules look at.

    Attributes:
        event_id: its event ID.
        content: its content; shared with the event, not to be changed.
        position: its place in the room's log, 0 where that does not matter.
    """

    event_id: str
    type: str
    state_key: str
    sender: str
    content: Mapping[str, Any]
    position: int = 0

    @classmethod
    def from_pdu(cls, pdu: Pdu, position: int = 0) -> StateEvent:
        """The state that ``pdu`` sets.

        Raises:
            ValueError: it is not a state event.
        """
        if pdu.state_key is None:
            raise ValueError(f"{pdu.event_id} is not a state event")
        return cls(pdu.event_id, pdu.type, pdu.state_key, pdu.sender, pdu.content, position)

    @property
    def sender_server(self) -> str:
        """The server name in ``sender``."""
        return ids.server_of(self.sender)


class StateView(Protocol):
    """State that can be asked for one event at a time."""

    def get(self, event_type: str, state_key: str = "") -> StateEvent | None:
        """The state event for the pair, ``None`` when there is none."""


class StateMap:
    """A room's state, in memory."""

    __slots__ = ("_by_type", "_length")

    def __init__(self, events: Iterable[StateEvent] = ()) -> None:
        self._by_type: dict[str, dict[str, StateEvent]] = {}
        self._length = 0
        for event in events:
            self.set(event)

    def get(self, event_type: str, state_key: str = "") -> StateEvent | None:
        """The state event for the pair, ``None`` when there is none."""
        of_type = self._by_type.get(event_type)
        return None if of_type is None else of_type.get(state_key)

    def set(self, event: StateEvent) -> None:
        """Make ``event`` the state for its pair."""
        of_type = self._by_type.setdefault(event.type, {})
        if event.state_key not in of_type:
            self._length += 1
        of_type[event.state_key] = event

    def remove(self, event_type: str, state_key: str = "") -> None:
        """Forget the pair, if it is there."""
        of_type = self._by_type.get(event_type)
        if of_type is not None and of_type.pop(state_key, None) is not None:
            self._length -= 1

    def of_type(self, event_type: str) -> Iterator[StateEvent]:
        """Every state event of a type."""
        return iter(self._by_type.get(event_type, {}).values())

    def members(self) -> Iterator[StateEvent]:
        """Every membership event, whatever the membership."""
        return self.of_type("m.room.member")

    def items(self) -> Iterator[tuple[tuple[str, str], StateEvent]]:
        """Every ((type, state key), event)."""
        for event in self:
            yield (event.type, event.state_key), event

    def copy(self) -> StateMap:
        """Another map with the same events."""
        return StateMap(self)

    def __iter__(self) -> Iterator[StateEvent]:
        for of_type in self._by_type.values():
            yield from of_type.values()

    def __len__(self) -> int:
        return self._length


class StateOverlay:
    """State that is tried out on top of other state, which it leaves alone.

    Args:
        base: what shows through where the overlay has nothing. May itself be an overlay.
    """

    __slots__ = ("_base", "_changes")

    def __init__(self, base: StateView) -> None:
        self._base = base
        self._changes: dict[tuple[str, str], StateEvent] = {}

    @property
    def changes(self) -> Mapping[tuple[str, str], StateEvent]:
        """What was set on the overlay, in the order in which each pair was first set."""
        return self._changes

    def get(self, event_type: str, state_key: str = "") -> StateEvent | None:
        """The state event for the pair, ``None`` when there is none."""
        changed = self._changes.get((event_type, state_key))
        return self._base.get(event_type, state_key) if changed is None else changed

    def set(self, event: StateEvent) -> None:
        """Make ``event`` the state for its pair, on the overlay only."""
        self._changes[event.type, event.state_key] = event

    def apply_to(self, base: StateMap | StateOverlay) -> None:
        """Set everything that was set here on ``base`` too."""
        for event in self._changes.values():
            base.set(event)
