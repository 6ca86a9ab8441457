"""The opaque tokens that clients hand back: ``since``/``next_batch``, and ``from``/``to``/``prev_batch``.

Owns: their text form. A :class:`StreamToken` means "everything up to this place of the server's stream has been seen";
a :class:`PositionToken` means "the gap right after this position of one room's log" (positions are comparable only
within a room). ``/messages`` takes both, as the Client-Server API asks; ``/sync`` takes the first only.
"""

from __future__ import annotations

import re

import attrs

from lmatrix.client_api.errors import invalid_param

_STREAM = re.compile(r"s([0-9]{1,18})\Z")
_POSITION = re.compile(r"p([0-9]{1,18})\Z")


@attrs.frozen(slots=True)
class StreamToken:
    """All live events with ``stream <= self.stream`` have been seen."""

    stream: int

    def __str__(self) -> str:
        return f"s{self.stream}"


@attrs.frozen(slots=True)
class PositionToken:
    """Between ``position`` and the position after it, in the log of the room that it was given out for."""

    position: int

    def __str__(self) -> str:
        return f"p{self.position}"


def parse_since(text: str) -> StreamToken:
    """A ``since`` value. Raises 400 ``M_INVALID_PARAM``."""
    found = _STREAM.match(text)
    if not found:
        raise invalid_param("since", "not a token of this server")
    return StreamToken(int(found.group(1)))


def parse_place(text: str, name: str) -> StreamToken | PositionToken:
    """A ``from`` or ``to`` value of ``/messages``. Raises 400 ``M_INVALID_PARAM``."""
    if found := _STREAM.match(text):
        return StreamToken(int(found.group(1)))
    if found := _POSITION.match(text):
        return PositionToken(int(found.group(1)))
    raise invalid_param(name, "not a token of this server")
