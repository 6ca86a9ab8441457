"""A copy of the database, made while the server runs.

Owns: :func:`backup`. Invariants: a backup holds every transaction that was committed before it began, whole, and
nothing of any other; it is one file, without a write-ahead log beside it; it has its final name only when it is
complete, checked and on disk; nothing that exists is overwritten; only its owner may read it, since it holds what the
server's users said. A backup bears a mark (see :mod:`lmatrix.storage.restoration`), by which a server that starts from
it knows that it may have forgotten something.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import attrs

from lmatrix.errors import StorageFailed
from lmatrix.storage.beside import integrity_problems, reading
from lmatrix.storage.restoration import mark

INCOMPLETE = ".incomplete"
"""What the name of a backup ends with until it is complete."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@attrs.frozen(slots=True)
class Backup:
    """What was made.

    Attributes:
        size: bytes.
        marked: whether it bears the mark; a database of an earlier version of the schema has no place for one.
    """

    size: int
    marked: bool


def backup(source: Path, target: Path, now_ms: int) -> Backup:
    """Copy a database into a new file, whether or not its server runs.

    All pages are copied in one go: a copy in steps would begin anew whenever the server commits something, and on a
    busy server never come to its end. The write-ahead log grows meanwhile.

    Args:
        source: the server's database.
        target: the file to make.
        now_ms: milliseconds since the epoch, for the mark.

    Raises:
        FileExistsError: there is such a file already, or an incomplete one beside it.
        OSError: it cannot be written.
        StorageFailed: the source is no database of lmatrix, the copy failed, or is not sound.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists already; it is not overwritten", str(target))
    incomplete = target.with_name(target.name + INCOMPLETE)
    try:
        os.close(os.open(incomplete, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        reason = "exists: another backup is under way, or one was interrupted; then delete it"
        raise FileExistsError(errno.EEXIST, reason, str(incomplete)) from error
    try:
        marked = _copy(source, incomplete, now_ms)
        _sync(incomplete)
        _give_name(incomplete, target)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise
    _sync(target.parent)
    return Backup(target.stat().st_size, marked)


def _copy(source: Path, target: Path, now_ms: int) -> bool:
    with reading(source, up_to_date=False) as origin:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            origin.copy_to(copy)
            # One file, complete in itself. The server goes back to a write-ahead log when it opens it.
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
            marked = mark(copy, now_ms)
            problems = integrity_problems(copy)
        except sqlite3.Error as error:
            raise StorageFailed(f"{source} could not be copied to {target}: {error}") from error
        finally:
            copy.close()
    if problems:
        raise StorageFailed(f"{source} is damaged; its copy was deleted again: {'; '.join(problems)}")
    return marked


def _give_name(incomplete: Path, target: Path) -> None:
    try:
        # Unlike a renaming, this fails when somebody made the target meanwhile.
        os.link(incomplete, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        incomplete.rename(target)
    else:
        incomplete.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
