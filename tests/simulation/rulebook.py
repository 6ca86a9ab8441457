"""The auth rules, written once more from the I-D's text and the protocol notes.

Owns: :class:`Rulebook`, which takes a room's events from the first one on and says of each whether the rules allow it.
Nothing of lmatrix is used: events are JSON objects, state is a dictionary. So a mistake in lmatrix's own rules, which
every server of a simulation shares, does not hide itself.

Source: I-D "Auth Events Selection", "Calculating Power Levels", "Auth Rules Algorithm"; protocol notes "Hub transfer
(I.1)" and "Readings of unclear text".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Event = Mapping[str, Any]
Key = tuple[str, str]

_SCALARS = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
_ACTIONS = {"kick": 50, "ban": 50, "redact": 50, "invite": 0}
_NOTHING: Mapping[str, Any] = {}


class Rulebook:
    """A room's state, as far as its events were taken.

    Args:
        room_id: the room.
        version: its room version's identifier.
    """

    def __init__(self, room_id: str, version: str) -> None:
        self.state: dict[Key, tuple[str, Event]] = {}
        self._room_id = room_id
        self._version = version
        self._transfers = version == "I.1"

    def take(self, event_id: str, event: Event) -> str | None:
        """The next event; why the rules refuse it, or ``None``. It becomes state in any case."""
        reason = next(self._objections(event), None)
        if "state_key" in event:
            self.state[event["type"], event["state_key"]] = (event_id, event)
        return reason

    # -- What the state says -------------------------------------------------------------------------------------------

    def _content(self, event_type: str, state_key: str = "") -> Mapping[str, Any]:
        found = self.state.get((event_type, state_key))
        return _NOTHING if found is None else found[1]["content"]

    def membership(self, user_id: str) -> Any:
        """A user's membership; no event means ``leave``."""
        return self._content("m.room.member", user_id).get("membership", "leave")

    @property
    def hub(self) -> str:
        """The hub: who sent the latest hub event, in a version that has them, else who made the room."""
        keys = [("m.room.hub", ""), ("m.room.create", "")] if self._transfers else [("m.room.create", "")]
        return next(_server(self.state[key][1]["sender"]) for key in keys if key in self.state)

    def _level(self, user_id: str) -> int:
        if ("m.room.power_levels", "") not in self.state:
            return 100 if self.state["m.room.create", ""][1]["sender"] == user_id else 0
        levels = self._content("m.room.power_levels")
        found: int = levels.get("users", {}).get(user_id, levels.get("users_default", 0))
        return found

    def _needed_for(self, action: str) -> int:
        found: int = self._content("m.room.power_levels").get(action, _ACTIONS[action])
        return found

    def _needed_to_send(self, event: Event) -> int:
        levels = self._content("m.room.power_levels")
        default = levels.get("state_default", 50) if "state_key" in event else levels.get("events_default", 0)
        found: int = levels.get("events", {}).get(event["type"], default)
        return found

    def _auth_events(self, event: Event) -> list[str]:
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", event["sender"])]
        if event["type"] == "m.room.member":
            keys.append(("m.room.member", event.get("state_key", "")))
            if event["content"].get("membership") in ("join", "invite"):
                keys.append(("m.room.join_rules", ""))
        if self._transfers and "hub_server" in event:
            keys.append(("m.room.hub", ""))
        return [self.state[key][0] for key in dict.fromkeys(keys) if key in self.state]

    # -- The rules: the first thing that is yielded is why the event is refused ----------------------------------------

    def _objections(self, event: Event) -> Iterator[str]:
        if event["room_id"] != self._room_id:
            yield "it is of another room"
        if event["type"] == "m.room.create":
            yield from self._create(event)
            return
        if ("m.room.create", "") not in self.state:
            yield "4.3: there is no room"
            return
        if self._transfers and sorted(event["auth_events"]) != sorted(self._auth_events(event)):
            yield "4: its auth events are others"
        if self._transfers and "hub_server" in event and event["hub_server"] != self.hub:
            yield f"it names {event['hub_server']} as the hub, which is {self.hub}"
        if event["type"] == "m.room.member":
            yield from self._member(event)
            return
        if self.membership(event["sender"]) != "join":
            yield "6: its sender is not in the room"
        if self._transfers and event["type"] == "m.room.hub" and event.get("state_key") == "":
            yield from self._transfer(event)
            return
        if self._needed_to_send(event) > self._level(event["sender"]):
            yield "7: its sender has not the power"
        if event.get("state_key", "").startswith("@") and event["state_key"] != event["sender"]:
            yield "8: it is somebody else's state"
        if event["type"] == "m.room.power_levels":
            yield from self._power_levels(event)

    def _create(self, event: Event) -> Iterator[str]:
        if event["prev_events"] or event["auth_events"]:
            yield "3.1: it is not the first event"
        if _server(event["room_id"]) != _server(event["sender"]):
            yield "3.2: the room has another server's name"
        if event["content"].get("room_version") != self._version:
            yield "3.3: it is of another room version"

    def _member(self, event: Event) -> Iterator[str]:
        sender, target = event["sender"], event.get("state_key")
        membership = event["content"].get("membership")
        if target is None or membership is None:
            yield "5.1: something is missing"
            return
        before, by = self.membership(target), self.membership(sender)
        rule = self._content("m.room.join_rules").get("join_rule", "invite")
        mine, theirs = self._level(sender), self._level(target)
        if membership == "join":
            create_id, create = self.state["m.room.create", ""]
            if list(event["prev_events"]) == [create_id] and target == create["sender"]:
                return
            if sender != target:
                yield "5.2.2: one joins for oneself"
            if before == "ban":
                yield "5.2.3: banned"
            if rule != "public" and not (rule in ("invite", "knock") and before in ("invite", "join")):
                yield "5.2.6: not invited"
        elif membership == "invite":
            if by != "join":
                yield "5.3.1: the inviter is not in the room"
            if before in ("join", "ban"):
                yield "5.3.2: the target is in the room, or banned"
            if mine < self._needed_for("invite"):
                yield "5.3.4: no power to invite"
        elif membership == "leave":
            if sender == target:
                if before not in ("knock", "join", "invite"):
                    yield "5.4.1: there is nothing to leave"
                return
            if by != "join":
                yield "5.4.2: the kicker is not in the room"
            if before == "ban" and mine < self._needed_for("ban"):
                yield "5.4.3: no power to unban"
            if mine < self._needed_for("kick") or theirs >= mine:
                yield "5.4.5: no power to kick"
        elif membership == "ban":
            if by != "join":
                yield "5.5.1: the banner is not in the room"
            if mine < self._needed_for("ban") or theirs >= mine:
                yield "5.5.3: no power to ban"
        elif membership == "knock":
            if rule != "knock":
                yield "5.6.1: one does not knock here"
            if sender != target:
                yield "5.6.2: one knocks for oneself"
            if before in ("ban", "join"):
                yield "5.6.4: banned, or in the room"
        else:
            yield "5.7: what is that?"

    def _transfer(self, event: Event) -> Iterator[str]:
        content = event["content"]
        if content.get("previous_hub") != self.hub or event.get("hub_server") != self.hub:
            yield "hub: it is not the hub's to take from"
        if list(event["prev_events"]) != [content.get("head")]:
            yield "hub: it follows another head than it names"
        until = content.get("valid_until_ts")
        if not _is_integer(until):
            yield "hub: no time is given"
        elif not 0 <= until - event["origin_server_ts"] <= 60_000:
            yield "hub: it was signed too early or too late"

    def _power_levels(self, event: Event) -> Iterator[str]:
        new, level = event["content"], self._level(event["sender"])
        if any(name in new and not _is_integer(new[name]) for name in _SCALARS):
            yield "9.1: a level is no integer"
        for name in ("events", "users"):
            table = new.get(name, {})
            if not isinstance(table, Mapping) or not all(map(_is_integer, table.values())):
                yield f"9.2, 9.3: {name} holds something else than levels"
                return
        if any(not user_id.startswith("@") or ":" not in user_id for user_id in new.get("users", {})):
            yield "9.3: that is no user"
        if ("m.room.power_levels", "") not in self.state:
            return
        old = self._content("m.room.power_levels")
        tables: list[tuple[Mapping[str, Any], Mapping[str, Any], str | None]] = [
            ({name: old[name] for name in _SCALARS if name in old}, new, None),
            (old.get("events", {}), new.get("events", {}), None),
            (old.get("users", {}), new.get("users", {}), event["sender"]),
        ]
        for number, (before, after, own) in enumerate(tables):
            names = _SCALARS if number == 0 else {**before, **after}
            for name in names:
                was, is_now = before.get(name), after.get(name)
                if was == is_now:
                    continue
                if was is not None and was > level and name != own:
                    yield f"9.5, 9.6, 9.8: {name} is out of the sender's reach"
                if is_now is not None and is_now > level:
                    yield f"9.5, 9.7, 9.9: {name} is raised above the sender's own level"


def _server(identifier: str) -> str:
    return identifier.partition(":")[2]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
