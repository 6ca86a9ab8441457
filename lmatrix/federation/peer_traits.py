"""What was found out about single peers by trying.

Owns: :class:`PeerTraits` and :class:`PeerTraitsMemory`. The memory is bounded; forgetting costs a peer's next request
one more round trip, nothing else. Who wants to keep traits over a restart passes ``on_change`` and calls
:meth:`PeerTraitsMemory.seed` at start-up.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from lmatrix.events.room_versions import PathForm
from lmatrix.federation.bounded import BoundedCache

MEMORY_SIZE = 10_000


@attrs.frozen(slots=True, kw_only=True)
class PeerTraits:
    """How a peer turned out to be.

    Attributes:
        path_form: the form of the endpoints that it knows, when the other one turned out to be unknown to it.
        bare_get_signature: whether a request without a body has to be signed without ``content`` (Matrix's form) rather
            than with ``content: {}`` (the I-D's).
    """

    path_form: PathForm | None = None
    bare_get_signature: bool = False


UNKNOWN_PEER = PeerTraits()


class PeerTraitsMemory:
    """Traits by server name.

    Args:
        on_change: told of every change, with the server name; must neither block nor raise.
    """

    def __init__(self, on_change: Callable[[str, PeerTraits], None] | None = None) -> None:
        self._on_change = on_change
        self._traits: BoundedCache[str, PeerTraits] = BoundedCache(MEMORY_SIZE)

    def of(self, server_name: str) -> PeerTraits:
        """What is known; the I-D's own behaviour for a peer of which nothing is."""
        return self._traits.get(server_name) or UNKNOWN_PEER

    def seed(self, server_name: str, traits: PeerTraits) -> None:
        """Set what was known before a restart; ``on_change`` is not told."""
        self._traits.put(server_name, traits)

    def learned_path_form(self, server_name: str, form: PathForm) -> None:
        """A request in this form was understood, after the other form was not."""
        self._learned(server_name, attrs.evolve(self.of(server_name), path_form=form))

    def learned_bare_get_signature(self, server_name: str, bare: bool) -> None:
        """A signature in this form was accepted, after the other form was not."""
        self._learned(server_name, attrs.evolve(self.of(server_name), bare_get_signature=bare))

    def _learned(self, server_name: str, traits: PeerTraits) -> None:
        if traits == self.of(server_name):
            return
        self._traits.put(server_name, traits)
        if self._on_change is not None:
            self._on_change(server_name, traits)
