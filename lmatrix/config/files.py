"""Reading the files that a configuration names: signing keys, certificates, and the token for the admin API.

Everything raises :class:`FileProblem`, whose text names the file and says what is wrong with it, so that
``lmatrix check-config`` and start-up say the same.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from lmatrix.config.admin_token import read_admin_token
from lmatrix.config.listeners import TlsFiles
from lmatrix.config.root import Config
from lmatrix.crypto.key_file import KeyFileError, read_signing_keys
from lmatrix.crypto.keys import SigningKey, VerifyKey
from lmatrix.crypto.private_file import PrivateFileError
from lmatrix.crypto.retired_keys import RetiredKey, RetiredKeys, read_retired_keys, retired_keys_path
from lmatrix.errors import LMatrixError
from lmatrix.http.tls import ServerTls


class FileProblem(LMatrixError):
    """A file that the configuration names cannot be used.

    Args:
        file: its path.
        reason: what is wrong with it.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


@attrs.frozen(slots=True)
class OwnKeySet:
    """All keys of this server, from the key file, the file of retired keys, and ``old_signing_keys``.

    Attributes:
        active: the keys that sign, the first one first.
        retired: the keys that do not sign any more.
        leaving: keys that have been taken out of the key file, but for which nobody has recorded yet when the server
            ceased to sign with them.
        recorded: what the file of retired keys holds.
    """

    active: tuple[SigningKey, ...]
    retired: tuple[RetiredKey, ...]
    leaving: tuple[VerifyKey, ...]
    recorded: RetiredKeys

    def key_ids(self) -> set[str]:
        """The IDs of all of them."""
        return {
            *(key.key_id for key in self.active),
            *(key.verify_key.key_id for key in self.retired),
            *(key.key_id for key in self.leaving),
        }


def load_own_keys(config: Config) -> OwnKeySet:
    """Every key of this server.

    What ``old_signing_keys`` says of a key goes before what the file of retired keys says. A key that is still in the
    key file signs, even where it is noted as leaving: then its rotation was interrupted.

    Raises:
        FileProblem: a file is missing, malformed or open to others, or a key is active and retired, or an ID belongs to
            two keys.
    """
    active = load_signing_keys(config)
    file = retired_keys_path(config.signing_key_path)
    try:
        recorded = read_retired_keys(file)
    except KeyFileError as error:
        raise FileProblem(file, error.reason) from error
    except OSError as error:
        raise FileProblem(file, f"the retired keys cannot be read: {error.strerror}") from error
    publics = {key.key_id: key.public for key in active}
    configured = [
        RetiredKey(VerifyKey.from_base64(key_id, old.key), old.expired_ts)
        for key_id, old in config.old_signing_keys.items()
    ]
    publics.update((key.verify_key.key_id, key.verify_key) for key in configured)
    for key in (*(one.verify_key for one in recorded.retired), *recorded.leaving):
        if publics.get(key.key_id, key) != key:
            raise FileProblem(file, f"{key.key_id} is another key than the one of that name elsewhere")
    signing = {key.key_id for key in active}
    for one in recorded.retired:
        if one.verify_key.key_id in signing:
            raise FileProblem(config.signing_key_path, f"{one.verify_key.key_id} signs, and is retired by {file}")
    return OwnKeySet(
        active,
        (*configured, *(one for one in recorded.retired if one.verify_key.key_id not in publics)),
        tuple(key for key in recorded.leaving if key.key_id not in publics),
        recorded,
    )


def load_signing_keys(config: Config) -> tuple[SigningKey, ...]:
    """The keys that sign, the first one first.

    Raises:
        FileProblem: missing, readable by others than its owner, malformed, or also listed as an old key.
    """
    file = config.signing_key_path
    try:
        keys = read_signing_keys(file)
    except KeyFileError as error:
        raise FileProblem(file, error.reason) from error
    except OSError as error:
        raise FileProblem(file, f"the signing key cannot be read: {error.strerror}") from error
    for key in keys:
        if key.key_id in config.old_signing_keys:
            raise FileProblem(file, f"{key.key_id} signs, and is listed in `old_signing_keys` as well")
    return keys


def load_admin_token(config: Config) -> str | None:
    """The token for the admin API; ``None`` when the configuration names no file for it.

    Raises:
        FileProblem: missing, readable by others than its owner, or without a good token.
    """
    file = config.admin_token_path
    return None if file is None else load_admin_token_file(file)


def load_admin_token_file(file: Path) -> str:
    """The token in a file.

    Raises:
        FileProblem: missing, readable by others than its owner, or without a good token.
    """
    try:
        return read_admin_token(file)
    except PrivateFileError as error:
        raise FileProblem(file, error.reason) from error
    except OSError as error:
        raise FileProblem(file, f"the admin token cannot be read: {error.strerror}") from error


def load_tls(files: TlsFiles) -> ServerTls:
    """A listener's certificate and key.

    Raises:
        FileProblem: a file is missing or not PEM, or certificate and key do not belong together.
    """
    try:
        return ServerTls(files.certificate_path, files.private_key_path)
    except OSError as error:
        missing = Path(error.filename) if error.filename else files.certificate_path
        what = "private key" if missing == files.private_key_path else "certificate"
        raise FileProblem(missing, f"the {what} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FileProblem(files.certificate_path, f"cannot be used for TLS: {error}") from error
