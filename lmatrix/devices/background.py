"""Work that nobody waits for.

Owns: :func:`in_background`. What fails there is nobody's answer, and must not be lost on whoever runs the server.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from lmatrix.errors import LMatrixError, ShuttingDown


def in_background(work: Coroutine[Any, Any, None], log: Logger, otherwise: str) -> None:
    """Run a piece of work by itself.

    Args:
        work: it.
        log: where its failure is told; that the server is stopping is none.
        otherwise: what does not happen when it fails, in words.
    """

    def failed(failure: Failure) -> None:
        if failure.check(ShuttingDown):
            return
        if failure.check(LMatrixError):
            log.warn("{otherwise}: {reason}", otherwise=otherwise, reason=failure.value)
        else:
            log.failure("{otherwise}", failure=failure, otherwise=otherwise)

    Deferred.fromCoroutine(work).addErrback(failed)
