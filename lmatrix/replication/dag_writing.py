"""Writing into DAG rooms as ghosts, with the bot's help.

Owns: :class:`DagWriter`. What the LM side has accepted is not for the DAG side to refuse: where a ghost may not do it,
the bot lets the ghost in, or does it in its place. Only when the bot may not either, it is :class:`DagRefused`.
"""

from __future__ import annotations

from typing import Final

from lmatrix.replication.interfaces import SOURCE, DagRefused, DagWrite, JsonObject, MembershipWrite
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import Sides, correction_of
from lmatrix.replication.translation import MEMBER, REDACTION, Translated

_LETTING_IN: Final = "its server takes part through a mirror"


class DagWriter:
    """Writes on the DAG side.

    Args:
        sides: both sides.
    """

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    async def write(self, pair: Pair, sender: str, what: Translated, reference: str, ts: int | None) -> str:
        """Write an event as a ghost that exists; returns its event ID.

        Args:
            what: with our mark in its content.
            reference: an event ID, from which the transaction ID is made.
            ts: when it was sent, milliseconds since the epoch.

        Raises:
            DagRefused: neither the ghost nor the bot may.
            DagUnavailable: not now; it may have been written or not.
        """
        if what.type == MEMBER:
            return await self._membership(pair, sender, what, reference, ts)
        try:
            return await self._send(pair, sender, what, reference, ts)
        except DagRefused:
            if what.state_key is not None or what.type == REDACTION:
                return await self._send(pair, self._sides.dag.bot, what, reference, ts)
            # Somebody may have thrown the ghost out; that the LM side has it in the room counts for more.
            await self._let_in(pair, sender, reference)
            return await self._send(pair, sender, what, reference, ts)

    async def _send(self, pair: Pair, sender: str, what: Translated, reference: str, ts: int | None) -> str:
        write = DagWrite(
            room_id=pair.dag_room_id,
            sender=sender,
            type=what.type,
            content=what.content,
            transaction_id=transaction_id("w", reference),
            state_key=what.state_key,
            origin_server_ts=ts,
        )
        return await self._sides.dag.send(write)

    async def _membership(self, pair: Pair, sender: str, what: Translated, reference: str, ts: int | None) -> str:
        target = what.state_key or ""
        content = dict(what.content)
        membership = str(content.pop("membership"))
        try:
            return await self.set_membership(pair, sender, target, membership, content, reference, ts)
        except DagRefused:
            if membership == "join":
                await self._invite(pair, target, reference)
            elif sender == target:
                raise
            else:
                sender = self._sides.dag.bot
        return await self.set_membership(pair, sender, target, membership, content, reference, ts)

    async def set_membership(
        self,
        pair: Pair,
        sender: str,
        target: str,
        membership: str,
        content: JsonObject,
        reference: str,
        ts: int | None = None,
    ) -> str:
        """Change a membership, as it is asked for; returns the event ID. Raises as :meth:`write`."""
        write = MembershipWrite(
            room_id=pair.dag_room_id,
            sender=sender,
            target=target,
            membership=membership,
            content=content,
            transaction_id=transaction_id(f"m-{membership}", reference),
            origin_server_ts=ts,
        )
        return await self._sides.dag.set_membership(write)

    async def remove(self, pair: Pair, target: str, reason: str, reference: str) -> str:
        """The bot removes a user from the room, or takes an invite back."""
        return await self.set_membership(pair, self._sides.dag.bot, target, "leave", {"reason": reason}, reference)

    async def redact(self, pair: Pair, event_id: str, reason: str) -> str:
        """The bot redacts an event that the LM side refused."""
        content = {"redacts": event_id, "reason": reason, SOURCE: correction_of(event_id, pair.dag_room_id)}
        what = Translated(REDACTION, None, content)
        return await self._send(pair, self._sides.dag.bot, what, f"r{event_id}", None)

    async def notice(self, pair: Pair, text: str, reference: str) -> None:
        """The bot says something in the room."""
        content = {"msgtype": "m.notice", "body": text}
        await self._send(pair, self._sides.dag.bot, Translated("m.room.message", None, content), reference, None)

    async def _let_in(self, pair: Pair, ghost: str, reference: str) -> None:
        try:
            await self.set_membership(pair, ghost, ghost, "join", {}, f"i{reference}")
        except DagRefused:
            await self._invite(pair, ghost, reference)
            await self.set_membership(pair, ghost, ghost, "join", {}, f"j{reference}")

    async def _invite(self, pair: Pair, target: str, reference: str) -> None:
        bot = self._sides.dag.bot
        try:
            await self.set_membership(pair, bot, target, "invite", {"reason": _LETTING_IN}, reference)
        except DagRefused:
            # One who is banned is not invited before the ban is lifted.
            await self.set_membership(pair, bot, target, "leave", {"reason": _LETTING_IN}, f"u{reference}")
            await self.set_membership(pair, bot, target, "invite", {"reason": _LETTING_IN}, f"v{reference}")


def transaction_id(kind: str, reference: str) -> str:
    """A transaction ID for what is done because of an event."""
    return f"lm-{kind}-" + "".join(char if char.isascii() and char.isalnum() else "." for char in reference)[:80]
