"""The file that holds a server's signing keys.

Owns: its format and its permissions. One key in a line, ``ed25519 VERSION SEED`` with the seed in unpadded base64,
which is what ``signedjson`` (and with it Synapse) reads and writes.

Invariants: only the owner may read the file, or it is refused; an existing file is never overwritten; no error repeats
what the file holds.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

from lmatrix.crypto.keys import InvalidKey, SigningKey
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
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(path, "exists already; it is not overwritten") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.to_line() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # Half a key is of no use and would be in the way of the next attempt.
        path.unlink()
        raise
    _sync_directory(path.parent)
    return key


def new_key_version(rng: random.Random) -> str:
    """A version for a new key, ``a_`` and four letters: unlike that of any key which the server had before."""
    return "a_" + "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=4))


def _read_private(path: Path) -> str:
    # The descriptor is asked for its mode, not the path: nobody can exchange the file in between.
    # Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(path, "not a regular file")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise KeyFileError(
                path, f"its mode is {mode:04o}, others than its owner have access; run: chmod 600 {path}"
            )
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise KeyFileError(path, f"more than {_MAX_BYTES} bytes; is it a key file?")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(path, "not text; is it a key file?") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
