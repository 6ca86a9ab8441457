"""Places in the stream for what is no event and no invite: messages to devices, device lists, receipts.

Owns: giving such places out, and the record of the last one. Invariant: what such a place was given to may be replaced
or removed, and the place is not given out again all the same.
"""

from __future__ import annotations

from lmatrix.storage.engine import Numbering, Transaction


def next_place(tx: Transaction) -> int:
    """A new position in the stream."""
    position = tx.take_numbers(Numbering.STREAM, 1)
    tx.execute("UPDATE side_stream SET position = ? WHERE only_row = 1", (position,))
    return position


def last_place(tx: Transaction) -> int:
    """The last position that :func:`next_place` gave out; 0 when there is none."""
    [(position,)] = tx.rows("SELECT position FROM side_stream WHERE only_row = 1")
    return int(position)
