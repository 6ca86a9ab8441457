"""The registry of room versions, and the properties in which they differ."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

import lmatrix.events
from lmatrix import ids
from lmatrix.errors import UnsupportedRoomVersion
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, V02, PathForm, known_room_versions, room_version

from .strategies import THOROUGH, json_values


class RegistryTests(SynchronousTestCase):
    """Which versions there are."""

    def test_known(self) -> None:
        """Two, the default one first; each is found by its identifier, and always the same object."""
        self.assertEqual(known_room_versions(), ("I.1", "org.matrix.i-d.ralston-mimi-linearized-matrix.02"))
        for identifier in known_room_versions():
            self.assertEqual(room_version(identifier).identifier, ids.room_version_id(identifier))
            self.assertIs(room_version(identifier), room_version(identifier))
        self.assertEqual(known_room_versions()[0], DEFAULT_ROOM_VERSION)

    @THOROUGH
    @given(json_values)
    def test_unknown(self, value) -> None:
        """Anything else is unsupported, whatever its type."""
        error = self.assertRaises(UnsupportedRoomVersion, room_version, value)
        self.assertEqual(error.identifier, value)

    def test_other_names(self) -> None:
        """Neither case nor prefix is forgiven."""
        for identifier in ("i.1", "I.1 ", "I.2", "1", "11", "org.matrix.i-d.ralston-mimi-linearized-matrix.00"):
            self.assertRaises(UnsupportedRoomVersion, room_version, identifier)


class PropertyTests(SynchronousTestCase):
    """The protocol notes' table."""

    def test_table(self) -> None:
        """I.1 and v02, row by row."""
        i1, v02 = room_version(DEFAULT_ROOM_VERSION), room_version(V02)
        for attribute, ours, theirs in (
            ("stable", True, False),
            ("hub_events_carry_lpdu", True, False),
            ("enforces_chain", True, False),
            ("max_lpdus_per_transaction", 50, 1),
            ("outbound_paths", PathForm.STABLE, PathForm.UNSTABLE),
            ("hub_is_state", True, False),
        ):
            self.assertEqual((getattr(i1, attribute), getattr(v02, attribute)), (ours, theirs), attribute)

    def test_nobody_compares_version_strings(self) -> None:
        """Outside of the registry no code of this package holds a version's identifier."""
        for path in Path(lmatrix.events.__file__).parent.glob("*.py"):
            if path.name == "room_versions.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    self.assertNotIn(node.value, known_room_versions(), path.name)
