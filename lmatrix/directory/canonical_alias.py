"""What a room calls itself: ``m.room.canonical_alias`` (Client-Server API v1.11, same heading).

Owns: :class:`CanonicalAliases`. A local user's event may newly name only aliases that lead to the room; what the event
before it named already is not looked at again, so that an alias which has gone bad can be dropped with the others kept.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix import ids
from lmatrix.directory.interfaces import AliasTarget, LoadsRooms, SendsEvents
from lmatrix.directory.naming_power import CANONICAL_ALIAS
from lmatrix.errors import BadAlias, InvalidIdentifier, InvalidParam, LMatrixError, NotFound, PeerError
from lmatrix.rooms.room import Room

MAX_NAMED = 50
"""Aliases that one event names."""

_AT_ONCE = 10


class CanonicalAliases:
    """Looks after what rooms call themselves.

    Args:
        find: where an alias leads (see :meth:`lmatrix.directory.aliases.Aliases.find`).
        rooms: what they call themselves now.
        sender: sends events.
    """

    log = Logger()

    def __init__(self, find: Callable[[str], Awaitable[AliasTarget]], rooms: LoadsRooms, sender: SendsEvents) -> None:
        self._find = find
        self._rooms = rooms
        self._sender = sender

    async def check(self, room_id: str, content: Mapping[str, Any]) -> None:
        """Return if a local user may send an ``m.room.canonical_alias`` with this content.

        Raises:
            InvalidParam: it names what cannot be an alias, or too many.
            BadAlias: it names an alias that does not lead to the room.
        """
        wanted = aliases_named(content)
        room = await self._rooms.load(room_id)
        before = None if room is None else room.state.get(CANONICAL_ALIAS)
        new = wanted if before is None else wanted - _strings(before.content)
        slots = DeferredSemaphore(_AT_ONCE)
        checking = [
            slots.run(lambda one: Deferred.fromCoroutine(self._check(room_id, one)), one) for one in sorted(new)
        ]
        try:
            await gatherResults(checking, consumeErrors=True)
        except Exception as error:
            # Of several that are wrong the first one found is told.
            first = getattr(error, "subFailure", None)
            if isinstance(first, Failure):
                first.raiseException()
            raise

    async def withdraw(self, room: Room, alias: str, user_id: str) -> None:
        """After an alias was removed: the room drops it from what it calls itself, as far as the user may do so."""
        event = room.state.get(CANONICAL_ALIAS)
        if event is None or alias not in _strings(event.content):
            return
        content = {key: value for key, value in event.content.items() if key != "alias" or value != alias}
        if isinstance(content.get("alt_aliases"), list):
            content["alt_aliases"] = [one for one in content["alt_aliases"] if one != alias]
        try:
            await self._sender.send(room.room_id, user_id, CANONICAL_ALIAS, content, state_key="")
        except LMatrixError as error:
            # The alias is gone all the same, and that is what was asked for.
            self.log.warn(
                "{room_id}: {alias} is removed, and the room still calls itself so: {error}",
                room_id=room.room_id,
                alias=alias,
                error=error,
            )

    async def _check(self, room_id: str, alias: str) -> None:
        try:
            target = await self._find(alias)
        except NotFound as error:
            raise BadAlias(alias, "is not known") from error
        except PeerError as error:
            raise BadAlias(alias, f"cannot be looked up: {error}") from error
        if target.room_id != room_id:
            raise BadAlias(alias, "leads to another room")


def aliases_named(content: Mapping[str, Any]) -> frozenset[str]:
    """The aliases that an ``m.room.canonical_alias`` names.

    Raises:
        InvalidParam: something that cannot be an alias is named as one, or too many are.
    """
    alias, others = content.get("alias"), content.get("alt_aliases")
    if others is not None and not isinstance(others, list):
        raise InvalidParam("alt_aliases", "must be a list")
    named = [*([] if alias in (None, "") else [alias]), *(others or ())]
    if len(named) > MAX_NAMED:
        raise InvalidParam("alt_aliases", f"{len(named)} aliases; {MAX_NAMED} are allowed")
    try:
        return frozenset(map(ids.room_alias, named))
    except InvalidIdentifier as problem:
        raise InvalidParam("alias", str(problem)) from problem


def _strings(content: Mapping[str, Any]) -> frozenset[str]:
    """What a room calls itself, whoever said so."""
    others = content.get("alt_aliases")
    named = [content.get("alias"), *(others if isinstance(others, list) else ())]
    return frozenset(one for one in named if isinstance(one, str))
