"""Traits of peers survive a restart, and do not disturb what else is kept of a destination."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import StorageFailed
from lmatrix.events.room_versions import PathForm
from lmatrix.peer_memory import StoredPeerTraits
from lmatrix.rooms.delivery_store import DestinationState
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores

PEER = "peer.example"


class Memory(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = InlineDatabase()
        self.stores = Stores.create()

    def memory(self) -> StoredPeerTraits:
        """As a newly started server has it."""
        traits = StoredPeerTraits(self.database, self.stores.delivery, self.stores.pending_lpdus)
        self.successResultOf(Deferred.fromCoroutine(traits.load()))
        return traits

    def state(self) -> DestinationState | None:
        return self.successResultOf(
            self.database.read(lambda tx: self.stores.delivery.destination(tx, PEER))  # type: ignore[arg-type]
        )

    def test_survives_a_restart(self) -> None:
        """What was learned is known again to a new server that owes the peer something."""
        first = self.memory()
        first.memory.learned_path_form(PEER, PathForm.UNSTABLE)
        first.memory.learned_bare_get_signature(PEER, True)
        self.database.write(lambda tx: self.stores.delivery.add_edu(tx, PEER, {"type": "x"}))
        traits = self.memory().memory.of(PEER)
        self.assertEqual((traits.path_form, traits.bare_get_signature), (PathForm.UNSTABLE, True))

    def test_back_off_stays(self) -> None:
        """Writing a trait changes nothing else that is kept of the destination."""
        before = DestinationState(retry_at_ms=5, failing_since_ms=4, interval_ms=1)
        self.database.write(lambda tx: self.stores.delivery.put_destination(tx, PEER, before))
        self.memory().memory.learned_path_form(PEER, PathForm.STABLE)
        after = self.state()
        assert after is not None
        self.assertEqual((after.retry_at_ms, after.failing_since_ms, after.path_form), (5, 4, "stable"))

    def test_failed_write(self) -> None:
        """A trait that cannot be stored is known until the next start, and the failure is logged."""
        memory = self.memory().memory
        self.database.fail_commits = 1
        memory.learned_path_form(PEER, PathForm.UNSTABLE)
        self.assertEqual(memory.of(PEER).path_form, PathForm.UNSTABLE)
        self.assertEqual(len(self.flushLoggedErrors(StorageFailed)), 1)
