"""Who this server is: its name and the keys that it signs with."""

from __future__ import annotations

import attrs

from lmatrix.crypto.keys import SigningKey


@attrs.frozen(slots=True)
class ServerIdentity:
    """This server's name and its active signing keys (at least one).

    Attributes:
        server_name: the I-D's server name.
        keys: active ``ed25519`` keys; everything is signed with each of them.
    """

    server_name: str
    keys: tuple[SigningKey, ...] = attrs.field(repr=False, validator=attrs.validators.min_len(1))

    def owns(self, user_id: str) -> bool:
        """Whether a user ID is one of this server's."""
        return user_id.partition(":")[2] == self.server_name
