"""Profiles, and the news of their changes; room aliases."""

from __future__ import annotations

from lmatrix.directory.interfaces import StoredAlias
from lmatrix.directory.profiles import Profile
from lmatrix.errors import AliasTaken
from tests.storage.logs import ALICE, BOB, ROOM, StorageTestCase

HERE, THERE = StoredAlias("#here:x", ROOM, ALICE), StoredAlias("#there:x", ROOM, BOB)
ELSEWHERE = StoredAlias("#elsewhere:x", "!other:x", ALICE)


class ProfileTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.profiles = self.stores.profiles

    def put(self, profile: Profile, user_id: str = ALICE) -> bool:
        return self.write(lambda tx: self.profiles.put_profile(tx, user_id, profile))

    def test_profiles(self) -> None:
        """A profile is what was put last, for one user; nothing is an empty one; member events say what is set."""
        self.assertEqual(self.read(lambda tx: self.profiles.profile(tx, ALICE)), Profile())
        self.put(Profile("Alice", "mxc://x/a"))
        self.put(Profile("Bob"), BOB)
        self.assertEqual(self.read(lambda tx: self.profiles.profile(tx, ALICE)), Profile("Alice", "mxc://x/a"))
        self.assertEqual(self.read(lambda tx: self.profiles.member_fields(tx, BOB)), {"displayname": "Bob"})
        self.put(Profile(None, "mxc://x/b"))
        self.assertEqual(self.read(lambda tx: self.profiles.member_fields(tx, ALICE)), {"avatar_url": "mxc://x/b"})

    def test_what_is_to_be_told(self) -> None:
        """A change is news until it has been told; what is told late does not hide what came after it."""
        self.assertEqual(self.read(self.profiles.users_unannounced), [])
        self.assertFalse(self.put(Profile()))
        self.assertTrue(self.put(Profile("A")))
        self.assertFalse(self.put(Profile("A")))
        first = self.read(lambda tx: self.profiles.unannounced(tx, ALICE))
        assert first is not None
        self.assertTrue(self.put(Profile("B")))
        self.write(lambda tx: self.profiles.announced(tx, ALICE, first))
        self.assertEqual(self.read(self.profiles.users_unannounced), [ALICE])
        second = self.read(lambda tx: self.profiles.unannounced(tx, ALICE))
        assert second is not None
        self.write(lambda tx: self.profiles.announced(tx, ALICE, second))
        self.write(lambda tx: self.profiles.announced(tx, ALICE, first))
        self.assertEqual(self.read(self.profiles.users_unannounced), [])
        self.assertIsNone(self.read(lambda tx: self.profiles.unannounced(tx, ALICE)))


class AliasTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.aliases = self.stores.aliases
        for one in (THERE, HERE, ELSEWHERE):
            self.write(lambda tx, one=one: self.aliases.put_alias(tx, one, 1))

    def test_aliases(self) -> None:
        """An alias is made once, and is there until it is removed."""
        self.assertEqual(self.read(lambda tx: self.aliases.alias(tx, "#here:x")), HERE)
        self.assertIsNone(self.read(lambda tx: self.aliases.alias(tx, "#HERE:x")))
        other = StoredAlias("#here:x", "!other:x", BOB)
        self.failureResultOf(self.database.write(lambda tx: self.aliases.put_alias(tx, other, 2)), AliasTaken)
        self.assertEqual(self.read(lambda tx: self.aliases.alias(tx, "#here:x")), HERE)
        self.write(lambda tx: self.aliases.remove_alias(tx, "#here:x"))
        self.write(lambda tx: self.aliases.remove_alias(tx, "#here:x"))
        self.assertIsNone(self.read(lambda tx: self.aliases.alias(tx, "#here:x")))
        self.write(lambda tx: self.aliases.put_alias(tx, other, 2))

    def test_lists(self) -> None:
        """By room, by number of a user's, and page by page."""
        self.assertEqual(self.read(lambda tx: self.aliases.aliases_of_room(tx, ROOM)), ["#here:x", "#there:x"])
        self.assertEqual(self.read(lambda tx: self.aliases.aliases_by(tx, ALICE)), 2)
        self.assertEqual(self.read(lambda tx: self.aliases.aliases_by(tx, "@nobody:x")), 0)
        self.assertEqual(self.read(lambda tx: self.aliases.aliases_after(tx, "", 2)), [ELSEWHERE, HERE])
        self.assertEqual(self.read(lambda tx: self.aliases.aliases_after(tx, "#here:x", 2)), [THERE])
