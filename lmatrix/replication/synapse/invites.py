"""Invites to users of Linearized Matrix providers, by the IDs under which people know them.

Owns: :class:`RealInvites`. In a room of Synapse's such a user is a ghost with an ID of this server. Who invites
``@bob:north.example`` would have Synapse ask that server in a language that it does not speak. So the invite is
refused, with words that say what happens instead: the ghost is invited, in the inviter's name.

Synapse holds the room while it asks, so that the ghost is invited after the answer. Administrators of the server are
not asked about: they invite the ghost themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.errors import LMatrixError
from lmatrix.ids import server_of
from lmatrix.replication.interfaces import DagServer, MembershipWrite
from lmatrix.replication.names import Names
from lmatrix.replication.synapse.internals import Internals

NOT_SPAM = "NOT_SPAM"
"""Synapse's word for "go on"."""

IsLinearized = Callable[[str], Awaitable[bool]]
"""Whether a server speaks Linearized Matrix only."""


class RealInvites:
    """Turns invites to real user IDs into invites to ghosts.

    Args:
        internals: the way into Synapse.
        dag: invites.
        is_linearized: which servers it is about.
        reactor: for the time after the answer.
        transaction_id: makes transaction IDs.
    """

    log = Logger()

    def __init__(
        self,
        internals: Internals,
        dag: DagServer,
        is_linearized: IsLinearized,
        reactor: Any,
        transaction_id: Callable[[], str],
    ) -> None:
        self._internals = internals
        self._dag = dag
        self._names = Names(dag.server_name, dag.bot)
        self._is_linearized = is_linearized
        self._reactor = reactor
        self._transaction_id = transaction_id

    def install(self) -> None:
        """Have Synapse ask from now on."""
        self._internals.ask_about_invites(self._asked)

    async def _asked(self, inviter: str, invitee: str, room_id: str) -> Any:
        server = server_of(invitee)
        if server == self._dag.server_name:
            return NOT_SPAM
        if not await self._internals.outside(lambda: self._is_linearized(server)):
            return NOT_SPAM
        ghost = self._names.to_dag(invitee)
        self._reactor.callLater(0, self._begin, inviter, invitee, ghost, room_id)
        return self._internals.forbidden(
            f"{invitee} is with a provider of Linearized Matrix, and is being invited as {ghost}, the ID under which "
            "they will be in this room. There is nothing left to do."
        )

    def _begin(self, inviter: str, invitee: str, ghost: str, room_id: str) -> None:
        inviting = Deferred.fromCoroutine(self._invite(inviter, invitee, ghost, room_id))
        inviting.addErrback(
            lambda failure: self.log.failure("{ghost} could not be invited", failure=failure, ghost=ghost)
        )

    async def _invite(self, inviter: str, invitee: str, ghost: str, room_id: str) -> None:
        try:
            await self._dag.ensure_ghost(ghost, None)
            write = MembershipWrite(room_id, inviter, ghost, "invite", {}, self._transaction_id())
            await self._dag.set_membership(write)
        except LMatrixError as error:
            self.log.info(
                "{room_id}: {inviter} could not invite {ghost}: {error}",
                room_id=room_id,
                inviter=inviter,
                ghost=ghost,
                error=error,
            )
            await self._dag.tell_user(inviter, f"{invitee} could not be invited: {error}")
