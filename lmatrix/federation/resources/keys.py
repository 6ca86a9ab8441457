"""``GET /_matrix/key/v2/server``: our signing keys (I-D "Retrieving Server Keys"). Neither authenticated nor
limited."""

from __future__ import annotations

from typing import Protocol

from lmatrix.http.messages import JsonAnswer, JsonRequest


class PublishesKeys(Protocol):
    """See :class:`lmatrix.federation.own_keys.OwnKeys`."""

    def published(self) -> bytes:
        """The signed object as canonical JSON."""


class KeysResource:
    """Hands our keys out.

    Args:
        own_keys: our keys, signed.
    """

    def __init__(self, own_keys: PublishesKeys) -> None:
        self._own_keys = own_keys

    async def server(self, _request: JsonRequest) -> JsonAnswer:
        """The signed object."""
        return JsonAnswer(200, self._own_keys.published())
