"""The directory ``synctl_example`` as it stands: prepared, started with synctl, and with the standalone server beside
it.

The one thing that is changed in the copy that is tested are the numbers of the ports.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from lmatrix.demo.servers import Place
from tests.end_to_end.client_user import ClientUser
from tests.end_to_end.operator import run
from tests.end_to_end.processes import RealServer, eventually, free_ports, reactor
from tests.synapse.processes import SynapseTestCase
from tests.synapse.test_mirrors import invited, member

EXAMPLE = Path(__file__).parent.parent.parent / "synctl_example"
PORTS = ("18448", "18449", "18450", "18008", "18009")
SECRETS = re.compile(r".*\.(key|secret|token)|registration\.yaml")


class ExampleTests(SynapseTestCase):
    """The example, run as its README says."""

    if not EXAMPLE.is_dir():
        skip = "the tests are run without the checkout that has synctl_example"

    def copied(self) -> Path:
        """The files that are in version control, with ports that are free."""
        home = (self.directory / "example").absolute()
        ignored = shutil.ignore_patterns(
            *[line for line in (EXAMPLE / ".gitignore").read_text().split("\n") if line and line[0] != "#"],
            "media_store",
        )
        shutil.copytree(EXAMPLE, home, ignore=ignored)
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        for name in ("homeserver.yaml", "lmatrix.yaml"):
            file = home / name
            file.write_text(re.sub("|".join(PORTS), lambda match: ports[match[0]], file.read_text()))
        self.ports = ports
        return home

    async def run_there(self, home: Path, *command: str) -> str:
        """Run a command of the README in the directory; what it says."""
        executable = Path(sys.executable).with_name(command[0])
        words = [sys.executable, str(executable if executable.exists() else home / command[0]), *command[1:]]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        output, errors, status = await getProcessOutputAndValue(
            words[0], words[1:], env=environment, path=str(home), reactor=reactor
        )
        self.assertEqual(0, status, (output + errors).decode())
        return output.decode()

    async def test_example(self) -> None:
        """Secrets are made, once, for their owner only; ``synctl start`` gives a Synapse with lmatrix in it, which
        stops in order; the standalone server beside it reaches it, and is reached.
        """
        home = self.copied()
        self.assertIn("wrote registration.yaml", await self.run_there(home, "prepare"))
        self.assertEqual("", await self.run_there(home, "prepare"), "what is there is kept")
        for file in home.iterdir():
            if SECRETS.fullmatch(file.name):
                self.assertEqual(0o600, stat.S_IMODE(file.stat().st_mode), file.name)
        log = home / "homeserver.log"
        self.addCleanup(self.run_there, home, "synctl", "stop")
        await self.run_there(home, "synctl", "start")
        await eventually("lmatrix is ready", lambda: "lmatrix is ready" in log.read_text())
        self.assertEqual(0o600, stat.S_IMODE((home / "lmatrix.db").stat().st_mode))
        await self.together(home)
        await self.run_there(home, "synctl", "stop")
        text = log.read_text()
        self.assertIn("lmatrix has stopped", text)
        self.assertNotIn("did not stop in order", text)

    async def together(self, home: Path) -> None:
        """Users of both servers meet."""
        place = Place(
            "standalone",
            f"localhost:{self.ports['18449']}",
            f"http://127.0.0.1:{self.ports['18009']}",
            home,
            home / "lmatrix.yaml",
            home / "standalone.db",
        )
        standalone = RealServer(place, self._health)
        self.servers.append(standalone)
        await standalone.start()
        alice = ClientUser(f"http://127.0.0.1:{self.ports['18008']}", self.http)
        bob = ClientUser(place.client_url, self.http)
        await alice.register("alice")
        await bob.register("bob")
        room_id = await bob.create_room(preset="private_chat", name="Two sides")
        await bob.change(room_id, "invite", user_id=alice.user_id)
        mirror = await invited(alice)
        await alice.join(mirror, f"localhost:{self.ports['18448']}")
        await member(bob, room_id, alice.user_id, "join")
        listed = await run("mirrors", str(home / "homeserver.yaml"))
        self.assertIn(f"{room_id} = {mirror}  open", listed.output, listed)
