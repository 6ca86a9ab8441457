"""The operator of a real server: the commands of ``lmatrix``, the admin API, and a look into the database.

Owns: :class:`Operator`. Commands run as processes of their own, as an operator runs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import yaml
from twisted.internet.utils import getProcessOutputAndValue

from lmatrix.storage.beside import reading
from lmatrix.storage.room_log import SqlRoomStore
from tests.end_to_end.processes import RealServer, reactor
from tests.end_to_end.raw_http import Answer, RawHttp
from tests.end_to_end.wire_events import JsonObject, canonical

_MAIN = "import sys; from lmatrix.cli import main; sys.exit(main())"


@attrs.frozen(slots=True)
class Ran:
    """What a command said."""

    status: int
    output: str
    errors: str


class Operator:
    """Whoever runs a server.

    Args:
        server: the server.
        http: carries requests to the admin API.
    """

    def __init__(self, server: RealServer, http: RawHttp) -> None:
        self.server = server
        self._http = http

    @property
    def config(self) -> str:
        """The configuration file."""
        return str(self.server.place.config)

    async def command(self, command: str, *arguments: str) -> Ran:
        """Run ``lmatrix COMMAND CONFIG ARGUMENTS…``."""
        return await run(command, self.config, *arguments)

    async def admin(self, method: str, *segments: str, content: JsonObject | None = None) -> Answer:
        """Make a request to the admin API."""
        token = self.token()
        target = "/_lmatrix/admin/v1" + "".join("/" + quote(segment, safe="") for segment in segments)
        return await self._http.request(
            method,
            self.server.place.client_url,
            target,
            headers={"Authorization": [f"Bearer {token}"]},
            body=None if content is None else canonical(content),
        )

    def token(self) -> str:
        """What the admin API wants to be shown."""
        settings = yaml.safe_load(self.server.place.config.read_text(encoding="utf-8"))
        return Path(settings["admin_token_path"]).read_text(encoding="ascii").strip()

    async def transfer(self, room_id: str, to: RealServer) -> Answer:
        """Ask this server to make another one the hub."""
        return await self.admin("POST", "rooms", room_id, "transfer", content={"server": to.server_name})

    async def room(self, room_id: str) -> Mapping[str, Any]:
        """What the admin API says of a room."""
        answer = await self.admin("GET", "rooms", room_id)
        assert answer.status == 200, answer
        found: Mapping[str, Any] = answer.json
        return found

    def order(self, room_id: str) -> list[str]:
        """The room's events as they lie in the database, in its order."""
        with reading(self.server.place.database) as database:
            events = database.read(lambda tx: SqlRoomStore().events_between(tx, room_id, 0, 2**62, 10**6))
        return [event.event_id for event in events]


async def run(*arguments: str) -> Ran:
    """Run a command line of ``lmatrix``."""
    command = ["-c", _MAIN, *arguments]
    output, errors, status = await getProcessOutputAndValue(sys.executable, command, env=os.environ, reactor=reactor)
    return Ran(status, output.decode(), errors.decode())
