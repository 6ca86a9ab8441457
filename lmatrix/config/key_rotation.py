"""Changing the keys that this server signs with.

Owns: :func:`rotate`, which makes a new key and retires those that signed so far, and :func:`record_ends`, with which
the server notes when it ceased to sign with them.

The two are apart because a server may be running while its keys are rotated: it goes on signing with the old key until
it reads the files again, and what it signs meanwhile must not be dated after the key's end, or nobody would believe it.

Invariants: the configuration file is never written; at any moment, also after a crash, every key that has signed
anything is in one of the files with its public part; a secret that has been retired is kept nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from lmatrix.config.files import FileProblem, OwnKeySet, load_own_keys
from lmatrix.config.root import Config
from lmatrix.crypto.key_file import new_key_version, replace_signing_keys
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.retired_keys import RetiredKey, RetiredKeys, retired_keys_path, write_retired_keys
from lmatrix.errors import LMatrixError

CLOCK_ALLOWANCE_MS = 2 * 24 * 60 * 60 * 1000
"""How long after its last use a key ends. As a hub this server also signs other servers' events, which bear the time of
those servers' clocks, up to a day ahead of its own; and its own clock may have been wrong, and set since.

A key that ends late costs nothing: whoever has its secret can date what he signs as he likes."""


@attrs.frozen(slots=True)
class Rotated:
    """What :func:`rotate` did.

    Attributes:
        new: ID of the new key.
        retired: IDs of the keys that do not sign any more.
        kept: IDs of the keys that sign beside the new one.
    """

    new: str
    retired: tuple[str, ...]
    kept: tuple[str, ...]


def rotate(config: Config, *, retire: Sequence[str] = (), rng: random.Random) -> Rotated:
    """Make a new signing key, and take old ones out of the key file; the server takes notice when it is told to.

    Args:
        config: names the files.
        retire: IDs of the keys to retire; all that sign now, when none is given.
        rng: where the new key comes from: the operating system's randomness, but in tests.

    Raises:
        FileProblem: a file cannot be read or written; nothing has changed then, or the old keys sign as before.
        LMatrixError: one of ``retire`` is no key that signs.
    """
    own = load_own_keys(config)
    signing = {key.key_id: key for key in own.active}
    for key_id in retire:
        if key_id not in signing:
            raise LMatrixError(f"{key_id} is not a key that signs; these do: {', '.join(signing)}")
    leaving = [key for key_id, key in signing.items() if not retire or key_id in retire]
    kept = [key for key in own.active if key not in leaving]
    new = _new_key(own, rng)
    # First what must not be lost. A key that is in both files goes on signing.
    noted = {key.key_id for key in own.recorded.leaving}
    _write_retired(
        config,
        RetiredKeys(
            own.recorded.retired,
            (*own.recorded.leaving, *(key.public for key in leaving if key.key_id not in noted)),
        ),
    )
    file = config.signing_key_path
    try:
        replace_signing_keys(file, [new, *kept])
    except OSError as error:
        raise FileProblem(file, _not_replaced(error)) from error
    return Rotated(new.key_id, tuple(key.key_id for key in leaving), tuple(key.key_id for key in kept))


def record_ends(config: Config, now_ms: int) -> OwnKeySet:
    """Read all keys, for a server that from now on signs with those in the key file and with no other.

    Args:
        config: names the files.
        now_ms: milliseconds since the epoch. Nothing may have been signed with a leaving key after that.

    Returns:
        The keys, none of them leaving: their end has been recorded on disk.

    Raises:
        FileProblem: a file cannot be read or written.
    """
    own = load_own_keys(config)
    signing = {key.key_id for key in own.active}
    gone = [key for key in own.recorded.leaving if key.key_id not in signing]
    if not gone:
        return own
    ended = tuple(RetiredKey(key, now_ms + CLOCK_ALLOWANCE_MS) for key in gone)
    # A key that signs, and is noted as leaving: its rotation is under way at this moment, or was interrupted.
    still = tuple(key for key in own.recorded.leaving if key.key_id in signing)
    recorded = RetiredKeys((*own.recorded.retired, *ended), still)
    _write_retired(config, recorded)
    configured = {key.verify_key.key_id for key in own.retired}
    newly = tuple(one for one in ended if one.verify_key.key_id not in configured)
    return OwnKeySet(own.active, (*own.retired, *newly), (), recorded)


def _new_key(own: OwnKeySet, rng: random.Random) -> SigningKey:
    taken = own.key_ids()
    while True:
        key = SigningKey.generate(new_key_version(rng), rng.randbytes(32))
        if key.key_id not in taken:
            return key


def _write_retired(config: Config, keys: RetiredKeys) -> None:
    file = retired_keys_path(config.signing_key_path)
    try:
        write_retired_keys(file, keys, owner_of=config.signing_key_path)
    except OSError as error:
        raise FileProblem(file, _not_replaced(error)) from error


def _not_replaced(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"cannot be replaced: {error.filename} exists. If no other rotation is under way, delete it"
    return f"cannot be replaced: {error.strerror}"
