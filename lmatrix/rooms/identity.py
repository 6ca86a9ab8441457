"""Who this server is: its name and the keys that it signs with."""

from __future__ import annotations

import attrs

from lmatrix.crypto.keys import SigningKey


@attrs.define(slots=True, eq=False)
class ServerIdentity:
    """This server's name, for ever, and its active signing keys (at least one), until they are replaced.

    Whoever signs takes ``keys`` anew each time: they are replaced, all at once, when the administrator changes them.

    Attributes:
        server_name: the I-D's server name.
        keys: active ``ed25519`` keys; everything is signed with each of them.
    """

    server_name: str = attrs.field(on_setattr=attrs.setters.frozen)
    keys: tuple[SigningKey, ...] = attrs.field(repr=False, validator=attrs.validators.min_len(1))

    def owns(self, user_id: str) -> bool:
        """Whether a user ID is one of this server's."""
        return user_id.partition(":")[2] == self.server_name
