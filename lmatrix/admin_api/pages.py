"""Lists in pages: how a request says which page, and how an answer names the next one."""

from __future__ import annotations

from lmatrix.errors import BadRequest
from lmatrix.http.messages import JsonObject, JsonRequest

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


def limit_of(request: JsonRequest) -> int:
    """How many entries the request wants (``limit``).

    Raises:
        BadRequest: it is no number above 0.
    """
    return request.query_int("limit", DEFAULT_LIMIT, minimum=1, maximum=MAX_LIMIT)


def after_name(request: JsonRequest) -> str:
    """The name after which the page begins (``from``)."""
    return request.query_one("from") or ""


def after_number(request: JsonRequest) -> int:
    """The number after which the page begins (``from``).

    Raises:
        BadRequest: it is no number.
    """
    return request.query_int("from", 0, minimum=0, maximum=2**53 - 1)


def page(name: str, entries: list[JsonObject], next_from: str | int | None) -> JsonObject:
    """An answer: the entries, and ``next_batch`` when there may be more, to be given as ``from``."""
    answer: JsonObject = {name: entries}
    if next_from is not None:
        answer["next_batch"] = str(next_from)
    return answer


def room_id_of(request: JsonRequest) -> str:
    """The room ID of the path.

    Raises:
        BadRequest: it cannot be one.
    """
    room_id = request.params["roomId"]
    if not room_id.startswith("!"):
        raise BadRequest(f"{room_id!r} is not a room ID; those begin with an exclamation mark")
    return room_id
