"""The file that holds a server's signing keys.

Owns: its format and its permissions. One key in a line, ``ed25519 VERSION SEED`` with the seed in unpadded base64,
which is what ``signedjson`` (and with it Synapse) reads and writes.

Invariants: only the owner may read the file, or it is refused; an existing file is never overwritten but by
:func:`replace_signing_keys`, which replaces it as a whole; no error repeats what the file holds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from lmatrix.crypto.keys import InvalidKey, SigningKey
from lmatrix.crypto.private_file import PrivateFileError, read_private, write_private
from lmatrix.crypto.whole_file import replace_file
from lmatrix.errors import LMatrixError

_MAX_BYTES = 64 * 1024


class KeyFileError(LMatrixError):
    """A key file that is malformed, readable by others, or in the way of a new one.

    Args:
        path: the file.
        reason: what is wrong, and what to do where that is known.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"signing key file {path}: {reason}")
        self.path = path
        self.reason = reason


def read_signing_keys(path: str | os.PathLike[str]) -> tuple[SigningKey, ...]:
    """Read a key file: at least one key, in the order of the file. Empty lines do not matter.

    Raises:
        KeyFileError: the group or others have any access to it, or it is malformed.
        OSError: it cannot be read.
    """
    path = Path(path)
    text = _read_private(path)
    keys: list[SigningKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key = SigningKey.from_line(line)
        except InvalidKey as error:
            raise KeyFileError(path, f"line {number}: {error}") from None
        if any(key.key_id == other.key_id for other in keys):
            raise KeyFileError(path, f"line {number}: the key ID {key.key_id} is there twice")
        keys.append(key)
    if not keys:
        raise KeyFileError(path, "no key in it")
    return tuple(keys)


def write_new_signing_key(path: str | os.PathLike[str], version: str, rng: random.Random | None = None) -> SigningKey:
    """Make a signing key and write it to a new file, which only its owner can read. On disk when this returns.

    Args:
        path: the file; its directory must exist.
        version: the key's version, for example by :func:`new_key_version`.
        rng: where the key comes from. The operating system's randomness by default, and nothing else is safe outside of
            tests.

    Raises:
        KeyFileError: the file exists already.
        InvalidKey: a malformed version.
        OSError: it cannot be written.
    """
    path = Path(path)
    key = SigningKey.generate(version, (rng or random.SystemRandom()).randbytes(32))
    try:
        write_private(path, key.to_line() + "\n")
    except FileExistsError:
        raise KeyFileError(path, "exists already; it is not overwritten") from None
    return key


def replace_signing_keys(path: str | os.PathLike[str], keys: Sequence[SigningKey]) -> None:
    """Write other keys into an existing key file, which stays its owner's. The old ones are gone when this returns.

    Raises:
        OSError: it cannot be written; then it is what it was.
    """
    path = Path(path)
    replace_file(path, "".join(key.to_line() + "\n" for key in keys), 0o600, owner_of=path)


def new_key_version(rng: random.Random) -> str:
    """A version for a new key, ``a_`` and four letters: unlike that of any key which the server had before."""
    return "a_" + "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=4))


def _read_private(path: Path) -> str:
    try:
        data = read_private(path, _MAX_BYTES)
    except PrivateFileError as error:
        raise KeyFileError(path, error.reason) from None
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(path, "not text; is it a key file?") from None
