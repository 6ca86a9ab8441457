"""The opaque tokens that clients hand back: ``since``/``next_batch``, and ``from``/``to``/``prev_batch``.

Owns: their text form. A :class:`StreamToken` means "everything up to this place of the server's stream has been seen";
a :class:`PositionToken` means "the gap right after this position of one room's log" (positions are comparable only
within a room). ``/messages`` takes both, as the Client-Server API asks; ``/sync`` takes the first only.
"""

from __future__ import annotations

import re

import attrs

from lmatrix.client_api.errors import invalid_param

_STREAM = re.compile(r"s([0-9]{1,18})(?:_d([0-9]{1,18}))?(?:_t([0-9]{1,18}))?\Z")
_POSITION = re.compile(r"p([0-9]{1,18})\Z")


@attrs.frozen(slots=True)
class StreamToken:
    """Everything at stream positions up to a place has been seen.

    Attributes:
        stream: that place.
        messages: the place for messages to the device, when not all of them up to ``stream`` fitted; else ``None``.
        typing: the serial of what was told of who is typing; ``None`` when that was: nobody.
    """

    stream: int
    messages: int | None = None
    typing: int | None = None

    def __str__(self) -> str:
        messages = "" if self.messages is None else f"_d{self.messages}"
        typing = "" if self.typing is None else f"_t{self.typing}"
        return f"s{self.stream}{messages}{typing}"


@attrs.frozen(slots=True)
class PositionToken:
    """Between ``position`` and the position after it, in the log of the room that it was given out for."""

    position: int

    def __str__(self) -> str:
        return f"p{self.position}"


def parse_since(text: str, name: str = "since") -> StreamToken:
    """A ``since`` value. Raises 400 ``M_INVALID_PARAM``."""
    found = _STREAM.match(text)
    if not found:
        raise invalid_param(name, "not a token of this server")
    return _stream_token(found)


def parse_place(text: str, name: str) -> StreamToken | PositionToken:
    """A ``from`` or ``to`` value of ``/messages``. Raises 400 ``M_INVALID_PARAM``."""
    if found := _STREAM.match(text):
        return _stream_token(found)
    if found := _POSITION.match(text):
        return PositionToken(int(found.group(1)))
    raise invalid_param(name, "not a token of this server")


def _stream_token(found: re.Match[str]) -> StreamToken:
    stream, messages, typing = (None if number is None else int(number) for number in found.groups())
    return StreamToken(stream or 0, messages, typing)
