"""Errors that only the Client-Server API knows: those whose ``errcode`` has no counterpart in the rooms.

Owns: :class:`ClientApiError` and the few makers of it. Everything else that goes wrong under the client API is an
error of :mod:`lmatrix.errors`, which :mod:`lmatrix.http.errors` turns into a status. Source: Client-Server API v1.11,
"Standard error response" and the errcodes of each endpoint.
"""

from __future__ import annotations

from typing import Any

from lmatrix.errors import LMatrixError


class ClientApiError(LMatrixError):
    """An answer with a status and an ``errcode`` of its own.

    Args:
        status: HTTP status.
        errcode: as the Client-Server API names it.
        message: the human-readable ``error``.
        extra: further keys of the error object.
    """

    def __init__(self, status: int, errcode: str, message: str, extra: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode
        self.message = message
        self.extra = extra or {}


def missing_param(name: str) -> ClientApiError:
    """A required key or query parameter is not there: 400 ``M_MISSING_PARAM``."""
    return ClientApiError(400, "M_MISSING_PARAM", f"Missing parameter: {name}")


def invalid_param(name: str, reason: str) -> ClientApiError:
    """A parameter is there and has the right type, but a useless value: 400 ``M_INVALID_PARAM``."""
    return ClientApiError(400, "M_INVALID_PARAM", f"{name}: {reason}")


def bad_json(name: str, expected: str) -> ClientApiError:
    """A key of the body has the wrong type: 400 ``M_BAD_JSON``."""
    return ClientApiError(400, "M_BAD_JSON", f"{name} must be {expected}")


def unknown(reason: str, *, status: int = 400) -> ClientApiError:
    """Nothing more precise fits: ``M_UNKNOWN``."""
    return ClientApiError(status, "M_UNKNOWN", reason)
