"""A user's profile: display name and avatar (Client-Server API v1.11, "Profiles").

Owns: the value :class:`Profile`, its bounds, and how one is read from what other servers tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmatrix.errors import InvalidParam
from lmatrix.rooms.interfaces import JsonObject

MAX_DISPLAYNAME = 256
"""Characters of a display name."""

MAX_AVATAR_URL = 1000
"""Characters of an avatar's URL."""

DISPLAYNAME, AVATAR_URL = "displayname", "avatar_url"
FIELDS = (DISPLAYNAME, AVATAR_URL)
_LIMITS = {DISPLAYNAME: MAX_DISPLAYNAME, AVATAR_URL: MAX_AVATAR_URL}


@attrs.frozen(slots=True)
class Profile:
    """What a user is called and looks like; ``None`` for what the user has not set."""

    displayname: str | None = None
    avatar_url: str | None = None

    @classmethod
    def told(cls, fields: Mapping[str, Any]) -> Profile:
        """From another server's answer, or a member event; what is no string, or too long, counts as not set."""
        return cls(*(_usable(name, fields.get(name)) for name in FIELDS))

    def with_field(self, name: str, value: str | None) -> Profile:
        """The profile with another display name or avatar; ``""`` is as good as none.

        Raises:
            InvalidParam: the value is too long.
        """
        if value is not None and len(value) > _LIMITS[name]:
            raise InvalidParam(name, f"{len(value)} characters; {_LIMITS[name]} are allowed")
        return attrs.evolve(self, **{name: value or None})

    def fields(self) -> JsonObject:
        """What is set, by the names that the protocol has for it, in profiles as in member events."""
        return {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}


def _usable(name: str, value: object) -> str | None:
    return value if isinstance(value, str) and value and len(value) <= _LIMITS[name] else None
