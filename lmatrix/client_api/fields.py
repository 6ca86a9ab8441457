"""Reading the parts of a client's request: keys of the JSON body, query parameters, identifiers in the path.

Owns: the one way in which a missing or ill-typed part becomes an error. Nothing here knows what the parts mean.
Source: Client-Server API v1.11, "Standard error response" (``M_MISSING_PARAM``, ``M_BAD_JSON``, ``M_INVALID_PARAM``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmatrix import ids
from lmatrix.client_api.errors import ClientApiError, bad_json, invalid_param, missing_param
from lmatrix.errors import BadRequest, InvalidIdentifier
from lmatrix.http.router import JsonRequest

JsonObject = dict[str, Any]

MAX_REASON_CHARACTERS = 2048
"""A membership or redaction reason longer than this is refused rather than carried to every server."""


def optional_string(body: Mapping[str, Any], name: str) -> str | None:
    """A string; ``None`` when absent or ``null``."""
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise bad_json(name, "a string")


def required_string(body: Mapping[str, Any], name: str) -> str:
    """A string that must be there."""
    value = optional_string(body, name)
    if value is None:
        raise missing_param(name)
    return value


def optional_object(body: Mapping[str, Any], name: str) -> JsonObject | None:
    """An object; ``None`` when absent or ``null``."""
    value = body.get(name)
    if value is None or isinstance(value, dict):
        return value
    raise bad_json(name, "an object")


def optional_list(body: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty when absent or ``null``."""
    value = body.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise bad_json(name, "a list")


def optional_flag(body: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A boolean; ``default`` when absent or ``null``."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise bad_json(name, "true or false")


def reason_of(body: Mapping[str, Any]) -> str | None:
    """The ``reason`` that membership and redaction endpoints take."""
    reason = optional_string(body, "reason")
    if reason is not None and len(reason) > MAX_REASON_CHARACTERS:
        raise invalid_param("reason", f"longer than {MAX_REASON_CHARACTERS} characters")
    return reason


def user_id_in(body: Mapping[str, Any], name: str = "user_id") -> str:
    """A user ID that must be in the body."""
    return user_id(required_string(body, name), name)


def user_id(value: object, name: str) -> str:
    """A user ID of the I-D's grammar, or 400 ``M_INVALID_PARAM``."""
    try:
        return ids.user_id(value)
    except InvalidIdentifier as problem:
        raise invalid_param(name, str(problem)) from problem


def room_id_in(params: Mapping[str, str], name: str = "roomId") -> str:
    """The room ID of the path."""
    try:
        return ids.room_id(params[name])
    except InvalidIdentifier as problem:
        raise invalid_param(name, str(problem)) from problem


def query_int(request: JsonRequest, name: str, default: int, *, minimum: int, maximum: int) -> int:
    """An integer query parameter, brought down to ``maximum`` when it is larger."""
    try:
        return request.query_int(name, default, minimum=minimum, maximum=maximum)
    except BadRequest as problem:
        raise ClientApiError(400, "M_INVALID_PARAM", str(problem)) from problem


def query_flag(request: JsonRequest, name: str) -> bool:
    """A query parameter ``true`` or ``false``; false when absent."""
    value = request.query_one(name)
    if value is None or value == "false":
        return False
    if value == "true":
        return True
    raise invalid_param(name, "must be true or false")
