"""Many pieces of work, one commit.

Owns: the writer's connection and the way in which a group of works shares a transaction. Invariants: each work runs in
a savepoint of its own, and one that raises is undone alone and fails alone; a work counts as done only when the commit
of its group has returned; when the commit fails, or the database ends the transaction by itself, the whole group fails
and the next group starts with a new connection. No threads and no waiting in here: whoever owns a :class:`Writer`
decides when and where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.logger import Logger

from lmatrix.errors import StorageFailed
from lmatrix.storage.engine import Connection, Engine, Numbers, Transaction
from lmatrix.storage.migrations import SchemaStep, migrate

Work = Callable[[Transaction], Any]

_log = Logger()


@attrs.frozen(slots=True)
class Done:
    """A work whose effect is on disk."""

    value: Any


@attrs.frozen(slots=True)
class Failed:
    """A work that had no effect."""

    error: BaseException


Outcome = Done | Failed


class Writer:
    """The one connection that writes.

    Args:
        engine: the database.
        before_commit: called just before each commit; what it raises is a failed commit. For tests.
        after_commit: called just after; what it raises makes a commit that took place look like one that failed.
    """

    def __init__(
        self,
        engine: Engine,
        before_commit: Callable[[], None] | None = None,
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._numbers = Numbers()
        self._connection: Connection | None = None

    def open(self, steps: Sequence[SchemaStep]) -> Sequence[SchemaStep]:
        """Connect and bring the schema up to date; returns the steps applied. Raises :class:`StorageFailed`."""
        self._connection = self._engine.connect(read_only=False)
        try:
            return migrate(self._connection, self._engine, steps)
        except BaseException:
            self._drop_connection()
            raise

    def run(self, works: Sequence[Work]) -> list[Outcome]:
        """Run a group; one outcome for each work, in order. Never raises for what a work or the database does."""
        try:
            connection = self.connection
            connection.execute(self._engine.begin_write)
        except Exception as error:
            return self._all_failed(works, error)
        outcomes: list[Outcome] = []
        transaction = Transaction(connection, self._engine, self._numbers)
        try:
            for work in works:
                outcomes.append(self._run_one(connection, transaction, work))
            if self._before_commit is not None:
                self._before_commit()
            connection.execute("COMMIT")
            if self._after_commit is not None:
                self._after_commit()
        except Exception as error:
            return self._all_failed(works, error)
        except BaseException:
            self._recover()
            raise
        return outcomes

    def close(self) -> None:
        """Tidy up and disconnect. Everything committed is already safe, so that trouble here is only logged."""
        if self._connection is None:
            return
        try:
            self._engine.before_close(self._connection)
        except Exception:
            _log.failure("the database could not be tidied up before closing")
        self._drop_connection()

    def crash(self) -> None:
        """Disconnect as a dying process would: whatever is not committed is gone."""
        self._drop_connection()

    @property
    def connection(self) -> Connection:
        """The connection, opened anew if it was lost. Raises :class:`StorageFailed`."""
        if self._connection is None:
            self._connection = self._engine.connect(read_only=False)
        return self._connection

    def _run_one(self, connection: Connection, transaction: Transaction, work: Work) -> Outcome:
        connection.execute("SAVEPOINT work")
        try:
            value = work(transaction)
        except Exception as error:
            if not self._engine.in_transaction(connection):
                # Some errors (disk full, I/O) end the whole transaction: the works before this one are undone as well.
                raise
            connection.execute("ROLLBACK TO SAVEPOINT work")
            connection.execute("RELEASE SAVEPOINT work")
            failure = self._engine.failure_of(error)
            if failure is None:
                return Failed(error)
            _log.error("a write failed: {reason}", reason=failure.reason)
            return Failed(failure)
        connection.execute("RELEASE SAVEPOINT work")
        return Done(value)

    def _all_failed(self, works: Sequence[Work], error: Exception) -> list[Outcome]:
        failure = self._engine.failure_of(error) or StorageFailed(f"{type(error).__name__}: {error}")
        _log.error("a commit of {count} works failed: {reason}", count=len(works), reason=failure.reason)
        self._recover()
        return [Failed(failure) for _ in works]

    def _recover(self) -> None:
        # After a failed write it is not certain what the connection believes: start anew where that loses nothing.
        if self._engine.can_reconnect:
            self._drop_connection()
        elif self._connection is not None and self._engine.in_transaction(self._connection):
            self._connection.execute("ROLLBACK")

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception:
            _log.failure("a database connection could not be closed")


def run_read(connection: Connection, engine: Engine, work: Work) -> Any:
    """Run a work that only reads, on one snapshot.

    Raises what it raises; a fault of the database as :class:`StorageFailed`.
    """
    try:
        connection.execute(engine.begin_read)
        try:
            return work(Transaction(connection, engine, None))
        finally:
            if engine.in_transaction(connection):
                connection.execute("ROLLBACK")
    except Exception as error:
        failure = engine.failure_of(error)
        if failure is None or failure is error:
            raise
        _log.error("a read failed: {reason}", reason=failure.reason)
        raise failure from error
