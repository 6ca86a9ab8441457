"""Canonical JSON: the only parser and the only encoder of JSON that is signed or hashed.

Owns: :func:`parse`, which accepts exactly the JSON that canonicalisation leaves unchanged in meaning, and
:func:`encode`, which writes RFC 8785 (I-D "Canonical JSON").

Invariants:

* whatever :func:`parse` returns, :func:`encode` accepts, and ``parse(encode(value)) == value``;
* a number that RFC 8785 prints as an integer is an ``int`` once parsed (``1.0``, ``1e3`` and ``-0.0`` are ``1``,
  ``1000`` and ``0``), so that code which looks for integers sees the same thing before and after a journey through
  another server; integers lie within ±(2^53 − 1), whichever way they were written;
* values are made of ``dict`` (with ``str`` keys), ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None``, of
  exactly these types. :func:`encode` takes a ``tuple`` as an array as well. Subclasses, other mappings and other
  sequences are refused, so that nothing is ever encoded by accident of what it derives from.

The standard library's C encoder writes what RFC 8785 asks for, but for three things: most floats, objects with a key
beyond the Basic Multilingual Plane (sorted by UTF-16 code unit, not by code point), and what must be refused. One walk
over the value finds all of them, and the few values that need it are then encoded in Python.
"""

from __future__ import annotations

import json
import json.encoder
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from lmatrix.errors import BadRequest, NotJson, UnsafeJson

MAX_SAFE_INTEGER = 2**53 - 1
"""Greatest integer, and with a minus sign the least, that every JSON implementation keeps exactly (RFC 7493)."""

MAX_DEPTH = 100
"""How deeply arrays and objects may be nested in what :func:`parse` takes; ``[]`` has depth 1."""

MAX_ENCODED_DEPTH = MAX_DEPTH + 28
"""The same for :func:`encode`: what was just within bounds when it was parsed can still be put into an envelope."""

# RFC 8785 (ECMAScript) writes a float below this without an exponent: an integral one then looks like an integer.
_FIRST_EXPONENT = 1e21

# Non-integral floats in this range are written alike by Python and by ECMAScript.
_LEAST_PLAIN_FLOAT = 1e-4

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


# -- Parsing ----------------------------------------------------------------------------------------------------------


