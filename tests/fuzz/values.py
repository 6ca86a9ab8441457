"""JSON that is wrong in every way, and JSON that is wrong in one.

Owns: :func:`anything`, :func:`mutated` (a value with a few things changed, which is how one gets past the first check
and into the second), and :func:`text_of`, which also writes what no JSON encoder would.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st


@attrs.frozen
class Raw:
    """Text that stands in the JSON as it is."""

    text: str


_ODD_TEXT = (
    *(
        "",
        " ",
        "\x00",
        "a\x00b",
        "\x7f",
        "é",
        "\U0001f600",
        "\u202e",
        "a" * 256,
        "x" * 70_000,
        "%",
        "%00",
        "../..",
        "'\"--",
    ),
    *("true", "null", "0", "-1", "$", "@", "!", "#", ":", "@:", "!:", "$x", "ed25519:", "ed25519:1", "*"),
)
_ODD_NUMBERS = (0, -0.0, 1, -1, 50, 100, 101, 1.5, 2**31, 2**53 - 1, -(2**53) + 1, 1e300, 5e-324, 1_700_003_600_000)
_RAW = (
    *("NaN", "-Infinity", "1e999", "9007199254740992", "-9007199254740993", "1" * 400, "01", "1.0", "1e2", "-0"),
    *('"\\ud800"', '"\\udfff\\ud800"', '{"a":1,"a":2}', '{"\\ud83d\\ude00":1,"\\ufb33":2}', "[" * 120 + "]" * 120),
    *('{"a":' * 99 + "1" + "}" * 99, "[" * 30_000, '"', "\x00", "tru", "{", "}", "/**/1"),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_ODD_NUMBERS),
    st.sampled_from(_ODD_TEXT),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)

anything = st.recursive(
    st.one_of(scalars, st.sampled_from(_RAW).map(Raw)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

_OPERATIONS = ("replace", "remove", "rename", "add", "repeat", "wrap", "move", "odd key")


@st.composite
def mutated(draw: st.DrawFn, value: Any, words: Sequence[Any], *, most: int = 3) -> Any:
    """A value with up to so many things changed.

    Args:
        words: what may stand in the place of something else: names that mean something where the value goes.
    """
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(value))
        if not places:
            return draw(anything)
        holder, key = (
            draw(st.sampled_from(places)) if len(places) < 2 else places[draw(st.integers(0, len(places) - 1))]
        )
        operation = draw(st.sampled_from(_OPERATIONS))
        other = draw(st.one_of(st.sampled_from(words), anything) if words else anything)
        _change(draw, value, holder, key, operation, other, places)
    return value


def _change(draw: st.DrawFn, value: Any, holder: Any, key: Any, operation: str, other: Any, places: list[Any]) -> None:
    if operation == "replace":
        holder[key] = other
    elif operation == "remove":
        del holder[key]
    elif operation == "wrap":
        holder[key] = draw(st.sampled_from(([holder[key]], {"": holder[key]}, [holder[key]] * 60)))
    elif operation == "move":
        there, at = places[draw(st.integers(0, len(places) - 1))]
        holder[key], there[at] = copy.deepcopy(there[at]), copy.deepcopy(holder[key])
    elif isinstance(holder, dict):
        if operation == "rename":
            holder[draw(_keys)] = holder.pop(key)
        elif operation == "odd key":
            holder[other if isinstance(other, str) else "x"] = holder[key]
        else:
            holder[draw(_keys)] = other
    elif operation == "repeat":
        holder.extend([copy.deepcopy(holder[key])] * draw(st.sampled_from((1, 2, 51, 101))))
    else:
        holder.append(other)


_keys = st.one_of(
    st.sampled_from(
        (
            *("type", "state_key", "sender", "content", "hashes", "signatures", "room_id", "hub_server", "membership"),
            *("auth_events", "prev_events", "unsigned", "event_id", "age_ts", "lpdu", "sha256", "redacts", "origin"),
            *("users", "events", "users_default", "ban", "kick", "invite", "redact", "state_default", "join_rule"),
        )
    ),
    st.text(max_size=8),
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in it: what holds it, and under which key or index."""
    queue = [value]
    while queue:
        holder = queue.pop(0)
        if isinstance(holder, dict):
            entries: Any = holder.items()
        elif isinstance(holder, list):
            entries = enumerate(holder[:20])
        else:
            continue
        for key, inner in list(entries):
            yield holder, key
            queue.append(inner)


def text_of(value: Any) -> bytes:
    """A value as JSON, what is :class:`Raw` as it is."""
    raws: list[str] = []

    def default(raw: Raw) -> str:
        raws.append(raw.text)
        return f"\ue000{len(raws) - 1}\ue000"

    text = json.dumps(value, default=default, ensure_ascii=True, separators=(",", ":"))
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\ue000{number}\\ue000"', raw)
    return text.encode("utf-8", "surrogatepass")


def plain(value: Any) -> Any:
    """The value as its reader will see it. Raises :class:`ValueError` when it is not JSON."""
    return json.loads(text_of(value))
