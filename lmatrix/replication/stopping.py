"""Ending a mirror, and saying so on both sides.

Owns: :class:`Stopper`. In the DAG room the bot says why; in the LM room our users leave with the reason, since nothing
that is said there reaches them any more. Each step is carried out again after a crash, until the mirror is stopped.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from lmatrix.errors import LMatrixError, SendFailed
from lmatrix.replication.dag_writing import DagWriter
from lmatrix.replication.interfaces import DagRefused, Stage
from lmatrix.replication.pairs import Pair
from lmatrix.replication.sides import Sides
from lmatrix.replication.worker import is_passing

ENCRYPTED: Final = (
    "This room is encrypted. What is encrypted for one sender's keys cannot be sent by another, so that it cannot be"
    " carried over between Linearized Matrix and Matrix."
)


class Stopper:
    """Ends mirrors.

    Args:
        sides: both sides.
        writer: writes on the DAG side.
    """

    log = Logger()

    def __init__(self, sides: Sides, writer: DagWriter) -> None:
        self._sides = sides
        self._writer = writer

    async def stop(self, pair: Pair, reason: str) -> None:
        """End a mirror. Raises what is_passing; then it goes on as before, and stopping is to be tried again."""
        self.log.warn(
            "{room_id}: the mirror {dag_room_id} stops: {reason}",
            room_id=pair.lm_room_id,
            dag_room_id=pair.dag_room_id,
            reason=reason,
        )
        try:
            await self._writer.notice(pair, f"This room is not mirrored any more. {reason}", f"stop{pair.nid}")
        except DagRefused as error:
            self.log.warn("{room_id}: that could not be said there: {error}", room_id=pair.dag_room_id, error=error)
        await self._leave(pair, reason)
        await self._sides.pairs.move(pair, Stage.STOPPED, reason)

    async def _leave(self, pair: Pair, reason: str) -> None:
        room = await self._sides.room(pair)
        ours = [] if room is None else [member.state_key for member in room.state.members()]
        for user_id in ours:
            if room is None or not self._sides.names.is_ours(user_id) or room.membership(user_id) != "join":
                continue
            try:
                await self._sides.local_users.leave(user_id, pair.lm_room_id, reason)
            except SendFailed as error:
                self.log.info("{user_id} leaves later: {error}", user_id=user_id, error=error)
            except LMatrixError as error:
                if is_passing(error):
                    raise
                self.log.warn("{user_id} could not leave: {error}", user_id=user_id, error=error)
