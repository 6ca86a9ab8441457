"""Which of a server's responses a notary shows for a query, and when it asks the server again. Pure.

Owns: :class:`KeyQuery`, :class:`Shown`, :func:`wants_refresh` and :func:`chosen`. The rules:

* a response is fresh for half of its lifetime;
* before that has passed, its server is asked again only for something that would be of use: a key that is not known
  yet, or a validity that is longer than any known, but that a response can have at all (seven days);
* with ``minimum_valid_until_ts``, what is not valid until then is left out. For a key under ``old_verify_keys`` its
  ``expired_ts`` counts ("overrides ``valid_until_ts``");
* without it, what is not valid now is left out, unless its server does not answer: when the last response is past its
  validity, all that are kept are shown, so that old events can still be checked;
* for keys that are named, only the youngest response that has one of them is shown for each.

Implements the I-D's "Retrieving Server Keys", "GET /_matrix/key/v2/query/:serverName", "POST /_matrix/key/v2/query".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmatrix import canonical_json
from lmatrix.federation.server_keys import MAX_VALIDITY_MS
from lmatrix.rooms.key_store import StoredResponse

JsonObject = dict[str, Any]

MIN_AGE_MS = 60 * 1000
"""How old the last response must be before its server is asked for more."""


@attrs.frozen(slots=True)
class KeyQuery:
    """What is asked about one server.

    Attributes:
        server_name: the server.
        keys: the keys that are wanted, by ID, each with its ``minimum_valid_until_ts`` (milliseconds since the epoch),
            or ``None``; empty for all keys.
        minimum: the same for all keys, when none is named.
    """

    server_name: str
    keys: Mapping[str, int | None] = attrs.field(factory=dict)
    minimum: int | None = None


@attrs.frozen(slots=True)
class Shown:
    """A response as it may be shown.

    Attributes:
        answer: the JSON object, with its server's signatures.
        size: its bytes.
        fetched_ts: milliseconds since the epoch when it came.
        valid_until_ts: likewise, when it ends; capped.
    """

    answer: JsonObject
    size: int
    fetched_ts: int
    valid_until_ts: int

    @classmethod
    def of(cls, response: StoredResponse) -> Shown:
        """Read a stored response, which was checked when it came."""
        answer = canonical_json.parse_object(response.response)
        valid_until_ts = min(answer["valid_until_ts"], response.fetched_ts + MAX_VALIDITY_MS)
        return cls(answer, len(response.response), response.fetched_ts, valid_until_ts)

    def end_of(self, key_id: str) -> int | None:
        """Until when a key is valid, milliseconds since the epoch; ``None`` for a key that is not in it."""
        if key_id in self.answer["verify_keys"]:
            return self.valid_until_ts
        old = self.answer.get("old_verify_keys", {}).get(key_id)
        expired_ts = old.get("expired_ts") if isinstance(old, dict) else None
        return expired_ts if type(expired_ts) is int else None


def wants_refresh(query: KeyQuery, held: Sequence[Shown], now_ms: int) -> bool:
    """Whether the server should be asked again before the query is answered.

    Args:
        held: the server's responses, the youngest first.
    """
    if not held:
        return True
    last = held[0]
    age = now_ms - last.fetched_ts
    # The clock may have been set back.
    if age < 0 or age * 2 >= last.valid_until_ts - last.fetched_ts:
        return True
    if age < MIN_AGE_MS:
        return False
    most = now_ms + MAX_VALIDITY_MS
    if not query.keys:
        return last.valid_until_ts < (query.minimum or 0) <= most
    return any(
        (minimum or 0) <= most and not any(_meets(shown, key_id, minimum, now_ms) for shown in held)
        for key_id, minimum in query.keys.items()
    )


def chosen(query: KeyQuery, held: Sequence[Shown], now_ms: int) -> list[Shown]:
    """What to show of a server, the youngest first.

    Args:
        held: its responses, the youngest first, after it has been asked again where that was due.
    """
    if not held:
        return []
    if held[0].valid_until_ts < now_ms:
        # The server does not answer: what ended last serves as well as what is valid now.
        now_ms = min(shown.valid_until_ts for shown in held)
    if not query.keys:
        least = now_ms if query.minimum is None else query.minimum
        return [shown for shown in held if shown.valid_until_ts >= least]
    picked = set()
    for key_id, minimum in query.keys.items():
        places = (place for place, shown in enumerate(held) if _meets(shown, key_id, minimum, now_ms))
        picked.add(next(places, -1))
    return [shown for place, shown in enumerate(held) if place in picked]


def _meets(shown: Shown, key_id: str, minimum: int | None, now_ms: int) -> bool:
    end = shown.end_of(key_id)
    if end is None:
        return False
    if minimum is None:
        return shown.valid_until_ts >= now_ms
    return end >= minimum
