"""``Retry-After``: how long a peer asks to be left alone (RFC 9110, section 10.2.3).

Owns: :func:`retry_after_ms`. The field goes before the ``retry_after_ms`` of an error object: it is what a proxy
before the peer can set as well. Pure.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from twisted.web.http_headers import Headers

_SECONDS = re.compile(r"[0-9]{1,9}")


def retry_after_ms(headers: Headers, now_s: float) -> int | None:
    """The wait that an answer's header fields ask for.

    Args:
        headers: the answer's.
        now_s: seconds since the epoch, for a ``Retry-After`` that is a date.

    Returns:
        Milliseconds, 0 for a date that is past; ``None`` when there is no such field, or it makes no sense.
    """
    values = headers.getRawHeaders("Retry-After")
    if not values:
        return None
    said = values[0].strip()
    if _SECONDS.fullmatch(said):
        return int(said) * 1000
    try:
        moment = parsedate_to_datetime(said)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int((moment.timestamp() - now_s) * 1000))
