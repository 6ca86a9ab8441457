"""This server's signing keys while it runs.

Owns: reading the key files at start-up and when the administrator has changed them, recording when a key ceased to
sign, and handing the keys, all at once, to everybody who signs with them or shows them.

Invariants: within one turn of the reactor everything is signed with the same keys; a key's end is on disk before the
first thing is signed without it; when the files cannot be used, the keys stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lmatrix.config import Config
from lmatrix.config.files import FileProblem, OwnKeySet, load_own_keys
from lmatrix.config.key_rotation import CLOCK_ALLOWANCE_MS, record_ends
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.federation.own_keys import OwnKeys
from lmatrix.rooms.identity import ServerIdentity


class OwnSigningKeys:
    """The keys of this server.

    Args:
        config: names the files.
        clock: tells the time.

    Attributes:
        identity: for those who sign.
        published: for those who show our keys.

    Raises:
        FileProblem: a file cannot be used.
    """

    _log = Logger()

    def __init__(self, config: Config, clock: IReactorTime) -> None:
        self._config = config
        self._clock = clock
        own = load_own_keys(config)
        self.identity = ServerIdentity(config.server_name, own.active)
        # Until the server really starts, another one may still be signing with the leaving keys.
        self.published = OwnKeys(
            config.server_name,
            own.active,
            (*own.retired, *(RetiredKey(key, self._now_ms() + CLOCK_ALLOWANCE_MS) for key in own.leaving)),
            clock=clock,
        )

    @property
    def key_ids(self) -> Sequence[str]:
        """Of the keys that sign, the first one first."""
        return [key.key_id for key in self.identity.keys]

    def renew(self) -> None:
        """Read the files again and sign with what is in them from now on.

        The files are small, this happens once in years, and nothing may be signed in between: so the reactor waits.

        Raises:
            FileProblem: a file cannot be used; nothing has changed then.
        """
        own = record_ends(self._config, self._now_ms())
        self._warn_of_lost_keys(own)
        self.identity.keys = own.active
        self.published.replace(own.active, own.retired)

    def reload(self) -> None:
        """Like :meth:`renew`, while the server runs: what happened is in the log."""
        before = self.key_ids
        try:
            self.renew()
        except FileProblem as problem:
            self._log.error(
                "the signing keys stay as they are, because they cannot be read again: {problem}", problem=problem
            )
            return
        if self.key_ids != before:
            self._log.info("signing with {keys} from now on", keys=", ".join(self.key_ids))

    def _warn_of_lost_keys(self, own: OwnKeySet) -> None:
        for key_id in set(self.key_ids) - own.key_ids():
            self._log.warn(
                "{key_id} has been taken out of the key file and is not among the retired keys: servers that have not"
                " seen it yet cannot check what it signed",
                key_id=key_id,
            )

    def _now_ms(self) -> int:
        return int(self._clock.seconds() * 1000)
