"""Keys that this server signed with once, and the file that remembers them.

Owns: :class:`RetiredKey`, :class:`RetiredKeys`, and the format and place of the file: beside the file of signing keys,
its name with ``.retired`` added. One key in a line, ``ed25519 VERSION EXPIRED_TS PUBLIC`` with the time in milliseconds
since the epoch and the public key in unpadded base64, which is what ``signedjson`` reads as old keys. A ``-`` instead
of the time stands for a key that has been taken out of the file of signing keys while a server may still have been
signing with it: the server that no longer does puts the time there.

Invariants: nothing in the file is a secret; whoever else can write to it could bring a key of his own into it, so that
such a file is refused; a file is replaced as a whole, never changed in place.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import attrs

from lmatrix.crypto.key_file import KeyFileError
from lmatrix.crypto.keys import ALGORITHM, InvalidKey, VerifyKey
from lmatrix.crypto.whole_file import replace_file

_MAX_BYTES = 256 * 1024
_NOT_YET = "-"
_MODE = 0o644


@attrs.frozen(slots=True)
class RetiredKey:
    """A key that this server signed with once.

    Attributes:
        verify_key: its public half.
        expired_ts: milliseconds since the epoch when it was last used.
    """

    verify_key: VerifyKey
    expired_ts: int


@attrs.frozen(slots=True)
class RetiredKeys:
    """What the file holds.

    Attributes:
        retired: the keys whose end is known.
        leaving: the keys whose end is not recorded yet.
    """

    retired: tuple[RetiredKey, ...] = ()
    leaving: tuple[VerifyKey, ...] = ()


def retired_keys_path(signing_key_path: Path) -> Path:
    """Where the retired keys are, for a file of signing keys."""
    return signing_key_path.with_name(signing_key_path.name + ".retired")


def read_retired_keys(path: Path) -> RetiredKeys:
    """Read the file; nothing is retired when there is none. Empty lines do not matter.

    Raises:
        KeyFileError: the group or others may write to it, or it is malformed.
        OSError: it cannot be read.
    """
    retired: list[RetiredKey] = []
    leaving: list[VerifyKey] = []
    seen: set[str] = set()
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            key, expired_ts = _parsed(line)
        except InvalidKey as error:
            raise KeyFileError(path, f"line {number}: {error}") from None
        if key.key_id in seen:
            raise KeyFileError(path, f"line {number}: the key ID {key.key_id} is there twice")
        seen.add(key.key_id)
        if expired_ts is None:
            leaving.append(key)
        else:
            retired.append(RetiredKey(key, expired_ts))
    return RetiredKeys(tuple(retired), tuple(leaving))


def write_retired_keys(path: Path, keys: RetiredKeys, *, owner_of: Path) -> None:
    """Replace the file. On disk when this returns.

    Args:
        path: the file.
        keys: all that it is to hold.
        owner_of: the file of signing keys, whose owner and group it gets.

    Raises:
        OSError: it cannot be written.
    """
    lines = [_line(one.verify_key, str(one.expired_ts)) for one in keys.retired]
    lines += [_line(key, _NOT_YET) for key in keys.leaving]
    replace_file(path, "".join(lines), _MODE, owner_of=owner_of)


def _line(key: VerifyKey, expired: str) -> str:
    return f"{ALGORITHM} {key.key_id.partition(':')[2]} {expired} {key.to_base64()}\n"


def _parsed(line: str) -> tuple[VerifyKey, int | None]:
    words = line.split()
    if len(words) != 4 or words[0] != ALGORITHM:
        raise InvalidKey(f"expected the four words: {ALGORITHM} VERSION EXPIRED_TS PUBLIC")
    _, version, expired, public = words
    if expired != _NOT_YET and not (expired.isascii() and expired.isdigit() and len(expired) <= 15):
        raise InvalidKey(f"expected milliseconds since 1970 or {_NOT_YET}, found {expired[:40]!r}")
    key = VerifyKey.from_base64(f"{ALGORITHM}:{version}", public)
    return key, None if expired == _NOT_YET else int(expired)


def _read(path: Path) -> str:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(path, "not a regular file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeyFileError(path, f"others than its owner may write to it; run: chmod go-w {path}")
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise KeyFileError(path, f"more than {_MAX_BYTES} bytes; is it a file of retired keys?")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(path, "not text; is it a file of retired keys?") from None
