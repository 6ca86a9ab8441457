"""What an event's content says of other events and of users, and saying it in the other side's words.

Owns: :func:`references`, the events that a content names, and :func:`rewritten`, the content with users and events
named as on the other side. What names nobody passes through as it is: text, media links, anything unknown.

An event that the other side does not have cannot be named there. A reply or an edit of it stays as a plain message;
what is nothing without it (a reaction) is :class:`Unmappable`.

Source: Matrix specification v1.11, client-server API "Relationships", "User and room mentions", "Rich replies".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import attrs

JsonObject = dict[str, Any]
RenameUser = Callable[[str], "str | None"]

_LINK: Final = re.compile(r"https://matrix\.to/#/((?:@|%40)[^\"'?&#\s<>]+)")
_MEANINGLESS_ALONE: Final = frozenset({"m.annotation", "m.reference"})


class Unmappable(Exception):
    """The other side has no way to say this.

    Args:
        cause: a fixed word, for metrics.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@attrs.frozen(slots=True)
class Renaming:
    """The other side's names.

    Attributes:
        user: a user's name there; ``None`` when the user has none.
        events: event ID → event ID, of those events that are known there.
    """

    user: RenameUser
    events: Mapping[str, str]


def references(event_type: str, content: Mapping[str, Any]) -> set[str]:
    """The event IDs that a content names, redactions' targets not among them."""
    found: set[str] = set()
    relation = content.get("m.relates_to")
    if isinstance(relation, Mapping):
        reply = relation.get("m.in_reply_to")
        named = [relation.get("event_id"), reply.get("event_id") if isinstance(reply, Mapping) else None]
        found.update(event_id for event_id in named if isinstance(event_id, str))
    if event_type == "m.room.pinned_events" and isinstance(content.get("pinned"), list):
        found.update(event_id for event_id in content["pinned"] if isinstance(event_id, str))
    return found


def rewritten(event_type: str, content: Mapping[str, Any], renaming: Renaming) -> JsonObject:
    """The content as the other side would say it. ``content`` is left alone.

    Raises:
        Unmappable: it is about an event that the other side does not have, and about nothing else.
    """
    written = _with_users(content, renaming.user)
    if isinstance(written.get("m.new_content"), Mapping):
        written["m.new_content"] = _with_users(written["m.new_content"], renaming.user)
    relation = written.pop("m.relates_to", None)
    if isinstance(relation, Mapping):
        related = _relation(relation, renaming.events)
        if related:
            written["m.relates_to"] = related
        if relation.get("rel_type") == "m.replace" and "rel_type" not in related:
            written.pop("m.new_content", None)
    if event_type == "m.room.pinned_events" and isinstance(written.get("pinned"), list):
        written["pinned"] = [
            renaming.events[event_id]
            for event_id in written["pinned"]
            if isinstance(event_id, str) and event_id in renaming.events
        ]
    return written


def _relation(relation: Mapping[str, Any], events: Mapping[str, str]) -> JsonObject:
    related = dict(relation)
    target = related.get("event_id")
    if isinstance(target, str):
        if target in events:
            related["event_id"] = events[target]
        elif related.get("rel_type") in _MEANINGLESS_ALONE:
            raise Unmappable("unknown_target")
        else:
            for field in ("event_id", "rel_type", "is_falling_back"):
                related.pop(field, None)
    reply = related.get("m.in_reply_to")
    if isinstance(reply, Mapping) and isinstance(reply.get("event_id"), str):
        if reply["event_id"] in events:
            related["m.in_reply_to"] = {**reply, "event_id": events[reply["event_id"]]}
        else:
            del related["m.in_reply_to"]
    return related


def _with_users(content: Mapping[str, Any], rename: RenameUser) -> JsonObject:
    written = dict(content)
    mentions = written.get("m.mentions")
    if isinstance(mentions, Mapping) and isinstance(mentions.get("user_ids"), list):
        renamed = (rename(user_id) for user_id in mentions["user_ids"] if _is_user_id(user_id))
        written["m.mentions"] = {**mentions, "user_ids": [user_id for user_id in renamed if user_id is not None]}
    if isinstance(written.get("formatted_body"), str):
        written["formatted_body"] = _LINK.sub(lambda link: _link(link, rename), written["formatted_body"])
    return written


def _link(link: re.Match[str], rename: RenameUser) -> str:
    user_id = unquote(link[1])
    renamed = rename(user_id) if _is_user_id(user_id) else None
    return link[0] if renamed is None else f"https://matrix.to/#/{quote(renamed, safe='@:=_-.+')}"


def _is_user_id(value: object) -> bool:
    return isinstance(value, str) and value.startswith("@") and ":" in value
