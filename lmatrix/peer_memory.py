"""What was found out about peers, kept over a restart.

Owns: writing a peer's traits beside its back-off as they are learned, and reading them again at start-up for those
peers that something is owed to: these are asked first. A trait that is lost costs one request more, so that a write
that fails is logged and nothing else.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.events.room_versions import PathForm
from lmatrix.federation.peer_traits import PeerTraits, PeerTraitsMemory
from lmatrix.rooms.delivery_store import DeliveryStore, DestinationState
from lmatrix.rooms.interfaces import Database, PendingLpduStore


class StoredPeerTraits:
    """Keeps the traits of peers.

    Args:
        database, store: where they are kept.
        pending: names further peers that something is owed to.

    Attributes:
        memory: for those who learn and ask.
    """

    log = Logger()

    def __init__(self, database: Database, store: DeliveryStore, pending: PendingLpduStore) -> None:
        self.memory = PeerTraitsMemory(self._learned)
        self._database = database
        self._store = store
        self._pending = pending

    async def load(self) -> None:
        """Fill the memory at start-up. Raises :class:`~lmatrix.errors.StorageFailed`."""

        def work(tx: Any) -> dict[str, DestinationState]:
            names = {*self._store.all_owing(tx), *self._pending.hubs(tx)}
            states = {name: self._store.destination(tx, name) for name in names}
            return {name: state for name, state in states.items() if state is not None}

        for name, state in (await self._database.read(work)).items():
            form = None if state.path_form is None else PathForm(state.path_form)
            self.memory.seed(name, PeerTraits(path_form=form, bare_get_signature=state.bare_get_signature))

    def _learned(self, server_name: str, traits: PeerTraits) -> None:
        form = None if traits.path_form is None else traits.path_form.value

        def work(tx: Any) -> None:
            before = self._store.destination(tx, server_name) or DestinationState()
            after = attrs.evolve(before, path_form=form, bare_get_signature=traits.bare_get_signature)
            self._store.put_destination(tx, server_name, after)

        writing: Deferred[None] = self._database.write(work)
        writing.addErrback(
            lambda failure: self.log.failure(
                "what was found out about {server} could not be stored", failure=failure, server=server_name
            )
        )
