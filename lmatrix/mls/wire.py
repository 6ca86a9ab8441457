"""RFC 9420's presentation language, the reading half (section 2.1).

Owns: :class:`Reader` and the one error for everything that is not well-formed. Invariants: nothing is read past the
end; the length of a vector is encoded in as few bytes as possible, as section 2.1.2 asks; what is read costs no more
than its own length.
"""

from __future__ import annotations

from lmatrix.errors import LMatrixError

_FORBIDDEN_PREFIX = 3


class InvalidMls(LMatrixError):
    """Something that is not well-formed MLS, or contradicts itself."""


class Reader:
    """Reads structures from front to back.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at(self) -> int:
        """How many bytes have been read."""
        return self._at

    @property
    def ended(self) -> bool:
        """Whether everything has been read."""
        return self._at == len(self._data)

    def uint(self, size: int) -> int:
        """An unsigned integer of ``size`` bytes. Raises :class:`InvalidMls`."""
        return int.from_bytes(self._take(size), "big")

    def vector(self) -> bytes:
        """A variable-size vector's content (``opaque x<V>``). Raises :class:`InvalidMls`."""
        first = self.uint(1)
        prefix, length = first >> 6, first & 0x3F
        if prefix == _FORBIDDEN_PREFIX:
            raise InvalidMls("the length of a vector has an invalid prefix")
        extra = (1 << prefix) - 1
        if extra:
            length = length << (8 * extra) | self.uint(extra)
            if length < 1 << (6 if prefix == 1 else 14):
                raise InvalidMls("the length of a vector is not encoded in as few bytes as possible")
        return self._take(length)

    def end(self) -> None:
        """Raises :class:`InvalidMls` unless everything has been read."""
        if not self.ended:
            raise InvalidMls(f"{len(self._data) - self._at} bytes too many")

    def since(self, start: int) -> bytes:
        """What was read from ``start`` (a former :attr:`at`) until now."""
        return self._data[start : self._at]

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise InvalidMls("the data end too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken


def vector(content: bytes) -> bytes:
    """Write a variable-size vector; for what is signed together with its length.

    Raises:
        InvalidMls: 2^30 bytes or more.
    """
    length = len(content)
    for prefix, size in enumerate((1, 2, 4)):
        if length < 1 << (8 * size - 2):
            return (length | prefix << (8 * size - 2)).to_bytes(size, "big") + content
    raise InvalidMls("too long for a vector")
