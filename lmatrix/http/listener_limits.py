"""What one listener allows to whoever connects to it.

Owns: the numbers (:class:`ListenerLimits`) and the count of body bytes held in memory (:class:`BodyBudget`).
"""

from __future__ import annotations

import attrs
from attrs.validators import gt


@attrs.frozen(slots=True, kw_only=True)
class ListenerLimits:
    """Bounds of one listener. Times are in seconds, sizes in bytes.

    Attributes:
        max_connections: open connections; one more is closed as soon as it is accepted.
        idle_timeout: a connection on which nothing is going on is closed after this.
        head_timeout: from a request's first byte to the end of its header (HTTP/1.1).
        body_timeout: from the end of a request's header to the end of its body.
        drain: of a body that is over its limit, this much more is read and thrown away, so that the sender has finished
            and reads the answer. Beyond it the answer is sent at once and the rest is not read.
        max_buffered: request bodies of all connections in memory at one time.
    """

    max_connections: int = attrs.field(default=2000, validator=gt(0))
    idle_timeout: float = attrs.field(default=90.0, validator=gt(0))
    head_timeout: float = attrs.field(default=15.0, validator=gt(0))
    body_timeout: float = attrs.field(default=60.0, validator=gt(0))
    drain: int = attrs.field(default=1024 * 1024, validator=attrs.validators.ge(0))
    max_buffered: int = attrs.field(default=256 * 1024 * 1024, validator=gt(0))


class BodyBudget:
    """Counts the bytes of request bodies that a listener holds.

    Args:
        maximum: bytes, at most.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.held = 0

    def take(self, size: int) -> bool:
        """Count more bytes, unless they are too many: then nothing is counted and the answer is false."""
        if self.held + size > self._maximum:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Count bytes no longer."""
        self.held -= size
