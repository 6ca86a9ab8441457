"""RFC 9420's presentation language: vectors and numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.mls.wire import InvalidMls, Reader, vector


class WireTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=100) | st.sampled_from([b"x" * 63, b"x" * 64, b"x" * 16383, b"x" * 16384])))
    def test_round_trip(self, contents: list[bytes]) -> None:
        """What is written is read again, in order, and nothing is left."""
        reader = Reader(b"".join(map(vector, contents)))
        self.assertEqual([reader.vector() for _ in contents], contents)
        reader.end()

    def test_examples_of_the_rfc(self) -> None:
        """The lengths in RFC 9420 section 2.1.2: 37, 15293 and 494878333."""
        self.assertEqual(vector(b"x" * 37)[:1], bytes.fromhex("25"))
        self.assertEqual(vector(b"x" * 15293)[:2], bytes.fromhex("7bbd"))
        with self.assertRaises(InvalidMls) as caught:
            Reader(bytes.fromhex("9d7f3e7d")).vector()
        self.assertIn("end too early", str(caught.exception))

    def test_malformed(self) -> None:
        """Lengths that are not minimal, have the forbidden prefix, or lead past the end, are refused."""
        for data in (
            "",  # nothing
            "40",  # half a length
            "4001ff",  # 1 in two bytes
            "403f" + "00" * 63,  # 63 in two bytes
            "80000001ff",  # 1 in four bytes
            "80003fff" + "00" * 16383,
            "c0",
            "ff" * 9,
            "0300ff",
        ):
            with self.assertRaises(InvalidMls):
                Reader(bytes.fromhex(data)).vector()

    def test_the_smallest_of_each_length(self) -> None:
        """64 needs two bytes and 16384 four."""
        self.assertEqual(Reader(bytes.fromhex("4040") + b"x" * 64).vector(), b"x" * 64)
        self.assertEqual(Reader(bytes.fromhex("80004000") + b"x" * 16384).vector(), b"x" * 16384)

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Whatever comes, it is read or refused with the one error, and never past its end."""
        reader = Reader(data)
        try:
            while not reader.ended:
                reader.vector()
        except InvalidMls:
            pass
        self.assertLessEqual(reader.at, len(data))

    def test_too_much(self) -> None:
        """Bytes that are left over are refused."""
        reader = Reader(b"\0\1\2")
        self.assertEqual(reader.uint(2), 1)
        with self.assertRaises(InvalidMls):
            reader.end()
        self.assertEqual(reader.since(1), b"\1")
