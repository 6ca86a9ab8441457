"""What one listener allows to whoever connects to it.

Owns: the numbers (:class:`ListenerLimits`). Connections and body bytes are shared out among the addresses that they
come from (:mod:`lmatrix.fairness`), so that nobody alone can use up either.
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
