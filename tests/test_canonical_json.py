"""Canonical JSON: what is accepted, what is written, and that the two agree.

Second opinions: the ``rfc8785`` package for everything that can be encoded, ``canonicaljson`` where the Matrix
specification's older rules agree with RFC 8785, and for parsing the standard library with a naive check of its result.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import canonicaljson
import rfc8785
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.canonical_json import MAX_DEPTH, MAX_ENCODED_DEPTH, MAX_SAFE_INTEGER, encode, format_float, parse
from lmatrix.errors import BadRequest, InvalidJson, NotJson, UnsafeJson

VECTORS = json.loads((Path(__file__).parent / "vectors" / "canonical_json.json").read_text(encoding="utf-8"))

THOROUGH = settings(max_examples=150, deadline=None)

# -- Values -----------------------------------------------------------------------------------------------------------

# Characters near every border: controls, quotes, DEL, BMP private use (sorted after surrogates), beyond the BMP.
TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from('\x00\x1f"\\/\x7f\u2028\ud7ff\ue000\uffff😀𐀀\U0010ffff'),
    )
)
SAFE_INTEGERS = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
FINITE_FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def survives(value: float) -> bool:
    """Whether a float's canonical form is not an integer beyond the safe range."""
    return not (value.is_integer() and MAX_SAFE_INTEGER < abs(value) < 1e21)


def nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
    )


SCALARS = st.none() | st.booleans() | SAFE_INTEGERS | TEXTS
VALUES = nested(SCALARS | FINITE_FLOATS.filter(survives))
VALUES_WITHOUT_FLOATS = nested(SCALARS, st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])))


class VectorTests(SynchronousTestCase):
    """Published examples."""

    def test_canonical_forms(self) -> None:
        """Every text parses to a value whose encoding is the published canonical form, and that form is its own."""
        for case in VECTORS["cases"]:
            with self.subTest(case["text"]):
                expected = case["canonical"].encode("utf-8")
                self.assertEqual(encode(parse(case["text"])), expected)
                self.assertEqual(encode(parse(case["text"].encode("utf-8"))), expected)
                self.assertEqual(encode(parse(expected)), expected)

    def test_floats(self) -> None:
        """Every double of RFC 8785's table is printed as the table says."""
        for case in VECTORS["floats"]:
            with self.subTest(case["bits"]):
                (value,) = struct.unpack(">d", bytes.fromhex(case["bits"]))
                self.assertEqual(format_float(value), case["text"])

    def test_not_json(self) -> None:
        """What RFC 8259 does not allow is refused as not being JSON, JavaScript's and Python's extras included."""
        for text in VECTORS["not_json"]:
            with self.subTest(text):
                self.assertRaises(NotJson, parse, text)

    def test_unsafe(self) -> None:
        """Duplicate keys, lone surrogates and numbers that cannot be kept are refused as unsafe."""
        for text in VECTORS["unsafe"]:
            with self.subTest(text):
                self.assertRaises(UnsafeJson, parse, text)


