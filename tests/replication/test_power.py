"""Power levels there and back: nothing is lost that both sides can say, and a second round changes nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.replication.names import Names
from lmatrix.replication.power import bots_level, power_to_dag, power_to_lm

US = "us.example"
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BOT = f"@bridge:{US}"
LEVELS = st.integers(-10, 200)
FIELDS = ("users_default", "events_default", "state_default", "ban", "kick", "redact", "invite")
LM_USERS = st.sampled_from([f"@alice:{US}", "@bob:north.example", "@carol:south.example", f"@dag.x=3ay.example:{US}"])
DAG_USERS = st.sampled_from([f"@alice:{US}", f"@lm.bob=3anorth.example:{US}", "@x:y.example", BOT, f"@Old:{US}"])
CREATORS = st.frozensets(st.sampled_from([f"@alice:{US}", "@x:y.example", BOT]), max_size=2)


def contents(users: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"users": st.dictionaries(users, LEVELS, max_size=4)},
        optional={
            **dict.fromkeys(FIELDS, LEVELS),
            "events": st.dictionaries(st.sampled_from(["m.room.name", "m.reaction"]), LEVELS),
            "notifications": st.just({"room": 50}),
        },
    )


def names() -> Names:
    return Names(US, BOT)


class PowerTests(SynchronousTestCase):
    @UNHURRIED
    @given(contents(DAG_USERS), CREATORS)
    def test_dag_lm_dag(self, content: dict[str, Any], creators: frozenset[str]) -> None:
        """Power levels of a DAG room that went to the LM side come back as they were; creators are never listed."""
        content["users"] = {user: level for user, level in content["users"].items() if user not in creators}
        there = power_to_lm(content, names(), creators)
        self.assertEqual(power_to_dag(there, names(), creators, content), content)

    @UNHURRIED
    @given(contents(LM_USERS), CREATORS, contents(DAG_USERS))
    def test_lm_dag_lm_settles(
        self, content: dict[str, Any], creators: frozenset[str], present: dict[str, Any]
    ) -> None:
        """Power levels of an LM room come back as they were, but for creators; from then on nothing changes."""
        there = power_to_dag(content, names(), creators, present)
        back = power_to_lm(there, names(), creators)
        mapped = {names().to_lm(creator) for creator in creators}
        for user, level in content["users"].items():
            if user not in mapped:
                self.assertEqual(back["users"][user], level)
        self.assertEqual({**back, "users": None}, {**content, "users": None})
        self.assertEqual(power_to_lm(power_to_dag(back, names(), creators, there), names(), creators), back)

    @UNHURRIED
    @given(contents(DAG_USERS), CREATORS)
    def test_creators_are_above(self, content: dict[str, Any], creators: frozenset[str]) -> None:
        """On the LM side a creator has all the power that the room asks for, and more than anybody else."""
        there = power_to_lm(content, names(), creators)
        high = {name for creator in creators if (name := names().to_lm(creator))}
        for creator in high:
            level = there["users"][creator]
            self.assertTrue(all(level > other for user, other in there["users"].items() if user not in high))
            self.assertTrue(all(level >= asked for asked in there.get("events", {}).values()))
            self.assertTrue(all(level >= there.get(field, 0) for field in FIELDS))

    @UNHURRIED
    @given(contents(DAG_USERS))
    def test_the_bot_is_above_everybody(self, content: dict[str, Any]) -> None:
        """With its level the bot can undo what anybody does, and change every level."""
        level = bots_level(content)
        self.assertTrue(all(level > other for other in content["users"].values()))

    def test_the_bot_keeps_its_level(self) -> None:
        """The bot's level is the DAG side's own business: the LM side does not see it, and does not take it away."""
        present = {"users": {BOT: 101, f"@lm.bob=3anorth.example:{US}": 100}}
        self.assertEqual(power_to_lm(present, names(), ())["users"], {"@bob:north.example": 100})
        written = power_to_dag({"users": {"@bob:north.example": 50}}, names(), (), present)
        self.assertEqual(written["users"], {BOT: 101, f"@lm.bob=3anorth.example:{US}": 50})

    def test_old_rooms(self) -> None:
        """Levels as strings, which old room versions allow, become integers; what is no level is left out."""
        there = power_to_lm({"users": {"@x:y.example": "50"}, "ban": "7", "kick": 1.5, "events": []}, names(), ())
        self.assertEqual(there, {"users": {f"@dag.x=3ay.example:{US}": 50}, "ban": 7})
