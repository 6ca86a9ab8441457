"""The oracle sees what it is there for."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.errors import BadRequest
from lmatrix.rooms.local_users import LocalUsers
from tests.fuzz.oracle import Watch, Wrong
from tests.fuzz.requests import Call
from tests.fuzz.world import ALICE, TOKENS, Overdue, World, the_stage


class OracleTests(SynchronousTestCase):
    """A server that does each thing that must not be is found out."""

    def play(self, room: Any) -> None:
        """Send a message while the rooms do something else."""
        directory = Path(tempfile.mkdtemp(dir=self.mktemp_dir()))
        world = World(the_stage(), directory)
        watch = Watch(world)
        self.addCleanup(watch.close)
        target = f"/_matrix/client/v3/rooms/{the_stage().rooms['hub'].replace('!', '%21')}/send/m.x/1"
        original = LocalUsers.send

        def send(users: LocalUsers, *arguments: Any, **more: Any) -> Awaitable[str]:
            return room(world, lambda: original(users, *arguments, **more))

        self.patch(LocalUsers, "send", send)
        watch.play(Call(None, None, "PUT", target, (("Authorization", f"Bearer {TOKENS[ALICE]}"),), b"{}", {}))
        watch.end()

    def mktemp_dir(self) -> str:
        """A directory that is gone after the test."""
        path = Path(self.mktemp())
        path.mkdir()
        return str(path)

    def test_good(self) -> None:
        """What is right is not found fault with."""
        self.play(lambda world, send: send())

    def test_500(self) -> None:
        """An exception that nobody expected."""

        async def fail(world: World, send: Any) -> str:
            raise ZeroDivisionError

        with self.assertRaises(Wrong):
            self.play(fail)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_unhandled(self) -> None:
        """An error beside the answer."""

        def fail(world: World, send: Any) -> Awaitable[str]:
            Deferred().errback(ZeroDivisionError())
            result: Awaitable[str] = send()
            return result

        with self.assertRaises(Wrong):
            self.play(fail)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_hang(self) -> None:
        """An answer that does not come."""

        async def hang(world: World, send: Any) -> str:
            return await Deferred()

        with self.assertRaises(Overdue):
            self.play(hang)

    def test_growth(self) -> None:
        """Something that stays in memory."""

        async def grow(world: World, send: Any) -> str:
            world.us.server.rooms.local_users.left_over = dict.fromkeys(range(9), "x")  # type: ignore[attr-defined]
            result: str = await send()
            return result

        with self.assertRaises(Wrong):
            self.play(grow)

    def test_stored_though_refused(self) -> None:
        """A refusal of what has been done."""

        async def refuse(world: World, send: Any) -> str:
            await send()
            raise BadRequest("no")

        with self.assertRaises(Wrong):
            self.play(refuse)
