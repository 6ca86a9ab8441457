"""Users' names on the other side: reversible, never shared, within the grammar of both sides."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import ids
from lmatrix.replication.names import Names

US = "us.example"
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LOCALPARTS = st.text("abcxyz019-.=_/+", min_size=1, max_size=300)
SERVERS = st.sampled_from(["north.example", "north.example:8448", "[2001:db8::1]:1", "a-b.example"])
LM_USERS = st.builds(lambda local, server: f"@{local}:{server}"[-250:], LOCALPARTS, SERVERS).map(
    lambda user: user if user.startswith("@") else "@" + user[1:]
)
HISTORICAL = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x1F600, exclude_characters=":", exclude_categories=["Cs"]),
    min_size=1,
)
DAG_USERS = st.builds(lambda local, server: f"@{local[:60]}:{server}", HISTORICAL, SERVERS)


def names() -> Names:
    return Names(US, f"@bridge:{US}")


class NamesTests(SynchronousTestCase):
    @UNHURRIED
    @given(LM_USERS)
    def test_lm_users_and_back(self, user_id: str) -> None:
        """A remote LM user's ghost leads back to the user, and is a user ID that every DAG server takes."""
        them = names()
        ghost = them.to_dag(user_id)
        self.assertTrue(them.is_dag_ghost(ghost))
        self.assertEqual(them.to_lm(ghost), user_id)
        self.assertLessEqual(len(ghost), 255)
        self.assertTrue(re.fullmatch(r"@[a-z0-9=_./+-]+:us\.example", ghost), ghost)

    @UNHURRIED
    @given(DAG_USERS)
    def test_dag_users_and_back(self, user_id: str) -> None:
        """Another DAG server's user, however old its user ID, has a name on the LM side that leads back."""
        them = names()
        ghost = them.to_lm(user_id)
        assert ghost is not None
        self.assertEqual(ids.user_id(ghost), ghost)
        self.assertEqual(them.to_dag(ghost), user_id)

    @UNHURRIED
    @given(LM_USERS, LM_USERS)
    def test_never_shared(self, one: str, other: str) -> None:
        """Two users never have one name."""
        them = names()
        self.assertEqual(them.to_dag(one) == them.to_dag(other), one == other)

    def test_our_own(self) -> None:
        """Our own people are called the same on both sides; the bot is nobody on the LM side."""
        them = names()
        self.assertEqual(them.to_dag(f"@alice:{US}"), f"@alice:{US}")
        self.assertEqual(them.to_lm(f"@alice:{US}"), f"@alice:{US}")
        self.assertIsNone(them.to_lm(f"@bridge:{US}"))
        self.assertTrue(them.is_person(f"@alice:{US}"))
        for nobody in (f"@bridge:{US}", f"@lm.x=3ay:{US}", f"@dag.x=3ay:{US}", "@bob:north.example"):
            self.assertFalse(them.is_person(nobody), nobody)

    def test_spelling(self) -> None:
        """The spelling is the documented one."""
        self.assertEqual(names().to_dag("@bob+1:north.example:8448"), f"@lm.bob=2b1=3anorth.example=3a8448:{US}")

    def test_long_names(self) -> None:
        """A name that is too long is hashed, and must be remembered to lead back."""
        them = names()
        long = "@" + "=" * 200 + ":north.example"
        ghost = them.to_dag(long)
        self.assertEqual(them.hashed, {ghost: long})
        self.assertIsNone(names().to_lm(ghost))
        self.assertEqual(Names(US, f"@bridge:{US}", {ghost: long}).to_lm(ghost), long)

    def test_names_that_nobody_makes(self) -> None:
        """What has the prefix and is not spelt as we spell it stands for nobody."""
        for local in (
            "lm.",
            "lm.bob",
            "lm.bob=2",
            "lm.=3A",
            "lm.bob=3anorth.example=",
            f"lm.alice=3a{US}",
            "dag.x=3ay",
        ):
            self.assertIsNone(names().to_lm(f"@{local}:{US}"), local)

    def test_historical_names(self) -> None:
        """A local user whose name the LM side cannot spell is not mapped."""
        self.assertIsNone(names().to_lm(f"@Alice:{US}"))
