"""What tests of bad input share: a server, a room in it, another server, and tables of what must be refused and how.

Owns: :class:`BadInputTestCase`. It judges answers (status, errcode, the shape of an error object), keeps everything
that is wrong instead of stopping at the first, and looks into the server's database for what should not be there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing

from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.processes import EndToEndTestCase, RealServer
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.signing_server import SigningServer
from tests.end_to_end.wire_events import Identity

KEPT_FOR_THEMSELVES = frozenset(
    {"received_transactions", "server_keys", "server_key_responses", "destinations", "delivery_cursors"}
)
"""Tables that a refused request may have changed: who asked, how they can be reached, and what they were answered."""


class BadInputTestCase(EndToEndTestCase):
    """A server with a user, a public room, and a member from a server that is not lmatrix.

    Attributes:
        us: the server under test, the room's hub.
        alice: its user, who made the room.
        raw: the other server; its user :attr:`member` is in the room.
        retired: the same server with the key that it had before, and lists as an old one.
    """

    maxDiff = None

    us: RealServer
    alice: ClientUser
    raw: SigningServer
    retired: Identity
    room_id: str
    member: str
    head: str

    async def stage(self, *more: str) -> list[RealServer]:
        """Set the scene; further real servers are started, and returned."""
        self.us, *others = await self.start_servers("us", *more)
        self.alice = await self.user(self.us, "alice")
        self.room_id = await self.alice.create_room(preset="public_chat")
        self.raw = self.signing_server(key_version="first")
        self.retired = self.raw.change_key("second", keep_old=True)
        self.member = self.raw.identity.user("member")
        await self.raw.client.join(self.us.server_name, self.room_id, self.member)
        self.wrong: list[str] = []
        await self.mark()
        return others

    async def mark(self) -> None:
        """Remember what is stored, after something that was meant to be stored."""
        self.head = (await self.alice.latest(self.room_id))["event_id"]
        self._stored = self.stored()

    def stored(self) -> dict[str, int]:
        """How many rows each table has that bad input must not change."""
        with closing(sqlite3.connect(f"file:{self.us.place.database}?mode=ro", uri=True)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {
                name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for name in names
                if name not in KEPT_FOR_THEMSELVES
            }

    def judge(self, what: str, answer: Answer, status: int, errcode: str | None = None) -> None:
        """Note what is wrong with an answer.

        Args:
            errcode: ``None`` where the answer is not to be an error.
        """
        found = (answer.status, answer.errcode)
        if found != (status, errcode):
            self.wrong.append(f"{what}: {found} instead of {(status, errcode)}: {answer.body[:300]!r}")
        elif errcode is not None:
            self._judge_error(what, answer)

    def judge_fields(self, what: str, answer: Answer, fields: Mapping[str, object]) -> None:
        """Note what an answer's object does not say as it should."""
        try:
            content = answer.json
        except ValueError:
            content = None
        if not isinstance(content, dict) or any(content.get(key) != value for key, value in fields.items()):
            self.wrong.append(f"{what}: {answer.body[:300]!r} instead of {fields}")

    def assert_good(self) -> None:
        """That every answer so far was as it should be, and that nothing was stored."""
        self.assertEqual("", "\n".join(self.wrong))
        self.assertEqual(self._stored, self.stored())

    async def assert_nothing_happened(self) -> None:
        """That every answer was as it should be, and that the room and the database are what they were."""
        self.assert_good()
        self.assertEqual(self.head, (await self.alice.latest(self.room_id))["event_id"])

    def _judge_error(self, what: str, answer: Answer) -> None:
        content_type = answer.headers.getRawHeaders("content-type") or [""]
        error = answer.json.get("error")
        if not content_type[0].startswith("application/json"):
            self.wrong.append(f"{what}: Content-Type {content_type}")
        if not isinstance(error, str) or not 3 < len(error) <= 500 or "Traceback" in error:
            self.wrong.append(f"{what}: the message is {error!r}")
