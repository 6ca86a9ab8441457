"""A server: its name, its files and its keys, which last, and its processes, which come and go.

Owns: :class:`Node` and :class:`Process`. A process is what :func:`lmatrix.server.build_server` builds, the whole of it,
on a reactor, a disk and a network of the simulation. A crash stops a process between two turns of its reactor, which
is at any ``await`` and on either side of any commit; whatever was in memory is never heard of again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lmatrix.config import Config, parse_config
from lmatrix.config.files import load_own_keys
from lmatrix.config.key_rotation import rotate
from lmatrix.crypto.keys import SigningKey
from lmatrix.server import Outside, Server, build_server
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.stores import Stores
from tests.simulation.clocks import WorldClock
from tests.simulation.disk import Disk, Speed
from tests.simulation.network import ArrivedRequest, Distort, MemoryTransport, Network, StaticRoutes, Tamper
from tests.simulation.reactor import ServerReactor
from tests.simulation.reverify import PublicKey

_CONFIG = """\
server_name: "{name}"
signing_key_path: "signing.key"
listeners:
  - port: 8448
    tls: false
    resources: [federation, keys]
database:
  path: "lmatrix.db"
federation:
  timeouts:
    longest_back_off_seconds: 600
"""


@attrs.frozen
class Surroundings:
    """What all servers share.

    Attributes:
        note: writes a line into the timeline.
        committed: called after every commit on a disk.
    """

    clock: WorldClock
    network: Network
    seed: int
    directory: Path
    note: Callable[[str], None]
    committed: Callable[[Node, Disk], None]


class Process:
    """One run of a server.

    Args:
        node: which server.
        number: which run of it.
    """

    log = Logger()

    def __init__(self, node: Node, number: int) -> None:
        around = node.around
        self.node = node
        self.name = node.name
        self.distort = node.distort
        self.alive = True
        self.ready = False
        self.running: dict[int, Callable[[], None]] = {}
        self.reactor = ServerReactor(around.clock, node.ahead)
        self.disk = Disk(
            node.database_path,
            self.reactor,
            node.speed,
            Random(f"{around.seed} {node.name} {number} disk"),
            lambda disk: around.committed(node, disk),
            self.dies_at,
        )
        self.transport = _Transport(around.network, self, node.tamper)
        self.server: Server = build_server(
            node.config,
            self.reactor,
            rng=Random(f"{around.seed} {node.name} {number} server"),
            outside=Outside(self.disk, self.transport, StaticRoutes()),
        )
        self.rooms = self.server.rooms

    def start(self) -> None:
        """Start; it is ready a while later, unless its disk does not let it."""

        def started(_: object) -> None:
            self.ready = True

        def failed(failure: Any) -> None:
            self.node.around.note(f"{self.name} does not start: {failure.value!r}")
            self.node.crash()
            self.node.restart_later(10.0)

        Deferred.fromCoroutine(self.server.start()).addCallbacks(started, failed)

    def render(self, request: ArrivedRequest) -> None:
        """Answer a request, if anything listens."""
        site = self.reactor.site
        if site is None:
            request.client_gone()
        else:
            site.router.render(request)

    def dies_at(self, point: str) -> bool:
        """See :meth:`Node.dies_at`."""
        return self.node.dies_at(self, point)

    def kill(self) -> None:
        """The end, at once."""
        self.alive = self.ready = False
        self.reactor.kill()
        self.disk.crash()
        self.node.around.network.died(self)
        running, self.running = self.running, {}
        for lost in running.values():
            lost()


class _Transport(MemoryTransport):
    async def close(self) -> None:
        """Nothing is kept open."""


class Node:
    """A server.

    Args:
        around: what it shares with the others.
        name: its server name.
        localparts: of its users.
        tamper, distort: what it does to the requests that it sends and the answers that it gives, when it is not to be
            trusted.
    """

    def __init__(
        self,
        around: Surroundings,
        name: str,
        localparts: tuple[str, ...],
        tamper: Tamper | None = None,
        distort: Distort | None = None,
    ) -> None:
        self.around = around
        self.name = name
        self.tamper = tamper
        self.distort = distort
        self.users = tuple(f"@{localpart}:{name}" for localpart in localparts)
        self.ahead = 0.0
        self.speed = Speed()
        self.process: Process | None = None
        self.graveyard: list[Process] = []
        self.directory = around.directory / name
        self.directory.mkdir()
        self.database_path = self.directory / "lmatrix.db"
        self._key_rng = Random(f"{around.seed} {name} keys")
        self.config: Config = parse_config(_CONFIG.format(name=name), "lmatrix.yaml", self.directory)
        self._runs = 0
        self._fuse: tuple[int, float] | None = None
        self._restarting = False
        first = SigningKey.generate("first", seed=self._key_rng.randbytes(32))
        self.config.signing_key_path.write_text(first.to_line() + "\n")
        self.config.signing_key_path.chmod(0o600)
        self._register_users()

    @property
    def ready(self) -> Process | None:
        """The process that users can talk to, when there is one."""
        return self.process if self.process is not None and self.process.ready else None

    def start(self) -> None:
        """Start a process."""
        self._restarting = False
        if self.process is not None:
            return
        self._runs += 1
        self.process = Process(self, self._runs)
        self.around.network.processes[self.name] = self.process
        self.around.note(f"{self.name} starts")
        self.process.start()

    def crash(self) -> None:
        """The process is gone, at once."""
        process, self.process = self.process, None
        if process is not None:
            self.around.note(f"{self.name} crashes")
            process.kill()
            self.graveyard.append(process)

    def light_fuse(self, points: int, down: float) -> None:
        """Have the process die at a point of its work, and start again some seconds later.

        Args:
            points: at the how-manieth from now; see :meth:`dies_at`.
            down: the seconds.
        """
        self._fuse = (points, down)

    def put_out_fuse(self) -> None:
        """Let it live."""
        self._fuse = None

    def dies_at(self, process: Process, point: str) -> bool:
        """A process has come to a point at which it may die; whether it did.

        Args:
            point: just before or after a commit, the coming in of a request or of an answer.
        """
        if process is not self.process or self._fuse is None:
            return False
        left, down = self._fuse
        self._fuse = (left - 1, down)
        if left > 1:
            return False
        self._fuse = None
        self.around.note(f"{self.name} dies {point}")
        self.crash()
        self.restart_later(down)
        return True

    def stop(self, then: Callable[[], None]) -> None:
        """Stop in order; ``then`` is called when it is done."""
        process = self.process
        if process is None or not process.ready:
            then()
            return
        process.ready = False
        self.around.note(f"{self.name} stops")

        def stopped(_: object) -> None:
            if self.process is process:
                self.crash()
                then()

        Deferred.fromCoroutine(process.server.stop()).addBoth(stopped)

    def restart_later(self, seconds: float) -> None:
        """Start again after a while."""
        if not self._restarting:
            self._restarting = True
            self.around.clock.callLater(seconds, self.start)

    def set_clock(self, ahead: float) -> None:
        """Its clock is set."""
        self.ahead = ahead
        if self.process is not None:
            self.process.reactor.set_ahead(ahead)

    def rotate_key(self) -> None:
        """What ``lmatrix rotate-key`` does; the server takes notice at its next start, or when it is told to."""
        rotate(self.config, rng=self._key_rng)

    def public_keys(self) -> dict[str, PublicKey]:
        """Every key that this server ever signed with."""
        own = load_own_keys(self.config)
        keys = {key.key_id: PublicKey(key.public.to_base64(), None) for key in own.active}
        for leaving in own.leaving:
            keys[leaving.key_id] = PublicKey(leaving.to_base64(), None)
        for retired in own.retired:
            key = retired.verify_key
            keys[key.key_id] = PublicKey(key.to_base64(), retired.expired_ts)
        return keys

    def _register_users(self) -> None:
        database = InlineDatabase(self.database_path)
        accounts = Stores.create().accounts
        for user_id in self.users:
            database.write(lambda tx, user_id=user_id: accounts.create_user(tx, user_id, "", 0))
        database.close()
