"""What a notary shows for a query, and when it asks anew: tables of cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.crypto.keys import SigningKey
from lmatrix.federation.notary_choice import MIN_AGE_MS, KeyQuery, Shown, chosen, wants_refresh
from lmatrix.federation.server_keys import MAX_VALIDITY_MS, PublishedKeys
from lmatrix.rooms.key_store import StoredResponse
from tests.federation.fakes import DAY_MS, HOUR_MS, NOW_MS, old, published_keys, signing_key

A1, A2, A3 = signing_key("1", 1), signing_key("2", 2), signing_key("3", 3)
THEM = "them.example"


def shown(keys: Iterable[SigningKey], fetched_ts: int = NOW_MS, valid_for: int = 12 * HOUR_MS, **changes: Any) -> Shown:
    """A response that was fetched then."""
    answer = published_keys(THEM, keys, valid_until_ts=fetched_ts + valid_for, **changes)
    return Shown.of(StoredResponse(fetched_ts, PublishedKeys.read(THEM, answer, fetched_ts).response))


def everything(minimum: int | None = None) -> KeyQuery:
    """All keys are wanted."""
    return KeyQuery(THEM, minimum=minimum)


def named(**minimums: int | None) -> KeyQuery:
    """These keys are wanted: ``_1=5``."""
    return KeyQuery(THEM, {f"ed25519:{version[1:]}": minimum for version, minimum in minimums.items()})


class ChosenTests(SynchronousTestCase):
    """What is shown."""

    def setUp(self) -> None:
        # Two silent changes of keys in a row, and then an announced one.
        self.first = shown([A1], NOW_MS - 100 * DAY_MS)
        self.second = shown([A2], NOW_MS - HOUR_MS)
        self.last = shown([A3], NOW_MS, old=old(signing_key("gone", 4), NOW_MS - 200 * DAY_MS))
        self.held = [self.last, self.second, self.first]

    def test_table(self) -> None:
        """Each query, and which of the three responses are the answer to it."""
        ends = {name: one.valid_until_ts for name, one in vars(self).items() if isinstance(one, Shown)}
        for query, expected in (
            (everything(), "last second"),
            (everything(0), "last second first"),
            (everything(ends["first"]), "last second first"),
            (everything(ends["first"] + 1), "last second"),
            (everything(ends["second"] + 1), "last"),
            (everything(ends["last"]), "last"),
            (everything(ends["last"] + 1), ""),
            (named(_3=None), "last"),
            (named(_2=None), "second"),
            (named(_1=None), ""),
            (named(_1=0), "first"),
            (named(_1=ends["first"]), "first"),
            (named(_1=ends["first"] + 1), ""),
            (named(_1=0, _2=0, _3=0), "last second first"),
            (named(_1=0, _3=ends["last"] + 1), "first"),
            (named(_4=None), ""),
            (named(_gone=None), "last"),
            (named(_gone=NOW_MS - 200 * DAY_MS), "last"),
            (named(_gone=NOW_MS - 200 * DAY_MS + 1), ""),
        ):
            with self.subTest(str(query)):
                found = {id(one) for one in chosen(query, self.held, NOW_MS)}
                self.assertEqual(
                    [name for name in ("last", "second", "first") if id(getattr(self, name)) in found],
                    expected.split(),
                )

    def test_youngest_first_and_once(self) -> None:
        """For each key that is named, only the youngest response that has it; none twice; in order."""
        both = shown([A1, A2], NOW_MS - HOUR_MS)
        self.assertEqual(chosen(named(_1=0, _2=0), [both, self.first], NOW_MS), [both])
        self.assertEqual(chosen(named(_1=0, _3=0), [self.last, both, self.first], NOW_MS), [self.last, both])

    def test_silent_server(self) -> None:
        """When the last response has ended, its server was silent: everything is shown, unless a minimum is given."""
        later = NOW_MS + 30 * DAY_MS
        for query, expected in (
            (everything(), self.held),
            (everything(later), []),
            (everything(0), self.held),
            (named(_1=None), [self.first]),
            (named(_1=None, _3=None), [self.last, self.first]),
            (named(_3=later), []),
        ):
            with self.subTest(str(query)):
                self.assertEqual(chosen(query, self.held, later), expected)

    def test_validity_is_capped(self) -> None:
        """A response ends seven days after it came, whatever it says."""
        long = shown([A1], valid_for=99 * DAY_MS)
        self.assertEqual(long.valid_until_ts, NOW_MS + MAX_VALIDITY_MS)
        self.assertEqual(chosen(everything(NOW_MS + 8 * DAY_MS), [long], NOW_MS), [])

    def test_odd_old_keys(self) -> None:
        """Old keys without a sensible end are not there."""
        odd = shown([A1], old={"ed25519:x": {"key": "y"}, "ed25519:y": 5, "ed25519:z": {"expired_ts": "soon"}})
        self.assertEqual([odd.end_of(f"ed25519:{version}") for version in "xyz"], [None] * 3)
        self.assertEqual(chosen(named(_x=0, _y=0, _z=0), [odd], NOW_MS), [])

    def test_nothing(self) -> None:
        """Of a server that never answered there is nothing."""
        self.assertEqual(chosen(everything(), [], NOW_MS), [])


class WantsRefreshTests(SynchronousTestCase):
    """When the server is asked."""

    def test_table(self) -> None:
        """By age of the last response, in milliseconds, and query."""
        half = 6 * HOUR_MS
        far = NOW_MS + DAY_MS
        for age, query, expected in (
            (0, everything(), False),
            (half - 1, everything(), False),
            (half, everything(), True),
            (99 * DAY_MS, everything(0), True),
            (-1, everything(), True),
            # A validity that is longer than the last response's.
            (MIN_AGE_MS - 1, everything(far), False),
            (MIN_AGE_MS, everything(far), True),
            (MIN_AGE_MS, everything(NOW_MS + 12 * HOUR_MS), False),
            (MIN_AGE_MS, everything(NOW_MS + 12 * HOUR_MS + 1), True),
            # One that no response can have.
            (MIN_AGE_MS, everything(NOW_MS + 9 * DAY_MS), False),
            (MIN_AGE_MS, named(_1=NOW_MS + 9 * DAY_MS), False),
            # Keys.
            (MIN_AGE_MS, named(_1=None), False),
            (MIN_AGE_MS, named(_1=far), True),
            (MIN_AGE_MS - 1, named(_2=None), False),
            (MIN_AGE_MS, named(_2=None), True),
            (MIN_AGE_MS, named(_1=None, _2=5), True),
        ):
            with self.subTest(f"{age} {query}"):
                self.assertEqual(wants_refresh(query, [shown([A1])], NOW_MS + age), expected)

    def test_past_responses(self) -> None:
        """An old key that is at hand is not asked for again."""
        held = [shown([A2]), shown([A1], NOW_MS - DAY_MS)]
        self.assertFalse(wants_refresh(named(_1=0), held, NOW_MS + MIN_AGE_MS))
        self.assertTrue(wants_refresh(named(_1=NOW_MS), held, NOW_MS + MIN_AGE_MS))

    def test_unknown_server(self) -> None:
        """A server of which nothing is known is asked, whatever is wanted."""
        self.assertTrue(wants_refresh(everything(0), [], NOW_MS))