class ParseTests(SynchronousTestCase):
    """What the parser refuses, and what it makes of numbers."""

    def test_not_utf8(self) -> None:
        """Invalid UTF-8, raw or overlong or with an encoded surrogate, and UTF-16 are not JSON."""
        for data in (
            b'"\xff"',
            b'"\xc0\xaf"',
            b'"\xed\xa0\x80"',
            b'"\xf4\x90\x80\x80"',
            '"a"'.encode("utf-16"),
            b'"\xe2',
        ):
            with self.subTest(data):
                self.assertRaises(NotJson, parse, data)

    def test_text_with_lone_surrogate(self) -> None:
        """A Python string may hold a lone surrogate without an escape; it is refused as well."""
        self.assertRaises(UnsafeJson, parse, '"\ud800"')

    def test_surrogate_pair(self) -> None:
        """An escaped surrogate pair is one character, and an escaped backslash before ``ud800`` is no escape."""
        self.assertEqual(parse(rb'"\ud83d\ude00"'), "\U0001f600")
        self.assertEqual(parse(rb'["\\ud800"]'), ["\\ud800"])

    def test_integral_numbers_become_integers(self) -> None:
        """A number that is printed as an integer is an ``int``, however it was spelled; any other is a ``float``."""
        for text in ("1.0", "10e-1", "0.1E1", "1"):
            self.assertIs(type(parse(text)), int, text)
            self.assertEqual(parse(text), 1)
        self.assertIs(type(parse("-0.0")), int)
        self.assertIs(type(parse("-0")), int)
        self.assertIs(type(parse("1.5")), float)
        self.assertIs(type(parse("1e21")), float)

    def test_integer_bounds(self) -> None:
        """±(2^53 − 1) are the last integers accepted, in either spelling."""
        for text in ("9007199254740991", "9007199254740991.0"):
            self.assertEqual(parse(text), MAX_SAFE_INTEGER)
            self.assertEqual(parse("-" + text), -MAX_SAFE_INTEGER)
        for text in (
            "9007199254740992",
            "9007199254740992.0",
            "9007199254740993",
            "1e20",
            "9" * 5000,
            "9" * 5000 + ".0",
        ):
            self.assertRaises(UnsafeJson, parse, text)
            self.assertRaises(UnsafeJson, parse, "-" + text)

    def test_depth(self) -> None:
        """Nesting is accepted up to the bound and refused from there on; brackets in strings do not count."""
        for opening, closing in (("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")):
            levels = MAX_DEPTH // (2 if len(opening) > 5 else 1)
            parse(opening * levels + "1" + closing * levels)
            for more in (levels + 1, 2_000, 100_000):
                self.assertRaises(UnsafeJson, parse, opening * more + "1" + closing * more)
        parse(json.dumps(["[[{" * 1000]))
        parse("[" + ",".join(["[]"] * 1000) + "]")
        self.assertRaises(UnsafeJson, parse, "[[]]", max_depth=1)
        self.assertEqual(parse("[[]]", max_depth=2), [[]])
        self.assertEqual(parse("[]", max_depth=1), [])

    def test_unclosed_depth(self) -> None:
        """A flood of opening brackets is an error like others, and no crash."""
        self.assertRaises(InvalidJson, parse, b"[" * 1_000_000)

    def test_object(self) -> None:
        """``parse_object`` takes an object, and nothing else."""
        self.assertEqual(canonical_json.parse_object(b'{"a":[1]}'), {"a": [1]})
        for text in ("[]", "1", '"a"', "null", "true"):
            self.assertRaises(BadRequest, canonical_json.parse_object, text)
        self.assertRaises(NotJson, canonical_json.parse_object, "{")
        self.assertRaises(UnsafeJson, canonical_json.parse_object, '{"a":1,"a":1}')

    def test_messages_are_bounded(self) -> None:
        """An error does not repeat a number of any length."""
        error = self.assertRaises(UnsafeJson, parse, "1" * 100_000)
        self.assertLess(len(str(error)), 200)


