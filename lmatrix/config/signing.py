"""``signing_key_path`` and ``old_signing_keys``: what this server signs with, and what it once signed with."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from lmatrix import ids
from lmatrix.config.reading import Section, Value, checked_text, mapping_of, section_of, whole
from lmatrix.crypto.keys import VerifyKey
from lmatrix.errors import LMatrixError

_MAX_TS = 2**53 - 1


@attrs.frozen(slots=True)
class OldKey:
    """A key that is no longer used, but under which older events still verify.

    Attributes:
        key: its public part, unpadded base64.
        expired_ts: when it was last used, milliseconds since the epoch.
    """

    key: str
    expired_ts: int


def _public_key(value: Value) -> str:
    found = value.scalar("str") or ""
    try:
        VerifyKey.from_base64("ed25519:unchecked", found)
    except (LMatrixError, ValueError):
        value.wrong("an ed25519 public key in unpadded base64")
    return found


def _read_old_key(section: Section) -> OldKey:
    return OldKey(
        key=section.required("key", _public_key),
        expired_ts=section.required("expired_ts", whole(0, _MAX_TS, "milliseconds since 1970")),
    )


def read_old_keys(section: Section) -> Mapping[str, OldKey]:
    """Read ``old_signing_keys`` of the top level: key ID → :class:`OldKey`."""
    key_id = checked_text(ids.key_id, "a key ID such as ed25519:a_1")
    expected = "key IDs, each with `key` and `expired_ts`"
    return section.optional("old_signing_keys", {}, mapping_of(key_id, section_of(_read_old_key), expected))
