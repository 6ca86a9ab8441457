"""Everything that lives as long as a run: the suite's servers, the target, and the way to both.

Owns: :class:`Target` and :class:`Suite`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.ssl import CertificateOptions

from tests.conformance.exchanges import RecordingHttp, Transcript
from tests.conformance.operator import Operator
from tests.conformance.peer import Peer
from tests.end_to_end.wire_events import I1
from tests.federation.certificates import Authority


@attrs.frozen(kw_only=True)
class Target:
    """What is tested, and how it is reached.

    Attributes:
        url: of its federation listener.
        server_name: its name.
        insecure: whether its certificate is not checked.
        client_url: of its Client-Server API; ``None`` when that may not be used.
        logins: accounts on it, ``(name, password)``; without any, accounts are made.
        room: a public room on it, for when there is no ``client_url``.
        version: the room version of the rooms that are used.
        unstable: whether it knows the endpoints that are new in the I-D at their unstable paths only.
        hammer: how many requests may be made at once to see its rate limits.
    """

    url: str
    server_name: str
    insecure: bool = False
    client_url: str | None = None
    logins: tuple[tuple[str, str], ...] = ()
    room: str | None = None
    version: str = I1
    unstable: bool = False
    hammer: int = 0


@attrs.frozen(kw_only=True)
class Place:
    """Where the suite's own servers are.

    Attributes:
        host: how the target calls this machine.
        address: the IP address on which they listen.
        first_port: of the first of them, the others follow; 0 for free ports.
        certificate: what they show; ``None`` for one that nobody trusts.
    """

    host: str = "localhost"
    address: str = "127.0.0.1"
    first_port: int = 0
    certificate: CertificateOptions | None = None


class Suite:
    """One run.

    Args:
        reactor: Twisted's.
        target: what is tested.
        place: where the suite's servers are.
        rng: for names that are new to the target.

    Attributes:
        urls: where servers are, by name.
    """

    def __init__(self, reactor: Any, target: Target, place: Place, rng: random.Random) -> None:
        self.reactor = reactor
        self.target = target
        self.transcript = Transcript()
        self.http = RecordingHttp(reactor, self.transcript, insecure=target.insecure, judged=[target.url])
        self.urls = {target.server_name: target.url}
        self.run = f"{rng.getrandbits(40):010x}"
        self.operator = (
            None
            if target.client_url is None
            else Operator(target.client_url, self.http, target.logins, f"conformance{self.run}")
        )
        self._place = place
        self._certificate = place.certificate or Authority().server(place.host)
        self._peers: dict[str, Peer] = {}
        self._numbers = 0

    def peer(self, label: str = "main") -> Peer:
        """One of the suite's servers, started when it is first asked for."""
        peer = self._peers.get(label)
        if peer is None:
            port = self._place.first_port and self._place.first_port + len(self._peers)
            peer = Peer(
                self.reactor,
                self.http,
                self.urls,
                certificate=self._certificate,
                transcript=self.transcript,
                address=self._place.address,
                port=port,
                host=self._place.host,
                key_version=f"{label}_{self.run}",
            )
            peer.start()
            self._peers[label] = peer
        return peer

    def peers(self) -> Sequence[Peer]:
        """Those that were started."""
        return tuple(self._peers.values())

    def number(self) -> int:
        """A number that was not given out before."""
        self._numbers += 1
        return self._numbers

    async def stop(self) -> None:
        """End all servers and connections."""
        for peer in self._peers.values():
            await peer.stop()
        await self.http.close()
