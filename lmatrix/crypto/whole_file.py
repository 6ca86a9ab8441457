"""Replacing a file as a whole.

Owns: :func:`replace_file`. Whatever happens meanwhile (a crash, a full disk, a second program that does the same), the
file is afterwards what it was before or what it was to become, and what is reported as done is on disk.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: str, mode: int, *, owner_of: Path | None = None) -> None:
    """Write a file, over an existing one or as a new one.

    Args:
        path: the file; a symbolic link is followed, and stays.
        content: ASCII text.
        mode: its permissions.
        owner_of: the file whose owner and group it gets, so that a server that runs as another user than the
            administrator can still read it; ``None`` for those of this process.

    Raises:
        OSError: it cannot be written. A ``FileExistsError`` is about the temporary file beside it: somebody else is at
            it, or was interrupted.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".new")
    owner = None if owner_of is None else owner_of.stat()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if owner is not None:
                _give_to(file.fileno(), owner)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # It would be in the way of the next attempt.
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises :class:`OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_to(descriptor: int, owner: os.stat_result) -> None:
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (owner.st_uid, owner.st_gid):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
