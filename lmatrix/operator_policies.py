"""The policies that the operator has configured, put together, and put together anew when the configuration is reread.

Owns: :class:`OperatorPolicies`: from the section ``policies`` to the panel that the rooms ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.config import Config, ConfigError
from lmatrix.config.policies import make_modules
from lmatrix.metrics import Metrics
from lmatrix.policies.builtin import BlockedRooms, InviteRules
from lmatrix.policies.modules import ModuleProblem
from lmatrix.policies.panel import Panel
from lmatrix.rooms.interfaces import Database


class SharedRooms(Protocol):
    """See :class:`lmatrix.storage.sharing.SqlSharingStore`."""

    def servers_share_a_room(self, tx: Any, server_name: str, other: str) -> bool: ...


class OperatorPolicies:
    """The configured policies.

    Args:
        config: the configuration.
        reread: reads the configuration file again; ``None`` where there is none.
        clock: for the policies' time limits.
        metrics: counts refusals.

    Attributes:
        panel: what the rooms ask.

    Raises:
        ModuleProblem: a module cannot be used.
    """

    log = Logger()

    def __init__(
        self, config: Config, reread: Callable[[], Config] | None, *, clock: IReactorTime, metrics: Metrics
    ) -> None:
        self._reread = reread
        self._clock = clock
        self._shares: Callable[[str], Any] | None = None
        self._server_name = config.server_name
        self.panel = Panel(self._made(config), clock=clock, metrics=metrics)

    def attach(self, database: Database, sharing: SharedRooms) -> None:
        """Complete the circle: who shares rooms with whom is known to the database, which is built later."""
        ours = self._server_name

        async def shares(server: str) -> bool:
            return await database.read(lambda tx: sharing.servers_share_a_room(tx, ours, server))

        self._shares = shares

    def reload(self) -> bool:
        """Read the configuration again and use its section ``policies``; whether that could be done. If not, all stays
        as it was, and the log says why.
        """
        if self._reread is None:
            return False
        try:
            policies = self._made(self._reread())
        except (ConfigError, ModuleProblem) as error:
            self.log.error("the policies stay as they were: {error}", error=error)
            return False
        self.panel.replace(policies)
        self.log.info("the policies have been read again")
        return True

    def _made(self, config: Config) -> Sequence[object]:
        section = config.policies
        made: list[object] = []
        if section.blocked_rooms:
            made.append(BlockedRooms(section.blocked_rooms.ids, section.blocked_rooms.servers))
        if section.invites:
            made.append(
                InviteRules(
                    self._server_name,
                    blocked_servers=section.invites.blocked_servers,
                    blocked_users=section.invites.blocked_users,
                    allowed_servers=section.invites.allowed_servers,
                    shares_a_room=self._shares_a_room if section.invites.only_from_shared_rooms else None,
                    clock=self._clock,
                )
            )
        return [*made, *make_modules(section, self._server_name)]

    async def _shares_a_room(self, server: str) -> bool:
        return self._shares is not None and bool(await self._shares(server))
