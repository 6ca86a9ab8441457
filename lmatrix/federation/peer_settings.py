"""What the configuration says about single peers.

Owns: :class:`PeerSettings` and :class:`PeerSettingsTable`, which knows the defaults for everybody else.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(slots=True, kw_only=True)
class PeerSettings:
    """How one peer wants to be treated (configuration: ``federation.peers.<server name>``).

    Attributes:
        plaintext: speak HTTP without TLS to it. For loopback and trusted networks only. No well-known or SRV look-ups
            are made for such a peer: its name is its address (port 8448 when it has none).
        concurrent_transactions: it sends transactions before the last was answered; queue them instead of answering
            ``M_BAD_STATE``.
        one_event_per_transaction: it stops at the first bad event of a transaction, or loses events of longer ones.
    """

    plaintext: bool = False
    concurrent_transactions: bool = False
    one_event_per_transaction: bool = False


DEFAULT_PEER_SETTINGS = PeerSettings()


class PeerSettingsTable:
    """Settings by server name.

    Args:
        peers: the peers that the configuration names.
    """

    def __init__(self, peers: Mapping[str, PeerSettings] | None = None) -> None:
        self._peers = dict(peers or {})

    def of(self, server_name: str) -> PeerSettings:
        """The peer's settings; the defaults when the configuration does not name it."""
        return self._peers.get(server_name, DEFAULT_PEER_SETTINGS)
