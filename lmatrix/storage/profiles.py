"""Local users' profiles.

Owns: :class:`SqlProfileStore`, which implements :class:`~lmatrix.directory.interfaces.ProfileStore` and, for the rooms,
:class:`~lmatrix.rooms.interfaces.MemberProfiles`.
"""

from __future__ import annotations

from lmatrix.directory.profiles import Profile
from lmatrix.rooms.interfaces import JsonObject
from lmatrix.storage.engine import Transaction


class SqlProfileStore:
    """See :class:`~lmatrix.directory.interfaces.ProfileStore`."""

    def profile(self, tx: Transaction, user_id: str) -> Profile:
        """A user's profile; an empty one where nothing is set."""
        row = tx.row("SELECT displayname, avatar_url FROM profiles WHERE user_id = ?", (user_id,))
        return Profile() if row is None else Profile(*row)

    def member_fields(self, tx: Transaction, user_id: str) -> JsonObject:
        """The same, as member events say it."""
        return self.profile(tx, user_id).fields()

    def put_profile(self, tx: Transaction, user_id: str, profile: Profile) -> bool:
        """Change a profile; whether anything is different."""
        if profile == self.profile(tx, user_id):
            return False
        tx.execute(
            "INSERT INTO profiles (user_id, displayname, avatar_url, changes, announced) VALUES (?, ?, ?, 1, 0)"
            " ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname,"
            " avatar_url = excluded.avatar_url, changes = profiles.changes + 1",
            (user_id, profile.displayname, profile.avatar_url),
        )
        return True

    def unannounced(self, tx: Transaction, user_id: str) -> int | None:
        """The number of the last change, when the rooms have not been told of it."""
        row = tx.row("SELECT changes FROM profiles WHERE user_id = ? AND announced < changes", (user_id,))
        return None if row is None else int(row[0])

    def users_unannounced(self, tx: Transaction) -> list[str]:
        """Users with such a change."""
        return [user_id for (user_id,) in tx.rows("SELECT user_id FROM profiles WHERE announced < changes")]

    def announced(self, tx: Transaction, user_id: str, change: int) -> None:
        """The rooms have been told of all changes up to this one."""
        tx.execute("UPDATE profiles SET announced = ? WHERE user_id = ? AND announced < ?", (change, user_id, change))
