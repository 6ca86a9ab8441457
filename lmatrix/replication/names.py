"""What users are called on the other side.

Owns: the two spaces of ghosts' user IDs, and the way there and back. A remote LM user ``@bob:north.example`` is
``@lm.bob=3anorth.example:us`` on the DAG side; a user of another DAG server is ``@dag.…:us`` on the LM side, spelt
alike; our own users are called the same on both. Invariants: two users never share a name; each name leads back to its
user, without looking anything up unless the name is a *hashed* one.

The spelling: ``a``–``z``, digits and ``._-/`` stand for themselves, every other byte of the UTF-8 user ID (without its
sigil) is ``=`` and two hexadecimal digits in lower case. Where that is too long for a user ID, the name is ``+`` and
the SHA-256 of the user ID, hexadecimal; that it stands for this user must be remembered (:attr:`Names.hashed`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from lmatrix import ids
from lmatrix.errors import InvalidIdentifier
from lmatrix.replication.interfaces import DAG_GHOST_PREFIX, LM_GHOST_PREFIX

MAX_USER_ID_BYTES: Final = 255

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-/")
_ESCAPE: Final = re.compile(r"=([0-9a-f]{2})")
_HASHED: Final = re.compile(r"\+[0-9a-f]{64}")


def spelt(user_id: str) -> str:
    """A user ID as part of a localpart."""
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02x}" for byte in user_id[1:].encode())


def unspelt(text: str) -> str | None:
    """The user ID that :func:`spelt` made ``text`` of; ``None`` when it made nothing like it."""
    try:
        raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1")
        user_id = "@" + raw.decode()
    except UnicodeError:
        return None
    return user_id if spelt(user_id) == text and ":" in user_id else None


class Names:
    """The users of both sides, as one server sees them.

    Args:
        server_name: our server's name, on both sides.
        bot: the bridge bot's user ID, which stands for nobody on the LM side.
        hashed: ghost's user ID → user ID, of what was remembered.

    Attributes:
        hashed: likewise, with what has been made up since. Whoever writes with a hashed name stores it before.
    """

    def __init__(self, server_name: str, bot: str, hashed: Mapping[str, str] | None = None) -> None:
        self._server_name = server_name
        self._bot = bot
        self.hashed: dict[str, str] = dict(hashed or {})

    def is_ours(self, user_id: str) -> bool:
        """Whether a user ID has our server name, ghosts included."""
        return user_id.partition(":")[2] == self._server_name

    def is_bot(self, user_id: str) -> bool:
        """Whether it is the bridge bot."""
        return user_id == self._bot

    def is_dag_ghost(self, user_id: str) -> bool:
        """Whether a DAG user is the ghost of a remote LM user (the bot is none)."""
        return self.is_ours(user_id) and user_id.startswith("@" + DAG_GHOST_PREFIX)

    def is_person(self, user_id: str) -> bool:
        """Whether it is the user ID of one of our own people, with neither prefix and not the bot's."""
        if not self.is_ours(user_id) or self.is_bot(user_id):
            return False
        return not user_id.startswith(("@" + DAG_GHOST_PREFIX, "@" + LM_GHOST_PREFIX))

    def to_dag(self, user_id: str) -> str:
        """The DAG user for an LM user ID."""
        if not self.is_ours(user_id):
            return self._ghost(DAG_GHOST_PREFIX, user_id)
        if user_id.startswith("@" + LM_GHOST_PREFIX):
            return self._original(LM_GHOST_PREFIX, user_id) or user_id
        return user_id

    def known_on_dag(self, user_id: str) -> str | None:
        """The DAG user for a user ID that somebody on the LM side wrote; ``None`` for one that stands for nobody there.

        Nobody there may speak of the bot, or of a ghost by its DAG name: it would mean somebody else.
        """
        if self.is_bot(user_id) or self.is_dag_ghost(user_id):
            return None
        named = self.to_dag(user_id)
        return None if named == user_id and not self.is_person(user_id) else named

    def to_lm(self, user_id: str) -> str | None:
        """The LM user for a DAG user ID; ``None`` for the bot, and for a user who cannot be called anything there."""
        if self.is_bot(user_id):
            return None
        if not self.is_ours(user_id):
            return self._ghost(LM_GHOST_PREFIX, user_id)
        if user_id.startswith("@" + DAG_GHOST_PREFIX):
            return self._original(DAG_GHOST_PREFIX, user_id)
        if user_id.startswith("@" + LM_GHOST_PREFIX):
            return None  # it would be taken for the ghost of somebody else
        try:
            return ids.user_id(user_id)
        except InvalidIdentifier:
            return None  # a historical user ID, which the LM side's grammar does not know

    def _ghost(self, prefix: str, user_id: str) -> str:
        ghost = f"@{prefix}{spelt(user_id)}:{self._server_name}"
        if len(ghost.encode()) <= MAX_USER_ID_BYTES:
            return ghost
        ghost = f"@{prefix}+{sha256(user_id.encode()).hexdigest()}:{self._server_name}"
        self.hashed[ghost] = user_id
        return ghost

    def _original(self, prefix: str, ghost: str) -> str | None:
        rest = ids.localpart_of(ghost)[len(prefix) :]
        if _HASHED.fullmatch(rest):
            return self.hashed.get(ghost)
        original = unspelt(rest)
        # Of a user who is too long to be spelt, or is ours, nobody ever makes this name.
        if original is None or self.is_ours(original) or self._ghost(prefix, original) != ghost:
            return None
        return original
