"""Reading the files that a configuration names: signing keys and certificates.

Everything raises :class:`FileProblem`, whose text names the file and says what is wrong with it, so that
``lmatrix check-config`` and start-up say the same.
"""

from __future__ import annotations

from pathlib import Path

from lmatrix.config.listeners import TlsFiles
from lmatrix.config.root import Config
from lmatrix.crypto.key_file import KeyFileError, read_signing_keys
from lmatrix.crypto.keys import SigningKey
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
