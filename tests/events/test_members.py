"""An event in pieces: joined, they are its canonical JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.errors import UnsafeJson
from lmatrix.events.members import encode_members, encode_text, encode_texts, join

from .strategies import THOROUGH, json_values, texts

field_names = st.one_of(st.sampled_from(["content", "type", "sender", "hashes", "origin_server_ts"]), texts)


class MembersTests(SynchronousTestCase):
    """Against the encoder that owns canonical JSON."""

    @THOROUGH
    @given(st.dictionaries(field_names, json_values, max_size=6), st.data())
    def test_every_selection(self, fields, data) -> None:
        """Whatever fields are selected, joining their members encodes exactly them."""
        members = encode_members(fields)
        self.assertEqual(join(members.values()), canonical_json.encode(fields))
        selected = data.draw(st.sets(st.sampled_from(sorted(fields)))) if fields else set()
        self.assertEqual(
            join([part for key, part in members.items() if key in selected]),
            canonical_json.encode({key: fields[key] for key in selected}),
        )

    @THOROUGH
    @given(st.text())
    def test_text(self, text) -> None:
        """The short cut for plain text agrees with the encoder."""
        try:
            expected = canonical_json.encode(text)
        except UnsafeJson:
            self.assertRaises(UnsafeJson, encode_text, text)
        else:
            self.assertEqual(encode_text(text), expected)

    @THOROUGH
    @given(st.lists(texts, max_size=4))
    def test_texts(self, several) -> None:
        """So does the one for lists."""
        self.assertEqual(encode_texts(several), canonical_json.encode(several))

    def test_order_beyond_the_bmp(self) -> None:
        """Fields are in the order of UTF-16 code units, not of code points."""
        self.assertEqual(list(encode_members({"\ufb33": 1, "\U0001f600": 2, "z": 3})), ["z", "\U0001f600", "\ufb33"])

    def test_unsafe(self) -> None:
        """What has no canonical JSON is refused."""
        for value in (float("nan"), 2**53, "\ud800", {"\ud800": 1}, object()):
            self.assertRaises(UnsafeJson, encode_members, {"content": value})
        self.assertRaises(UnsafeJson, encode_members, {"\ud800": 1})