class EncodeTests(SynchronousTestCase):
    """What the encoder refuses, and the cases that leave the quick path."""

    def test_refused_values(self) -> None:
        """Values of other types, derived ones and keys that are no strings included, are refused at any depth."""

        class Colour(StrEnum):
            RED = "red"

        class Size(IntEnum):
            BIG = 1

        refused = [
            b"bytes", {1}, object(), OrderedDict(a=1), MappingProxyType({"a": 1}), Colour.RED, Size.BIG, 1j, iter([1]),
            {1: 2}, {None: 1}, {True: 1}, {1.5: 1}, {("a",): 1}, {"a": 1, 2: 3}, float("nan"), float("inf"),
            float("-inf"), MAX_SAFE_INTEGER + 1, -MAX_SAFE_INTEGER - 1, 10**5000, 2.0**53, -1e20, "\ud800", "a\udc00b",
            {"\ud800": 1}, {"\ud800": 1.0}, ["\udfff", 1.0],
        ]  # fmt: skip
        for value in refused:
            for wrapped in (value, [value], (value,), {"a": value}, {"a": [1.0, {"b": value}]}):
                self.assertRaises(UnsafeJson, encode, wrapped)

    def test_scalars(self) -> None:
        """A scalar alone is JSON too; ``True`` is not 1."""
        for value, expected in (
            (None, b"null"),
            (True, b"true"),
            (False, b"false"),
            (1, b"1"),
            (1.0, b"1"),
            ("a", b'"a"'),
        ):
            self.assertEqual(encode(value), expected)

    def test_tuples_are_arrays(self) -> None:
        """A tuple is encoded as a list is, on the quick path and on the other."""
        self.assertEqual(encode({"a": (1, ("b",), ())}), b'{"a":[1,["b"],[]]}')
        self.assertEqual(encode((1.0, ({"\ufb33": 2, "😀": 1},))), '[1,[{"😀":1,"\ufb33":2}]]'.encode())

    def test_key_order_beyond_bmp(self) -> None:
        """Keys are sorted by UTF-16 code unit: an emoji before U+FB33, which code points would put first."""
        for value in ({"\ufb33": 2, "\U0001f600": 1}, {"\ufb33": 2, "\U0001f600": 1, "f": 0.5}):
            ours = encode([{"x": value}])
            self.assertEqual(ours, rfc8785.dumps([{"x": value}]))
            self.assertNotEqual(ours, canonicaljson.encode_canonical_json([{"x": value}]))

    def test_depth(self) -> None:
        """Nesting is bounded, so that a cycle ends; what was parsed can still be wrapped."""

        def nest(levels: int) -> Any:
            value: Any = 1
            for level in range(levels):
                value = [value] if level % 2 else {"a": value}
            return value

        encode(nest(MAX_ENCODED_DEPTH))
        self.assertRaises(UnsafeJson, encode, nest(MAX_ENCODED_DEPTH + 1))
        self.assertEqual(encode([[]], max_depth=2), b"[[]]")
        self.assertRaises(UnsafeJson, encode, [[]], max_depth=1)
        self.assertGreaterEqual(MAX_ENCODED_DEPTH, MAX_DEPTH + 20)
        cycle: list[Any] = []
        cycle.append(cycle)
        self.assertRaises(UnsafeJson, encode, cycle)

    def test_value_is_left_alone(self) -> None:
        """Encoding changes nothing in the value."""
        value = {"b": [1.0, {"😀": 1, "\ufb33": 2}], "a": {}}
        before = repr(value)
        encode(value)
        self.assertEqual(repr(value), before)

    def test_without_c_encoder(self) -> None:
        """An interpreter without the C encoder writes the same."""
        in_python = canonical_json._standard_encoder(None)
        value = {"b": [1, None, True, '\x00\x1f\x7f"\\/é\u2028😀'], "a": {"d": 0.5, "c": ()}}
        self.assertEqual(in_python(value).encode(), encode(value))


class EncodeProperties(SynchronousTestCase):
    """The encoder against other implementations of the same thing."""

    @THOROUGH
    @given(VALUES)
    def test_rfc8785(self, value: Any) -> None:
        """``rfc8785`` writes the same bytes for every value that we encode."""
        self.assertEqual(encode(value), rfc8785.dumps(value))

    @THOROUGH
    @given(VALUES_WITHOUT_FLOATS)
    def test_canonicaljson(self, value: Any) -> None:
        """``canonicaljson`` writes the same bytes where there are no floats and no keys beyond the BMP."""
        self.assertEqual(encode(value), canonicaljson.encode_canonical_json(value))

    @THOROUGH
    @given(FINITE_FLOATS)
    def test_float_text(self, value: float) -> None:
        """Every float is written as ``rfc8785`` writes it, and reads back as the same float."""
        text = format_float(value)
        self.assertEqual(text.encode(), rfc8785.dumps(value))
        self.assertEqual(float(text), value)

    @THOROUGH
    @given(FINITE_FLOATS | st.integers(-(2**70), 2**70))
    def test_numbers_refused(self, number: float | int) -> None:
        """A number is refused exactly when it is printed as an integer beyond ±(2^53 − 1)."""
        printed = format_float(number) if isinstance(number, float) else str(number)
        safe = not printed.lstrip("-").isdigit() or abs(int(printed)) <= MAX_SAFE_INTEGER
        if safe:
            self.assertEqual(encode([number]), f"[{printed}]".encode())
        else:
            self.assertRaises(UnsafeJson, encode, [number])

    @THOROUGH
    @given(VALUES)
    def test_round_trip(self, value: Any) -> None:
        """What was encoded parses, to an equal value, which encodes to the same bytes; so does trusted parsing."""
        data = encode(value)
        self.assertEqual(encode(parse(data)), data)
        self.assertEqual(parse(data), value)
        self.assertEqual(repr(canonical_json.parse_trusted(data)), repr(parse(data)))


