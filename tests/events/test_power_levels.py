"""Power levels, as they are read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.events.power_levels import PowerLevels
from lmatrix.events.state import StateMap

from .builders import ALICE, BOB, power_levels, room
from .strategies import THOROUGH, contents


class PowerLevelsTests(SynchronousTestCase):
    """Users' levels, and the levels that things need."""

    def test_no_event(self) -> None:
        """The creator has 100, others 0; actions and events need their defaults."""
        levels = PowerLevels.of(room())
        self.assertEqual((levels.user_level(ALICE), levels.user_level(BOB)), (100, 0))
        self.assertEqual([levels.level_for(what) for what in ("ban", "kick", "redact", "invite")], [50, 50, 50, 0])
        self.assertEqual((levels.level_for_event("x", True), levels.level_for_event("x", False)), (50, 0))

    def test_empty_event(self) -> None:
        """With an event, the creator is a user like any other."""
        levels = PowerLevels.of(room(power_levels()))
        self.assertEqual((levels.user_level(ALICE), levels.user_level(BOB)), (0, 0))
        self.assertEqual([levels.level_for(what) for what in ("ban", "kick", "redact", "invite")], [50, 50, 50, 0])

    def test_set(self) -> None:
        """What is set, holds."""
        levels = PowerLevels.of(
            room(
                power_levels(
                    users={BOB: 7}, users_default=1, ban=2, kick=3, redact=4, invite=5,
                    events={"x": 6}, events_default=8, state_default=9,
                )
            )
        )  # fmt: skip
        self.assertEqual((levels.user_level(ALICE), levels.user_level(BOB)), (1, 7))
        self.assertEqual([levels.level_for(what) for what in ("ban", "kick", "redact", "invite")], [2, 3, 4, 5])
        self.assertEqual(levels.level_for_event("x", True), 6)
        self.assertEqual(levels.level_for_event("x", False), 6)
        self.assertEqual((levels.level_for_event("y", True), levels.level_for_event("y", False)), (9, 8))

    def test_no_room(self) -> None:
        """Nobody created it, so nobody has power."""
        self.assertEqual(PowerLevels.of(StateMap()).user_level(ALICE), 0)

    @THOROUGH
    @given(contents, st.text(max_size=5))
    def test_always_an_integer(self, content, text) -> None:
        """Whatever the content, a level is an integer."""
        levels = PowerLevels(content, None)
        for level in (
            levels.user_level(ALICE),
            levels.user_level(text),
            levels.level_for("ban"),
            levels.level_for("invite"),
            levels.level_for_event("m.room.message", False),
            levels.level_for_event(text, True),
        ):
            self.assertIs(type(level), int)
