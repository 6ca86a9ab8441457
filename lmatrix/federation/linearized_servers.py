"""Which servers speak Linearized Matrix and nothing else.

Owns: :class:`LinearizedServers`, which asks a server for its keys (I-D "Retrieving Server Keys") and looks for
``m.linearized``. What was learned is kept for an hour; a server that does not answer is asked again a minute later, and
counts as one that speaks all of Matrix meanwhile.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.errors import PeerError
from lmatrix.federation.bounded import BoundedCache, SingleFlight
from lmatrix.federation.key_fetching import PublicClient
from lmatrix.federation.resources.paths import SERVER_KEYS

TIMEOUT_S = 5.0
KEPT_S = 3600.0
KEPT_WITHOUT_ANSWER_S = 60.0
CACHE_SIZE = 10_000


@attrs.frozen(slots=True)
class _Learned:
    linearized: bool
    until: float


class LinearizedServers:
    """Tells which servers are linearized ones.

    Args:
        client: asks them.
        clock: tells the time.
    """

    def __init__(self, client: PublicClient, clock: IReactorTime) -> None:
        self._client = client
        self._clock = clock
        self._learned: BoundedCache[str, _Learned] = BoundedCache(CACHE_SIZE)
        self._asking: SingleFlight[str, bool] = SingleFlight()

    async def is_linearized(self, server: str) -> bool:
        """Whether a server says that it is. Takes a few seconds at most; never raises."""
        known = self._learned.get(server)
        if known is not None and self._clock.seconds() < known.until:
            return known.linearized
        return await self._asking.do(server, lambda: self._ask(server))

    async def _ask(self, server: str) -> bool:
        linearized, kept = False, KEPT_S
        try:
            answer = await self._client.get_public(server, SERVER_KEYS, timeout_s=TIMEOUT_S)
            linearized = answer.get("m.linearized") is True
        except PeerError:
            kept = KEPT_WITHOUT_ANSWER_S
        self._learned.put(server, _Learned(linearized, self._clock.seconds() + kept))
        return linearized