# -- Texts ------------------------------------------------------------------------------------------------------------

SPACES = st.text(" \t\r\n", max_size=2)
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]).map(lambda c: json.dumps(c, ensure_ascii=False)[1:-1]),
    st.integers(0, 0xFFFF).map(lambda unit: f"\\u{unit:04x}"),
    st.sampled_from([r"\ud83d\ude00", r"\uD83D", r"\udE00", r"\/", "a", "a", r"\u0061"]),
)
STRINGS = st.lists(CHARACTERS, max_size=4).map(lambda parts: '"' + "".join(parts) + '"')
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
LITERALS = st.sampled_from(["null", "true", "false"])


def _array(parts: list[tuple[str, str]]) -> str:
    return "[" + ",".join(space + part + space for space, part in parts) + "]"


def _object(parts: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f"{space}{key}{space}:{space}{part}" for space, key, part in parts) + "}"


JSON_TEXTS = st.recursive(
    STRINGS | NUMBERS | LITERALS,
    lambda inner: (
        st.lists(st.tuples(SPACES, inner), max_size=4).map(_array)
        | st.lists(st.tuples(SPACES, STRINGS, inner), max_size=4).map(_object)
    ),
    max_leaves=12,
)


def expected_value(text: str) -> Any:
    """The value of a JSON text, normalised; raises ``ValueError`` when it is not safe. Slow and obvious."""

    def check(value: Any) -> Any:
        if isinstance(value, str):
            value.encode("utf-8")
        elif isinstance(value, tuple):  # an object's members, see below
            keys = [check(key) for key, _ in value]
            if len(set(keys)) != len(keys):
                raise ValueError("duplicate")
            return {key: check(child) for key, child in value}
        elif isinstance(value, list):
            return [check(child) for child in value]
        elif isinstance(value, float):
            printed = rfc8785.dumps(value).decode()
            if printed.lstrip("-").isdigit():
                return check(int(printed))
        elif isinstance(value, int) and abs(value) > 2**53 - 1:
            raise ValueError("unsafe")
        return value

    return check(json.loads(text, object_pairs_hook=tuple))


class ParseProperties(SynchronousTestCase):
    """The parser against the standard library, over texts in every spelling."""

    @THOROUGH
    @given(JSON_TEXTS)
    def test_well_formed_text(self, text: str) -> None:
        """A JSON text is refused exactly when it is unsafe, and otherwise has the value that it should have."""
        try:
            expected = expected_value(text)
        except ValueError:
            self.assertRaises(UnsafeJson, parse, text)
        else:
            value = parse(text)
            self.assertEqual(repr(value), repr(expected))
            self.assertEqual(repr(parse(encode(value))), repr(parse(rfc8785.dumps(expected))))

    @THOROUGH
    @given(JSON_TEXTS, st.data())
    def test_damaged_text(self, text: str, data: st.DataObject) -> None:
        """Whatever is done to a text, it is refused, or its value survives encoding and parsing."""
        raw = bytearray(text.encode("utf-8"))
        assume(raw)
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        try:
            value = parse(bytes(raw))
        except InvalidJson:
            return
        self.assertEqual(parse(encode(value)), value)
        self.assertEqual(encode(value), rfc8785.dumps(value))

    @THOROUGH
    @given(st.dictionaries(TEXTS, SAFE_INTEGERS, min_size=1, max_size=5), st.data())
    def test_duplicate_key(self, members: dict[str, int], data: st.DataObject) -> None:
        """An object is refused as soon as one key comes twice, whatever the values, spelled alike or not."""
        again = data.draw(st.sampled_from(sorted(members)))
        pairs = [(key, json.dumps(key, ensure_ascii=False), value) for key, value in members.items()]
        place = data.draw(st.integers(0, len(pairs)))
        pairs.insert(place, (again, json.dumps(again), data.draw(SAFE_INTEGERS)))
        text = "{" + ",".join(f"{spelled}:{value}" for _, spelled, value in pairs) + "}"
        self.assertRaises(UnsafeJson, parse, text)
        self.assertRaises(UnsafeJson, parse, f'[{{"a":{text}}}]')
