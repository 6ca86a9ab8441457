"""What is remembered of other servers' published signing keys, and where: the values and the store's interface.

Owns: :class:`StoredKey`, :class:`StoredServerKeys`, :class:`StoredResponse` and the protocol :class:`ServerKeyStore`
between the keyring (which fetches and checks) and the storage (which keeps).

Invariant: a key that was once stored is never forgotten. A server may rotate its keys without listing the old ones, and
events of years ago must stay checkable (I-D "Retrieving Server Keys": distinct key IDs are cached indefinitely).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import attrs


@attrs.frozen(slots=True)
class StoredKey:
    """One public key of a server.

    Attributes:
        key_id: for example ``"ed25519:1"``.
        public: the public key, unpadded base64.
        valid_until_ts: milliseconds since the epoch until which it may authenticate requests, already capped; 0 for a
            key that the server does not sign with any more.
        expired_ts: milliseconds since the epoch when the server ceased to use it; ``None`` while it is under
            ``verify_keys``.
        notary: the server on whose word alone it is known; ``None`` when it is known from its own server.
    """

    key_id: str
    public: str
    valid_until_ts: int
    expired_ts: int | None
    notary: str | None = None


@attrs.frozen(slots=True)
class StoredServerKeys:
    """All keys that are known of one server.

    Attributes:
        server_name: whose they are.
        keys: one for each key ID.
        fetched_ts: milliseconds since the epoch of the last successful fetch from the server itself; 0 when there was
            none.
        response: the server's last answer to ``/_matrix/key/v2/server``, canonical JSON, with its signatures (for
            those who ask us as a notary); ``None`` when it never answered.
    """

    server_name: str
    keys: tuple[StoredKey, ...]
    fetched_ts: int
    response: bytes | None


@attrs.frozen(slots=True)
class StoredResponse:
    """One answer of a server to ``/_matrix/key/v2/server``.

    Attributes:
        fetched_ts: milliseconds since the epoch.
        response: canonical JSON, with the server's own signatures.
    """

    fetched_ts: int
    response: bytes


class ServerKeyStore(Protocol):
    """Where fetched keys are kept. A method takes the transaction first and never commits."""

    def get(self, tx: Any, server_name: str) -> StoredServerKeys | None:
        """Every key ever stored for the server; ``None`` when nothing ever was."""

    def put(self, tx: Any, keys: StoredServerKeys) -> None:
        """Replace the response and the fetch time (unless ``response`` is ``None``), and each key whose ID is in
        ``keys``; keep keys with other IDs as they are.
        """

    def responses(self, tx: Any, server_name: str) -> Sequence[StoredResponse]:
        """The server's last response, and then the past ones that are kept, newest first."""

    def put_past(self, tx: Any, server_name: str, responses: Sequence[StoredResponse]) -> None:
        """Replace the past responses that are kept, all of them; newest first."""
