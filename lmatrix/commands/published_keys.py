"""Asking servers for the public keys that they publish, from the command line.

Owns: :func:`fetch_keys`. It finds servers and checks their certificates as a running server does, and believes only
what a server itself has signed.

Implements the I-D's "Retrieving Server Keys", without notaries.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from lmatrix import canonical_json
from lmatrix.config.federation import FederationConfig
from lmatrix.errors import InvalidJson, LMatrixError, PeerMisbehaved, PeerUnreachable
from lmatrix.events.signatures import KnownKey
from lmatrix.federation.resources.paths import SERVER_KEYS
from lmatrix.federation.server_keys import PublishedKeys, ServerKeys
from lmatrix.federation.transport import NETWORK_ERRORS, OutgoingRequest, words_for
from lmatrix.network import Network, this_network

SECONDS = 30.0
MAX_ANSWER = 64 * 1024

Fetched = Mapping[str, Mapping[str, KnownKey] | LMatrixError]
"""By server name: its keys by key ID, or why they could not be had."""


def fetch_keys(federation: FederationConfig, servers: Sequence[str], rng: random.Random) -> Fetched:
    """Ask servers for their keys, all at one time, in a reactor of its own: to be called once in a process.

    Args:
        federation: how servers are found and reached.
        servers: server names.
        rng: chooses among SRV records.
    """
    # Imported here, because importing the reactor installs it, and few commands need one.
    from twisted.internet.task import react

    found: dict[str, Mapping[str, KnownKey] | LMatrixError] = {}

    async def main(reactor: Any) -> None:
        network = this_network(federation, reactor, rng)
        try:
            asked = [Deferred.fromCoroutine(_keys_of(server, network, reactor)) for server in servers]
            found.update(zip(servers, await gatherResults(asked), strict=True))
        finally:
            await network.transport.close()

    try:
        react(main)
    except SystemExit as left:
        if left.code:
            raise
    return found


async def _keys_of(server: str, network: Network, reactor: Any) -> Mapping[str, KnownKey] | LMatrixError:
    def too_late(*_: object) -> Any:
        raise PeerUnreachable(server, f"no answer within {SECONDS:g} seconds")

    try:
        answer = await Deferred.fromCoroutine(_asked(server, network)).addTimeout(SECONDS, reactor, too_late)
        now_ms = int(reactor.seconds() * 1000)
        return ServerKeys.of(PublishedKeys.read(server, answer, now_ms).stored(now_ms)).known
    except LMatrixError as error:
        return error
    except NETWORK_ERRORS as error:
        return PeerUnreachable(server, words_for(error))


async def _asked(server: str, network: Network) -> dict[str, Any]:
    route = await network.resolver.resolve(server)
    request = OutgoingRequest("GET", SERVER_KEYS, {"User-Agent": ["lmatrix"]}, None, repeatable=True)
    answer = await network.transport.exchange(route, request, MAX_ANSWER)
    if answer.status != 200:
        raise PeerMisbehaved(server, f"{server} answered {answer.status}")
    try:
        return canonical_json.parse_object(answer.body)
    except InvalidJson as error:
        raise PeerMisbehaved(server, f"{server} answered with no JSON: {error}") from error