def parse(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON strictly.

    Args:
        data: UTF-8 bytes, or text. No byte order mark.
        max_depth: how deeply arrays and objects may be nested.

    Raises:
        NotJson: not UTF-8, or not JSON (RFC 8259; ``NaN`` and ``Infinity`` are not).
        UnsafeJson: duplicate keys, lone surrogates, integers beyond ±(2^53 − 1), numbers beyond double precision, or
            nesting deeper than ``max_depth``.
    """
    if isinstance(data, str):
        try:
            data = data.encode("utf-8")
        except UnicodeEncodeError:
            raise UnsafeJson("a string contains a lone surrogate") from None
    try:
        value = _decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8: byte {error.start} is wrong") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    # Each level needs an opening bracket, and most JSON has fewer of them than levels are allowed.
    if data.count(b"{") + data.count(b"[") > max_depth:
        _refuse_depth(value, max_depth)
    # UTF-8 has no surrogates, hence only an escape can have made one, and most JSON has no such escape.
    if _SURROGATE_ESCAPE.search(data) is not None:
        _refuse_lone_surrogates(value)
    return value


def parse_object(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse JSON that has to be an object.

    Raises:
        NotJson, UnsafeJson: as :func:`parse`.
        BadRequest: it is JSON, but not an object.
    """
    value = parse(data, max_depth=max_depth)
    if type(value) is not dict:
        raise BadRequest("expected a JSON object")
    return value


def parse_trusted(data: bytes | str) -> Any:
    """Parse what :func:`encode` has written, without checking it again.

    For bytes out of our own database; never for bytes that a peer or a client sent.
    """
    return json.loads(data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise UnsafeJson(f"an object has the key {_first_duplicate(key for key, _ in pairs)!r} twice")
    return result


def _integer(text: str) -> int:
    # The length comes first: making an int of a long text takes time quadratic in its length.
    if len(text) <= 17:
        value = int(text)
        if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            return value
    raise _unsafe_number(text)


def _float(text: str) -> int | float:
    value = float(text)
    if math.isinf(value):
        raise _unsafe_number(text)
    if value.is_integer() and abs(value) < _FIRST_EXPONENT:
        if abs(value) > MAX_SAFE_INTEGER:
            raise _unsafe_number(text)
        return int(value)
    return value


def _constant(name: str) -> NoReturn:
    raise NotJson(f"not JSON: {name} is not a value")


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
).decode


def _first_duplicate(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            break
        seen.add(key)
    return key


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafeJson("a string contains a lone surrogate") from None


def _refuse_depth(value: Any, max_depth: int) -> None:
    level = [value] if type(value) is dict or type(value) is list else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise _too_deep(max_depth)
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]


def _too_deep(max_depth: int) -> UnsafeJson:
    return UnsafeJson(f"arrays and objects are nested more than {max_depth} deep")


def _unsafe_number(text: str) -> UnsafeJson:
    shown = text if len(text) <= 40 else text[:37] + "..."
    return UnsafeJson(f"the number {shown} cannot be kept exactly; integers must lie within ±(2^53 - 1)")


# -- Encoding ---------------------------------------------------------------------------------------------------------


def encode(value: Any, *, max_depth: int = MAX_ENCODED_DEPTH) -> bytes:
    """Encode as canonical JSON (RFC 8785).

    Args:
        value: ``dict`` (``str`` keys), ``list``, ``tuple`` (an array), ``str``, ``int``, ``float``, ``bool`` or
            ``None``, and nothing derived from them.
        max_depth: how deeply arrays and objects may be nested.

    Returns:
        UTF-8 bytes, without white space.

    Raises:
        UnsafeJson: a value of another type, a key that is no string, a lone surrogate, an integer beyond ±(2^53 − 1)
            or a float that would be printed as one, NaN or an infinity, or nesting deeper than ``max_depth``.
    """
    try:
        if _needs_python(value, max_depth):
            return _encode_in_python(value).encode("utf-8")
        text = _encode_in_c(value)
        if not text.isascii() and _has_key_beyond_bmp(value):
            text = _encode_in_python(value)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafeJson("a string contains a lone surrogate") from None


def format_float(value: float) -> str:
    """Write a finite float as ECMAScript's ``Number::toString`` does (ECMA-262, RFC 8785 section 3.2.2.3).

    ``repr`` finds the same shortest digits; where they are put is what differs.
    """
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    written = whole + fraction
    digits = written.lstrip("0")
    # The value is 0.DIGITS times ten to the power of `point`.
    point = len(whole) + int(exponent or "0") - (len(written) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def _needs_python(value: Any, depth: int) -> bool:
    """Whether the C encoder would write a float other than RFC 8785 does; refuses what cannot be encoded at all."""
    kind = type(value)
    if kind is dict:
        if not depth:
            raise _too_deep_to_encode()
        for key in value:
            if type(key) is not str:
                raise UnsafeJson(f"an object has a key that is not a string: {key!r}")
        children = value.values()
    elif kind is list or kind is tuple:
        if not depth:
            raise _too_deep_to_encode()
        children = value
    else:
        # A bare scalar is checked as the element of an array is.
        children = (value,)
        depth += 1
    found = False
    for child in children:
        kind = type(child)
        if kind is str or kind is bool or child is None:
            continue
        if kind is int:
            if not -MAX_SAFE_INTEGER <= child <= MAX_SAFE_INTEGER:
                raise _unsafe_number(_integer_text(child))
        elif kind is dict or kind is list or kind is tuple:
            if _needs_python(child, depth - 1):
                found = True
        elif kind is float:
            if not _is_plain_float(child):
                found = True
        else:
            raise UnsafeJson(f"a {kind.__name__} cannot be encoded as JSON")
    return found


def _is_plain_float(value: float) -> bool:
    """Whether the C encoder writes this float as RFC 8785 asks for; refuses those that nothing can write."""
    if not math.isfinite(value):
        raise UnsafeJson(f"{value!r} cannot be encoded as JSON")
    if value.is_integer():
        if MAX_SAFE_INTEGER < abs(value) < _FIRST_EXPONENT:
            raise _unsafe_number(format_float(value))
        return False
    return abs(value) >= _LEAST_PLAIN_FLOAT


def _has_key_beyond_bmp(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        keys = "".join(value)
        if not keys.isascii() and max(keys) > "\uffff":
            return True
        value = value.values()
    elif kind is not list and kind is not tuple:
        return False
    for child in value:
        kind = type(child)
        if (kind is dict or kind is list or kind is tuple) and _has_key_beyond_bmp(child):
            return True
    return False


def _encode_in_python(value: Any) -> str:
    """RFC 8785 in full, for a value that :func:`_needs_python` has let pass."""
    kind = type(value)
    if kind is dict:
        members = sorted(value.items(), key=_utf16_order)
        return "{" + ",".join([f"{_encode_in_c(key)}:{_encode_in_python(child)}" for key, child in members]) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join(map(_encode_in_python, value)) + "]"
    if kind is float:
        return format_float(value)
    return _encode_in_c(value)


def _utf16_order(member: tuple[str, Any]) -> bytes:
    # RFC 8785 section 3.2.3. Big-endian: bytes then compare as their code units do.
    return member[0].encode("utf-16-be")


def _standard_encoder(make: Callable[..., Any] | None) -> Callable[[Any], str]:
    """The standard library's encoder, set up for what it shares with RFC 8785.

    There is no check for cycles: the bound on the depth, checked beforehand, is one.

    Args:
        make: ``json.encoder.c_make_encoder``. The encoder is made once, whereas ``JSONEncoder.encode`` makes another
            for each call. ``None`` where the interpreter has none: ``JSONEncoder`` does it then.
    """

    def refuse(value: object) -> NoReturn:
        raise UnsafeJson(f"a {type(value).__name__} cannot be encoded as JSON")

    if make is None:
        return json.JSONEncoder(
            ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        ).encode
    chunks = make(None, refuse, json.encoder.encode_basestring, None, ":", ",", True, False, False)
    join = "".join

    def encode_in_c(value: Any) -> str:
        return join(chunks(value, 0))

    return encode_in_c


_encode_in_c = _standard_encoder(getattr(json.encoder, "c_make_encoder", None))


def _integer_text(value: int) -> str:
    # Writing out a huge int takes quadratic time, and Python refuses to from 4300 digits on.
    return str(value) if value.bit_length() <= 256 else f"of {value.bit_length()} bits"


def _too_deep_to_encode() -> UnsafeJson:
    return UnsafeJson("arrays and objects are nested too deeply to be encoded")
