"""Files with a secret in them: reading one, and making one.

Owns: :func:`read_private` and :func:`write_private`. Invariants: what others than its owner may read is no secret, and
is refused; what is made can be read by its owner only, from its first byte on, and never replaces anything.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lmatrix.crypto.whole_file import sync_directory
from lmatrix.errors import LMatrixError


class PrivateFileError(LMatrixError):
    """A file that cannot be taken for a secret.

    Args:
        path: the file.
        reason: what is wrong with it, and what to do where that is known; nothing of what it holds.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def read_private(path: Path, max_bytes: int) -> bytes:
    """The content of a file that only its owner has access to.

    Raises:
        PrivateFileError: others have access to it, it is no ordinary file, or longer than that.
        OSError: it cannot be read.
    """
    # The descriptor is asked for its mode, not the path: nobody can exchange the file in between.
    # Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PrivateFileError(path, "not a regular file")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise PrivateFileError(
                path, f"its mode is {mode:04o}, others than its owner have access; run: chmod 600 {path}"
            )
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise PrivateFileError(path, f"more than {max_bytes} bytes")
    return data


def write_private(path: Path, text: str) -> None:
    """Make a file that only its owner has access to. On disk when this returns.

    Args:
        text: ASCII.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # Half a secret is of no use and would be in the way of the next attempt.
        path.unlink()
        raise
    sync_directory(path.parent)
